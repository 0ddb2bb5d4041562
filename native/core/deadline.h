/* Every wait ends: at the caller's deadline, or when the caller cancels. */
#ifndef SNAPSTART_DEADLINE_H
#define SNAPSTART_DEADLINE_H

#include <poll.h>
#include <stdint.h>

#define NS_PER_S INT64_C(1000000000)

/* How long a call may take. Passed by pointer through every function that can block. */
struct limits {
        int64_t deadline_ns; /* absolute, CLOCK_MONOTONIC */
        int cancel_fd;       /* borrowed; readable means "cancelled"; negative means none */
};

/* Returns the time of CLOCK_MONOTONIC in nanoseconds. */
int64_t now_ns(void);

/* Wait until one of @fds is ready.
 * @fds: @n entries of the caller and one more, which this function overwrites with cancel_fd.
 * @until_ns: an earlier absolute time at which to return 0; INT64_MAX for none.
 * A signal restarts the wait.
 * Returns the number of ready entries of the caller (> 0), 0 at @until_ns, -ECANCELED, -ETIMEDOUT
 * at the deadline, or another negative errno of ppoll(2). */
int limits_poll(const struct limits *lim, struct pollfd *fds, nfds_t n, int64_t until_ns);

/* Wait until @fd shows one of @events (or an error condition).
 * Returns the events shown (> 0), -ECANCELED, -ETIMEDOUT, or another negative errno. */
int limits_wait(const struct limits *lim, int fd, short events);

/* Returns 0 while the call may go on, -ECANCELED or -ETIMEDOUT when it may not. */
int limits_check(const struct limits *lim);

#endif
