/* A stand-in for the VMM and the guest in it: speaks QMP on one inherited listening descriptor and
 * the guest protocol on another, so that the fork can be tested, above all where things go wrong.
 *
 * Usage: standin_vmm QMP_FD CHANNEL_FD FAULT [LOG]
 * FAULT names what goes wrong ("none" for nothing); LOG is a file for the inject messages received,
 * one a line. It is a test program: it dies of any surprise. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "mux.h"

static const char *fault;
static int log_fd = -1;

static bool is_fault(const char *name)
{
        return strcmp(fault, name) == 0;
}

static void put(int fd, const void *bytes, size_t n)
{
        const char *at = bytes;

        while (n > 0) {
                ssize_t sent = send(fd, at, n, MSG_NOSIGNAL);
                if (sent < 0)
                        exit(90);
                at += sent;
                n -= (size_t)sent;
        }
}

static void put_line(int fd, const char *line)
{
        put(fd, line, strlen(line));
        put(fd, "\r\n", 2);
}

static bool get(int fd, void *bytes, size_t n)
{
        char *at = bytes;

        while (n > 0) {
                ssize_t got = recv(fd, at, n, 0);
                if (got <= 0)
                        return false;
                at += got;
                n -= (size_t)got;
        }
        return true;
}

static void get_line(int fd, char *line, size_t capacity)
{
        size_t n = 0;

        while (n + 1 < capacity && get(fd, line + n, 1) && line[n] != '\n')
                n++;
        line[n] = '\0';
}

static void hang(void)
{
        for (;;)
                pause();
}

static void flood(int fd, const char *text)
{
        for (;;)
                put(fd, text, strlen(text));
}

static void serve_qmp(int listening)
{
        int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
        char line[4096];

        if (is_fault("silent_monitor"))
                hang();
        if (is_fault("qmp_garbage"))
                put_line(fd, "this is not JSON");
        if (is_fault("qmp_long_line"))
                flood(fd, "xxxxxxxxxxxxxxxx");
        put_line(fd, "{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}");
        if (is_fault("qmp_flood"))
                flood(fd, "{\"event\": \"NOISE\", \"data\": {}}\r\n");
        if (is_fault("qmp_hangup")) {
                close(fd);
                hang();
        }
        if (is_fault("boots")) /* a cold boot: nobody commands anything */
                return;
        for (int i = 0; i < 3; i++) {
                get_line(fd, line, sizeof(line));
                if (is_fault("qmp_error") && i == 1)
                        put_line(fd, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no \\u201cx\\u201d\"}, \"id\": 2}");
                put_line(fd, "{\"return\": {}, \"id\": 1}");
        }
        put_line(fd, "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"setup\"}}");
        put_line(fd, "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"active\"}}");
        if (is_fault("migration_failed")) {
                put_line(fd, "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"failed\"}}");
                exit(1);
        }
        if (is_fault("never_loaded"))
                hang();
        if (!is_fault("never_resumes"))
                put_line(fd, "{\"event\": \"RESUME\"}");
        put_line(fd, "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"completed\"}}");
        put(fd, "{\"event\": \"LATER\"", 17); /* half a line, for the next owner of the monitor */
        if (is_fault("never_resumes"))
                hang();
}

static void put_frame(int fd, enum mux_type type, uint32_t stream, const void *payload, size_t n)
{
        uint8_t header[MUX_HEADER_BYTES];

        mux_header(header, type, stream, (uint32_t)n);
        put(fd, header, sizeof(header));
        put(fd, payload, n);
}

static void put_message(int fd, const char *text)
{
        uint8_t prefix[4];

        mux_put_be32(prefix, (uint32_t)strlen(text));
        for (int i = 0; i < 4; i++)
                put_frame(fd, MUX_DATA, 1, prefix + i, 1);
        put_frame(fd, MUX_DATA, 1, text, strlen(text));
}

/* Bytes that an earlier host's guest left in the channel, the last frame torn. */
static void put_leftovers(int fd)
{
        put(fd, "torn", 4);
        put(fd, mux_marker, MUX_MARKER_BYTES);
        put_frame(fd, MUX_HELLO_ACK, 0, "0123456789abcdef", MUX_EPOCH_BYTES);
        put_frame(fd, MUX_DATA, 1, "\0\0\0\2{}", 6);
        put(fd, "SF\4\0\0\0", 6);
}

static uint8_t payload[MUX_MAX_PAYLOAD];

/* Read one frame. Returns its payload length. */
static size_t get_frame(int fd, enum mux_type *ret_type)
{
        uint8_t header[MUX_HEADER_BYTES];
        size_t n;

        if (!get(fd, header, sizeof(header)))
                exit(91);
        n = mux_get_be32(header + 8);
        if (header[0] != 'S' || header[1] != 'F' || n > sizeof(payload) || !get(fd, payload, n))
                exit(92);
        *ret_type = (enum mux_type)header[2];
        return n;
}

