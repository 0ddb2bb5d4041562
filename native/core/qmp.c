#define _GNU_SOURCE
#include "qmp.h"

#include <errno.h>
#include <stdio.h>

static void member_text(struct json object, const char *path, char *buffer, size_t capacity)
{
        struct json value;

        buffer[0] = '\0';
        if (json_find(object, path, &value) == 0)
                json_text(value, buffer, capacity);
}

int qmp_decode(const char *line, size_t length, struct qmp_message *ret_message)
{
        struct qmp_message message = { .id = -1 };
        struct json value;

        if (json_parse(line, length, &message.body) < 0)
                return -EPROTO;
        if (json_find(message.body, "id", &value) == 0 && json_integer(value, &message.id) < 0)
                return -EPROTO;
        if (json_find(message.body, "event", &value) == 0) {
                message.kind = QMP_EVENT;
                json_text(value, message.event, sizeof(message.event));
                member_text(message.body, "data.status", message.status, sizeof(message.status));
        } else if (json_find(message.body, "error", &value) == 0) {
                message.kind = QMP_ERROR;
                member_text(value, "class", message.error_class, sizeof(message.error_class));
                member_text(value, "desc", message.error_desc, sizeof(message.error_desc));
        } else if (json_find(message.body, "return", &value) == 0) {
                message.kind = QMP_RETURN;
        } else if (json_find(message.body, "QMP", &value) == 0) {
                message.kind = QMP_GREETING;
        } else {
                return -EPROTO;
        }
        *ret_message = message;
        return 0;
}

static int next_message(struct line_client *client, const struct limits *lim, struct qmp_message *ret_message)
{
        const char *line;
        ssize_t length = line_client_read(client, lim, &line);

        if (length < 0)
                return (int)length;
        return qmp_decode(line, (size_t)length, ret_message);
}

int qmp_negotiate(struct line_client *client, const struct limits *lim, struct qmp_failure *failure)
{
        struct qmp_message message;
        int r = next_message(client, lim, &message);

        if (r < 0)
                return r;
        if (message.kind != QMP_GREETING)
                return -EPROTO;
        return qmp_execute(client, "qmp_capabilities", NULL, 0, -1, lim, NULL, NULL, failure, NULL);
}

static int send_command(struct line_client *client, const char *command, const char *arguments, int64_t id, int pass_fd, const struct limits *lim)
{
        char line[1024];
        int n = snprintf(line, sizeof(line), "{\"execute\":\"%s\",\"id\":%lld%s%s}\n", command, (long long)id,
                         arguments ? ",\"arguments\":" : "", arguments ? arguments : "");

        if (n < 0 || (size_t)n >= sizeof(line))
                return -EMSGSIZE;
        return line_client_send(client, line, (size_t)n, pass_fd, lim);
}

int qmp_execute(struct line_client *client, const char *command, const char *arguments, int64_t id, int pass_fd,
                const struct limits *lim, void (*on_event)(const struct qmp_message *, void *), void *context,
                struct qmp_failure *failure, struct qmp_message *ret_message)
{
        struct qmp_message message;
        int r = send_command(client, command, arguments, id, pass_fd, lim);

        while (r == 0) {
                r = next_message(client, lim, &message);
                if (r < 0)
                        break;
                if (message.kind == QMP_EVENT) {
                        if (on_event)
                                on_event(&message, context);
                        continue;
                }
                if (message.kind == QMP_GREETING || message.id != id)
                        return -EPROTO;
                if (message.kind == QMP_ERROR) {
                        snprintf(failure->text, sizeof(failure->text), "%s: %s: %s", command, message.error_class, message.error_desc);
                        return -EREMOTEIO;
                }
                if (ret_message)
                        *ret_message = message;
                return 0;
        }
        return r;
}

int qmp_next_event(struct line_client *client, const struct limits *lim, struct qmp_message *ret_message)
{
        struct qmp_message message;
        int r;

        do {
                r = next_message(client, lim, &message);
                if (r < 0)
                        return r;
        } while (message.kind != QMP_EVENT);
        *ret_message = message;
        return 0;
}
