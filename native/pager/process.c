#define _GNU_SOURCE
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fdutil.h"

int process_start_ticks(int pid, uint64_t *ret_ticks)
{
        char path[64], text[1024];
        const char *after;
        uint64_t ticks;
        ssize_t n;

        snprintf(path, sizeof(path), "/proc/%d/stat", pid);
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return errno == ENOENT ? -ESRCH : -errno;
        n = read(fd, text, sizeof(text) - 1);
        if (n < 0)
                return -errno;
        text[n] = '\0';
        /* The name in parentheses may hold anything: fields are counted from the last one on. */
        after = strrchr(text, ')');
        if (!after || sscanf(after, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d "
                                    "%*d %" SCNu64,
                             &ticks) != 1)
                return -EBADMSG;
        *ret_ticks = ticks;
        return 0;
}

int process_open(int pid, uint64_t start_ticks)
{
        _cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        uint64_t ticks;

        if (pidfd < 0)
                return errno == EINVAL ? -ESRCH : -errno;
        /* With the pidfd in hand the number cannot change its meaning any more. */
        if (process_start_ticks(pid, &ticks) || ticks != start_ticks)
                return -ESRCH;
        return TAKE_FD(pidfd);
}

void kill_process(int pidfd)
{
        if (pidfd >= 0)
                syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
}

int process_end(int pidfd, int patience_ms)
{
        struct pollfd gone = {.fd = pidfd, .events = POLLIN};

        kill_process(pidfd);
        return poll(&gone, 1, patience_ms) > 0 ? 0 : -ETIMEDOUT;
}