static void give_credit(int fd, size_t n)
{
        uint8_t credit[4];

        mux_put_be32(credit, (uint32_t)n);
        put_frame(fd, MUX_WINDOW, 1, credit, sizeof(credit));
}

static void get_message(int fd)
{
        static char message[5 * 1024 * 1024];
        size_t have = 0, want = 4;
        enum mux_type type;

        while (have < want) {
                size_t n = get_frame(fd, &type);
                if (type != MUX_DATA)
                        continue;
                memcpy(message + have, payload, n);
                have += n;
                give_credit(fd, n);
                if (have >= 4)
                        want = 4 + (size_t)mux_get_be32((uint8_t *)message);
        }
        if (log_fd >= 0 && (write(log_fd, message + 4, want - 4) < 0 || write(log_fd, "\n", 1) < 0))
                exit(93);
}

static void greet(int fd)
{
        uint8_t marker[MUX_MARKER_BYTES], epoch[MUX_EPOCH_BYTES];
        enum mux_type type;

        if (!get(fd, marker, sizeof(marker)) || memcmp(marker, mux_marker, sizeof(marker)) != 0)
                exit(94);
        get_frame(fd, &type);
        memcpy(epoch, payload, sizeof(epoch));
        if (type != MUX_HELLO)
                exit(95);
        if (is_fault("no_hello_ack"))
                hang();
        if (is_fault("wrong_epoch")) {
                epoch[0] ^= 1;
                put(fd, mux_marker, MUX_MARKER_BYTES);
                put_frame(fd, MUX_HELLO_ACK, 0, epoch, sizeof(epoch));
                hang();
        }
        put_leftovers(fd);
        put(fd, mux_marker, MUX_MARKER_BYTES / 2);
        put(fd, mux_marker + MUX_MARKER_BYTES / 2, MUX_MARKER_BYTES / 2);
        put_frame(fd, MUX_HELLO_ACK, 0, epoch, sizeof(epoch));
        get_frame(fd, &type);
        if (type != MUX_OPEN)
                exit(96);
}

static void misbehave(int fd)
{
        static const uint8_t huge[] = { 'S', 'F', MUX_DATA, 0, 0, 0, 0, 1, 0xff, 0, 0, 0 };

        if (is_fault("channel_garbage"))
                put(fd, "complete nonsense", 17);
        if (is_fault("oversize_frame"))
                put(fd, huge, sizeof(huge));
        if (is_fault("oversize_message"))
                put_frame(fd, MUX_DATA, 1, "\x00\x40\x00\x01", 4);
        if (is_fault("empty_message"))
                put_frame(fd, MUX_DATA, 1, "\0\0\0\0", 4);
        if (is_fault("bad_json"))
                put_message(fd, "{\"type\":\"CAPABILITIES\",}");
        if (is_fault("wrong_type"))
                put_message(fd, "{\"type\":\"STARTED\"}");
        if (is_fault("wrong_version"))
                put_message(fd, "{\"type\":\"CAPABILITIES\",\"protocol_version\":\"2\"}");
        if (is_fault("gate_open"))
                put_frame(fd, MUX_RESET, 1, "{\"code\":\"gate_open\"}", 20);
        if (is_fault("stream_closed"))
                put_frame(fd, MUX_CLOSE, 1, NULL, 0);
        if (is_fault("resync"))
                put(fd, mux_marker, MUX_MARKER_BYTES);
        if (is_fault("channel_flood"))
                for (;;)
                        put_frame(fd, MUX_DATA, 7, payload, sizeof(payload));
        if (is_fault("half_frame_then_exit")) {
                put(fd, "SF\4\0\0", 5);
                exit(3);
        }
        if (is_fault("channel_hangup")) {
                close(fd);
                hang();
        }
        if (is_fault("killed"))
                raise(SIGKILL);
}

static void serve_guest(int listening)
{
        int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC);

        greet(fd);
        misbehave(fd);
        put_message(fd, "{\"type\":\"CAPABILITIES\",\"protocol_version\":\"1\",\"supported_features\":[\"prepare\"]}");
        get_message(fd);
        if (is_fault("reject"))
                put_message(fd, "{\"type\":\"REJECT\",\"reason\":\"invalid_task_id\",\"message\":\"who?\"}");
        if (is_fault("silent_after_prepare"))
                hang();
        put_message(fd, "{\"type\":\"READY\",\"unknown\":[1,2]}");
        get_message(fd);
        if (is_fault("silent_after_commit"))
                hang();
        if (is_fault("exit_after_commit"))
                exit(7);
        put_message(fd, "{\"type\":\"STARTED\"}");
        put_frame(fd, MUX_CLOSE, 1, NULL, 0);
        hang();
}

int main(int argc, char **argv)
{
        if (argc < 4)
                return 2;
        fault = argv[3];
        if (argc > 4)
                log_fd = open(argv[4], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (is_fault("exit_at_start"))
                return 1;
        if (is_fault("hang_at_start"))
                hang();
        serve_qmp(atoi(argv[1]));
        serve_guest(atoi(argv[2]));
        return 0;
}
