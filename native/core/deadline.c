#define _GNU_SOURCE
#include "deadline.h"

#include <errno.h>
#include <time.h>

int64_t now_ns(void)
{
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail for this clock and a valid pointer */
        return (int64_t)ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

int limits_poll(const struct limits *lim, struct pollfd *fds, nfds_t n, int64_t until_ns)
{
        int64_t end_ns = until_ns < lim->deadline_ns ? until_ns : lim->deadline_ns;

        fds[n] = (struct pollfd){ .fd = lim->cancel_fd, .events = POLLIN };
        for (;;) {
                int64_t left_ns = end_ns - now_ns();
                struct timespec ts = { 0, 0 };
                int ready;

                if (left_ns > 0)
                        ts = (struct timespec){ left_ns / NS_PER_S, left_ns % NS_PER_S };
                ready = ppoll(fds, n + 1, &ts, NULL);
                if (ready < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                if (fds[n].revents)
                        return -ECANCELED;
                if (now_ns() >= lim->deadline_ns)
                        return -ETIMEDOUT; /* also when ready: a peer that floods must not keep us */
                if (ready > 0 || left_ns <= 0)
                        return ready;
        }
}

int limits_wait(const struct limits *lim, int fd, short events)
{
        struct pollfd fds[2] = { { .fd = fd, .events = events } };
        int r = limits_poll(lim, fds, 1, INT64_MAX);

        return r < 0 ? r : fds[0].revents;
}

int limits_check(const struct limits *lim)
{
        struct pollfd fds[1];

        return limits_poll(lim, fds, 0, 0);
}
