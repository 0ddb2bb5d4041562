/* How fast the time-stamp counter runs.
 *
 * Measured, because nothing tells it everywhere: /proc/cpuinfo has the momentary clock of a core,
 * CPUID leaves 0x15, 0x16 and 0x40000010 are there on some processors and hypervisors only. The
 * counter is compared with CLOCK_MONOTONIC_RAW, which NTP does not touch. */
#ifndef SNAPSTART_TSC_H
#define SNAPSTART_TSC_H

#include <stdint.h>

/* Measure for @window_ns: some 20,000,000 give about 10 ppm.
 * Returns 0, -ENOTSUP on another architecture, -EINVAL for a window that is not positive, -ERANGE
 * if the counter did not advance. */
int tsc_measure(int64_t window_ns, uint64_t *ret_khz);

#endif
