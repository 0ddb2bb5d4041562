#define _GNU_SOURCE
#include "tsc.h"

#include <errno.h>
#include <time.h>

#define NS_PER_S INT64_C(1000000000)
#define TICKS_PER_KHZ_NS UINT64_C(1000000) /* kHz = ticks / ns * this */

#ifdef __x86_64__

#include <x86intrin.h>

/* One moment on both clocks. Whatever interrupts between the two readings makes them disagree, so
 * the tightest of a few attempts is taken. */
static void read_both(uint64_t *ret_ticks, int64_t *ret_ns)
{
        uint64_t tightest = UINT64_MAX;

        for (int attempt = 0; attempt < 16; attempt++) {
                struct timespec ts;
                uint64_t before, width;

                before = __rdtsc();
                clock_gettime(CLOCK_MONOTONIC_RAW, &ts); /* cannot fail: a valid pointer */
                width = __rdtsc() - before;
                if (width >= tightest)
                        continue;
                tightest = width;
                *ret_ticks = before + width / 2;
                *ret_ns = (int64_t)ts.tv_sec * NS_PER_S + ts.tv_nsec;
        }
}

static void sleep_ns(int64_t ns)
{
        struct timespec left = { ns / NS_PER_S, ns % NS_PER_S };

        while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR)
                ;
}

int tsc_measure(int64_t window_ns, uint64_t *ret_khz)
{
        uint64_t first_ticks = 0, last_ticks = 0;
        int64_t first_ns = 0, last_ns = 0;

        if (window_ns <= 0)
                return -EINVAL;
        read_both(&first_ticks, &first_ns);
        sleep_ns(window_ns);
        read_both(&last_ticks, &last_ns);
        if (last_ticks <= first_ticks || last_ns <= first_ns)
                return -ERANGE;
        /* 128 bits: the sleep may have lasted as long as the machine was suspended. */
        *ret_khz = (uint64_t)((unsigned __int128)(last_ticks - first_ticks) * TICKS_PER_KHZ_NS /
                              (uint64_t)(last_ns - first_ns));
        return 0;
}

#else

int tsc_measure(int64_t window_ns, uint64_t *ret_khz)
{
        (void)ret_khz;
        return window_ns <= 0 ? -EINVAL : -ENOTSUP;
}

#endif
