#define _GNU_SOURCE
#include "ready.h"

#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "fdutil.h"
#include "json_scan.h"
#include "mux.h"
#include "watch.h"

#define NAME_MAX_BYTES 80
#define CAPABILITIES_MAX_BYTES 4096
#define FIRST_PAUSE_NS INT64_C(20000)
#define SHORT_PAUSE_NS INT64_C(1000000)
#define LONG_PAUSE_NS INT64_C(10000000)
#define EAGER_NS INT64_C(100000000)

struct waiter {
        const struct limits *lim;
        struct sockaddr_un address;
        int directory_fd;   /* owned */
        struct watch watch; /* owned: on the directory */
        int64_t eager_until_ns, pause_ns;
};

static void waiter_close(struct waiter *w)
{
        w->directory_fd = close_fd(w->directory_fd);
        watch_close(&w->watch);
}

static void be_eager(struct waiter *w)
{
        w->pause_ns = FIRST_PAUSE_NS;
        w->eager_until_ns = now_ns() + EAGER_NS;
}

/* Address the socket through its directory's descriptor, so that only the name has to fit. */
static int waiter_open(struct waiter *w, const char *path, const struct limits *lim)
{
        const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
        char directory[PATH_MAX], watched[40];
        size_t n = slash ? (size_t)(slash - path) + 1 : 2;
        int r;

        *w = (struct waiter){ .lim = lim, .address.sun_family = AF_UNIX, .directory_fd = FD_NONE, .watch = { FD_NONE, -1 } };
        if (!*name)
                return -EINVAL;
        if (n >= sizeof(directory) || strlen(name) > NAME_MAX_BYTES)
                return -ENAMETOOLONG;
        memcpy(directory, slash ? path : "./", n);
        directory[n] = '\0';
        w->directory_fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (w->directory_fd < 0)
                return -errno;
        snprintf(watched, sizeof(watched), "/proc/self/fd/%d", w->directory_fd);
        snprintf(w->address.sun_path, sizeof(w->address.sun_path), "%s/%s", watched, name);
        r = watch_open(&w->watch, watched);
        be_eager(w);
        return r;
}

/* Sleep until the directory changes, or until it is worth trying again if @is_bound. */
static int pause_until_change(struct waiter *w, bool is_bound)
{
        struct pollfd fds[2] = { { .fd = w->watch.fd, .events = POLLIN } };
        int r = limits_poll(w->lim, fds, 1, is_bound ? now_ns() + w->pause_ns : INT64_MAX);

        if (r < 0)
                return r;
        if (r > 0) {
                watch_drain(&w->watch);
                be_eager(w);
                return 0;
        }
        w->pause_ns *= 2;
        if (w->pause_ns > SHORT_PAUSE_NS)
                w->pause_ns = now_ns() < w->eager_until_ns ? SHORT_PAUSE_NS : LONG_PAUSE_NS;
        return 0;
}

/* Returns 0 with a connected descriptor, or a negative errno. */
static int connect_once(const struct waiter *w, int *ret_fd)
{
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        if (fd < 0)
                return -errno;
        while (connect(fd, (const struct sockaddr *)&w->address, sizeof(w->address)) < 0)
                if (errno != EINTR)
                        return -errno;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int connect_when_bound(struct waiter *w, int *ret_fd)
{
        for (;;) {
                int r = connect_once(w, ret_fd);

                if (r != -ENOENT && r != -ECONNREFUSED && r != -EAGAIN)
                        return r;
                r = pause_until_change(w, r != -ENOENT);
                if (r < 0)
                        return r;
        }
}

static int check_capabilities(const char *text, size_t length)
{
        struct json body;

        if (json_parse(text, length, &body) < 0 || !json_member_is(body, "type", "CAPABILITIES") ||
            !json_member_is(body, "protocol_version", "1"))
                return -EPROTO;
        return 0;
}

/* Look at the first message without taking it. Returns 0, -EAGAIN if it is not whole, -ECONNRESET,
 * -EPROTO. */
static int peek_capabilities(int fd)
{
        uint8_t bytes[4 + CAPABILITIES_MAX_BYTES];
        ssize_t got = recv(fd, bytes, sizeof(bytes), MSG_PEEK | MSG_DONTWAIT);
        uint32_t length;

        if (got < 0)
                return errno == EINTR ? -EAGAIN : -errno;
        if (got == 0)
                return -ECONNRESET;
        if (got < 4)
                return -EAGAIN;
        length = mux_get_be32(bytes);
        if (length > CAPABILITIES_MAX_BYTES)
                return -EPROTO;
        return (size_t)got - 4 < length ? -EAGAIN : check_capabilities((const char *)bytes + 4, length);
}

static int wait_for_capabilities(const struct limits *lim, int fd)
{
        int64_t pause_ns = FIRST_PAUSE_NS;
        int r = limits_wait(lim, fd, POLLIN);

        if (r < 0)
                return r;
        for (;;) {
                struct pollfd none[1];

                r = peek_capabilities(fd);
                if (r != -EAGAIN)
                        return r;
                r = limits_poll(lim, none, 0, now_ns() + pause_ns); /* a torn message: poll(2) would not sleep */
                if (r < 0)
                        return r;
                pause_ns = pause_ns < SHORT_PAUSE_NS ? 2 * pause_ns : SHORT_PAUSE_NS;
        }
}

int ready_wait(const char *path, const struct limits *lim, int *ret_fd)
{
        __attribute__((cleanup(waiter_close))) struct waiter w;
        _cleanup_close_ int fd = FD_NONE;
        int r = waiter_open(&w, path, lim);

        for (;;) {
                if (r == 0)
                        r = connect_when_bound(&w, &fd);
                if (r == 0)
                        r = wait_for_capabilities(lim, fd);
                if (r != -ECONNRESET)
                        break;
                fd = close_fd(fd); /* the listener died between accept and its first message */
                r = pause_until_change(&w, true);
        }
        if (r < 0)
                return r;
        *ret_fd = TAKE_FD(fd);
        return 0;
}
