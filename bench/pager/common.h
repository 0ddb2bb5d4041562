/* What the programs of this benchmark share: the clock, the trace, the userfaultfd's hand-over.
 *
 * They are measuring tools that end when anything is wrong: fail() says what, exit status 1. */
#ifndef SNAPSTART_BENCH_PAGER_COMMON_H
#define SNAPSTART_BENCH_PAGER_COMMON_H

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PAGE ((size_t)4096)

/* One touch of the guest. */
struct touch {
        uint32_t page;
        bool is_write;
        bool is_zero; /* the page holds zeros in the image */
};

struct trace {
        struct touch *touches;
        size_t n;
};

__attribute__((noreturn, format(printf, 1, 2))) static inline void fail(const char *format, ...)
{
        int saved = errno;
        va_list args;

        va_start(args, format);
        vfprintf(stderr, format, args);
        va_end(args);
        fprintf(stderr, " (errno %d: %s)\n", saved, strerror(saved));
        exit(1);
}

static inline int64_t now_ns(void)
{
        struct timespec at;

        clock_gettime(CLOCK_MONOTONIC, &at);
        return at.tv_sec * INT64_C(1000000000) + at.tv_nsec;
}

/* Read a trace: a line for each touch, "PAGE r|w d|z": read or write, data or zeros in the image. */
static inline struct trace read_trace(const char *path)
{
        FILE *file = fopen(path, "re");
        struct trace trace = {0};
        size_t room = 0;
        char how, what;
        unsigned page;

        if (!file)
                fail("cannot open the trace %s", path);
        while (fscanf(file, "%u %c %c", &page, &how, &what) == 3) {
                if (trace.n == room) {
                        room = room ? 2 * room : 4096;
                        trace.touches = realloc(trace.touches, room * sizeof(*trace.touches));
                        if (!trace.touches)
                                fail("no memory for the trace");
                }
                trace.touches[trace.n++] = (struct touch){page, how == 'w', what == 'z'};
        }
        if (!feof(file))
                fail("the trace %s has a line that is none", path);
        fclose(file);
        return trace;
}

static inline struct sockaddr_un unix_address(const char *path)
{
        struct sockaddr_un where = {.sun_family = AF_UNIX};

        if (strlen(path) >= sizeof(where.sun_path))
                fail("%s is too long for a socket", path);
        strcpy(where.sun_path, path);
        return where;
}

/* Send @text with the @n_fds descriptors at @fds in one message. */
static inline void send_fds(int sock, const char *text, const int *fds, size_t n_fds)
{
        char control[CMSG_SPACE(2 * sizeof(int))] = {0};
        struct iovec iov = {.iov_base = (void *)text, .iov_len = strlen(text)};
        struct msghdr message = {.msg_iov = &iov,
                                 .msg_iovlen = 1,
                                 .msg_control = control,
                                 .msg_controllen = CMSG_SPACE(n_fds * sizeof(int))};
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message);

        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(cmsg), fds, n_fds * sizeof(int));
        if (sendmsg(sock, &message, MSG_NOSIGNAL) != (ssize_t)iov.iov_len)
                fail("the hand-over was not sent");
}

/* Receive a message; its first descriptor is @ret_fd, others are closed. @text: NUL-ended. */
static inline void receive_fd(int sock, char *text, size_t size, int *ret_fd)
{
        char control[CMSG_SPACE(2 * sizeof(int))];
        struct iovec iov = {.iov_base = text, .iov_len = size - 1};
        struct msghdr message = {.msg_iov = &iov,
                                 .msg_iovlen = 1,
                                 .msg_control = control,
                                 .msg_controllen = sizeof(control)};
        ssize_t got = recvmsg(sock, &message, MSG_CMSG_CLOEXEC);
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message);
        int fds[2];
        size_t n;

        if (got <= 0 || !cmsg || cmsg->cmsg_type != SCM_RIGHTS)
                fail("no userfaultfd was handed over");
        n = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(fds, CMSG_DATA(cmsg), n * sizeof(int));
        for (size_t i = 1; i < n; i++)
                close(fds[i]);
        text[got] = '\0';
        *ret_fd = fds[0];
}

#endif
