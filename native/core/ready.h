/* Notice within a fraction of a millisecond that somebody listens on a Unix socket. */
#ifndef SNAPSTART_READY_H
#define SNAPSTART_READY_H

#include "deadline.h"

/* Wait until @path accepts a connection and its first inject message, CAPABILITIES, has arrived.
 *
 * No ticker while the socket does not exist: inotify on its directory tells. Between bind and listen,
 * which nothing announces, and while a stale file is in the way, the connect is repeated after 20 us,
 * growing to 1 ms (10 ms once that has lasted 100 ms). The message is only looked at, never taken out of the socket.
 * @path: its last component has at most 80 bytes; the directory may be arbitrarily deep.
 * Returns 0 with a connected, non-blocking descriptor owned by the caller, -ENOENT if the directory
 * does not exist, -ENAMETOOLONG, -EPROTO if the first message is not CAPABILITIES of version "1",
 * -ETIMEDOUT, -ECANCELED, or another negative errno of connect(2). */
int ready_wait(const char *path, const struct limits *lim, int *ret_fd);

#endif
