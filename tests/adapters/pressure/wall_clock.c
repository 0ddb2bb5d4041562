/* Add to the wall clock of a process, and of no other, what a file says: to be preloaded (ld.so(8)).
 *
 * The file, named by WALL_CLOCK_FILE, holds seconds as one 64-bit number, and may change at any time.
 * libfaketime does more, and fails clock_nanosleep(2) with EINVAL, which Python sleeps by. */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *added_s;

__attribute__((constructor)) static void open_file(void)
{
        const char *path = getenv("WALL_CLOCK_FILE");
        int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        void *found;

        if (fd < 0)
                return;
        found = mmap(NULL, sizeof(*added_s), PROT_READ, MAP_SHARED, fd, 0);
        close(fd);
        if (found != MAP_FAILED)
                added_s = found;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
        int r = (int)syscall(SYS_clock_gettime, clock, now);

        if (r == 0 && added_s && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
                now->tv_sec += *added_s;
        return r;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
        struct timespec at;

        (void)zone;
        clock_gettime(CLOCK_REALTIME, &at);
        now->tv_sec = at.tv_sec;
        now->tv_usec = at.tv_nsec / 1000;
        return 0;
}

time_t time(time_t *ret_now)
{
        struct timespec at;

        clock_gettime(CLOCK_REALTIME, &at);
        if (ret_now)
                *ret_now = at.tv_sec;
        return at.tv_sec;
}
