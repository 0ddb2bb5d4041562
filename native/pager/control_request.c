#define _GNU_SOURCE
#include "control_request.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "deadline.h"

#define WAIT_MAX_S 86400
#define NAME_BYTES 32

int request_text(struct json request, const char *name, bool is_needed, char *buffer, size_t capacity)
{
        struct json value;
        int r = json_find(request, name, &value);
        ssize_t n;

        buffer[0] = '\0';
        if (r == -ENOENT && !is_needed)
                return 0;
        if (r)
                return -EBADMSG;
        n = json_string(value, buffer, capacity);
        return n < 0 || strlen(buffer) != (size_t)n ? -EBADMSG : 0;
}

int request_vm(struct json request, char *ret_vm)
{
        static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";

        if (request_text(request, "vm", true, ret_vm, JOURNAL_ID_BYTES) || !ret_vm[0] || ret_vm[0] == '.')
                return -EBADMSG;
        return strspn(ret_vm, allowed) == strlen(ret_vm) ? 0 : -EBADMSG;
}

static int digit(char c)
{
        return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int read_digest(const char *text, uint8_t *ret_digest)
{
        if (strlen(text) != (size_t)2 * WORKING_SET_DIGEST_BYTES)
                return -EBADMSG;
        for (int i = 0; i < WORKING_SET_DIGEST_BYTES; i++) {
                int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);

                if (high < 0 || low < 0)
                        return -EBADMSG;
                ret_digest[i] = (uint8_t)(high * 16 + low);
        }
        return 0;
}

static int read_protocol(struct json request, enum handshake_protocol *ret_protocol)
{
        char name[NAME_BYTES];

        if (request_text(request, "protocol", true, name, sizeof(name)))
                return -EBADMSG;
        if (strcmp(name, "firecracker") == 0)
                *ret_protocol = HANDSHAKE_FIRECRACKER;
        else if (strcmp(name, "memfd") == 0)
                *ret_protocol = HANDSHAKE_MEMFD;
        else
                return -EBADMSG;
        return 0;
}

static bool is_path(const char *path, bool is_needed)
{
        return path[0] == '/' || (!is_needed && path[0] == '\0');
}

const char *request_order(struct json request, struct machine_order *order)
{
        char digest[2 * WORKING_SET_DIGEST_BYTES + 1];
        struct json value;
        int64_t uid = 0;

        if (request_vm(request, order->vm))
                return "vm: 1 to 127 of letters, digits, '_', '-', '.', not beginning with '.'";
        if (read_protocol(request, &order->protocol))
                return "protocol: \"firecracker\" or \"memfd\"";
        if (request_text(request, "socket", true, order->socket, sizeof(order->socket)) || !is_path(order->socket, true))
                return "socket: a full path of at most 107 bytes";
        if (request_text(request, "image", false, order->image, sizeof(order->image)) ||
            !is_path(order->image, order->protocol != HANDSHAKE_MEMFD))
                return "image: the full path of a file; only memfd may leave it out";
        if (order->protocol == HANDSHAKE_MEMFD && order->image[0])
                return "image: comes with the hand-over for memfd";
        if (request_text(request, "digest", true, digest, sizeof(digest)) || read_digest(digest, order->digest))
                return "digest: 64 hexadecimal digits";
        if (request_text(request, "working_set", false, order->working_set, sizeof(order->working_set)) ||
            !is_path(order->working_set, false))
                return "working_set: a full path, or empty";
        if (request_text(request, "record", false, order->record, sizeof(order->record)) ||
            !is_path(order->record, false))
                return "record: a full path, or empty";
        if (json_find(request, "uid", &value) == 0 && (json_integer(value, &uid) || uid < 0 || uid >= UINT32_MAX))
                return "uid: a user id";
        order->uid = (uid_t)uid;
        return NULL;
}

int control_parse_order(const char *text, size_t length, struct machine_order *ret_order, const char **ret_why)
{
        struct machine_order order = {0};
        struct json request;

        *ret_why = "it is no JSON object";
        if (json_parse(text, length, &request) || request.text[0] != '{')
                return -EBADMSG;
        *ret_why = request_order(request, &order);
        if (*ret_why)
                return -EBADMSG;
        *ret_order = order;
        return 0;
}

int request_seconds(struct json request, const char *name, double *ret_seconds)
{
        char text[32], *end;
        struct json value;
        double seconds;

        if (json_find(request, name, &value) || value.length >= sizeof(text) || value.text[0] == '"')
                return -EBADMSG;
        memcpy(text, value.text, value.length);
        text[value.length] = '\0';
        seconds = strtod(text, &end);
        if (*end || !isfinite(seconds) || seconds < 0 || seconds > WAIT_MAX_S)
                return -EBADMSG;
        *ret_seconds = seconds;
        return 0;
}

static const char *read_flag(struct json request, const char *name, bool *ret_flag)
{
        struct json value;
        int r = json_find(request, name, &value);

        *ret_flag = r == 0 && value.length == 4 && memcmp(value.text, "true", 4) == 0;
        if (r == -ENOENT || *ret_flag || (r == 0 && value.length == 5 && memcmp(value.text, "false", 5) == 0))
                return NULL;
        return "demand_only, resume: true or false";
}

const char *request_offload(struct json request, struct offload_order *order)
{
        char digest[2 * WORKING_SET_DIGEST_BYTES + 1];
        struct json value;
        int64_t uid = 0;

        if (request_vm(request, order->vm))
                return "vm: 1 to 127 of letters, digits, '_', '-', '.', not beginning with '.'";
        if (request_text(request, "socket", true, order->socket, sizeof(order->socket)) || !is_path(order->socket, true))
                return "socket: a full path of at most 107 bytes";
        if (request_text(request, "image", true, order->image, sizeof(order->image)) || !is_path(order->image, true) ||
            request_text(request, "config", true, order->config, sizeof(order->config)) ||
            !is_path(order->config, true) || request_text(request, "state", true, order->state, sizeof(order->state)) ||
            !is_path(order->state, true))
                return "image, config, state: full paths of files";
        if (json_find(request, "uid", &value) == 0 && (json_integer(value, &uid) || uid < 0 || uid >= UINT32_MAX))
                return "uid: a user id";
        order->uid = (uid_t)uid;
        if (order->is_save)
                return NULL;
        if (request_text(request, "digest", true, digest, sizeof(digest)) || read_digest(digest, order->digest))
                return "digest: 64 hexadecimal digits";
        if (request_text(request, "working_set", false, order->working_set, sizeof(order->working_set)) ||
            !is_path(order->working_set, false) ||
            request_text(request, "record", false, order->record, sizeof(order->record)) ||
            !is_path(order->record, false))
                return "working_set, record: full paths, or empty";
        return read_flag(request, "demand_only", &order->demand_only)
                       ? "demand_only: true or false"
                       : read_flag(request, "resume", &order->resume);
}
