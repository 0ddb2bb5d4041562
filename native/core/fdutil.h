/* Ownership of file descriptors: who closes what, said in the type of the variable.
 *
 * A descriptor is a field of exactly one struct or a local marked _cleanup_close_; -EBADF means
 * "none". Moving it out with TAKE_FD leaves "none" behind. */
#ifndef SNAPSTART_FDUTIL_H
#define SNAPSTART_FDUTIL_H

#include <errno.h>
#include <unistd.h>

#define FD_NONE (-EBADF)

/* Close @fd if it is one, keeping errno. EINTR is not retried: the descriptor is gone on Linux.
 * Returns the value of a closed descriptor, for `fd = close_fd(fd)`. */
static inline int close_fd(int fd)
{
        if (fd >= 0) {
                int saved = errno;
                close(fd);
                errno = saved;
        }
        return FD_NONE;
}

static inline void close_fd_at(int *fd)
{
        *fd = close_fd(*fd);
}

#define _cleanup_close_ __attribute__((cleanup(close_fd_at)))

#define TAKE_FD(fd)                      \
        __extension__({                  \
                int *take_fd_at = &(fd); \
                int taken = *take_fd_at; \
                *take_fd_at = FD_NONE;   \
                taken;                   \
        })

#endif
