/* A process that is meant for ever, not whoever has its number now. */
#ifndef SNAPSTART_PROCESS_H
#define SNAPSTART_PROCESS_H

#include <stdint.h>

/* Returns 0 with when @pid was started (field 22 of /proc/PID/stat), -ESRCH, or another negative errno. */
int process_start_ticks(int pid, uint64_t *ret_ticks);

/* Returns an owned pidfd of the process @pid that was started at @start_ticks, -ESRCH if it is gone. */
int process_open(int pid, uint64_t start_ticks);

/* Send SIGKILL; takes effect soon. */
void kill_process(int pidfd);

/* Send SIGKILL and wait until it is gone, at most @patience_ms. Returns 0 or -ETIMEDOUT. */
int process_end(int pidfd, int patience_ms);

/* For a monitor whose userfaultfd is about to be closed without being served: its guest must not run on zeros. */
#define PROCESS_END_SOON_MS 100 /* a process that is killed is gone in a few */
#define PROCESS_END_MS 5000 /* where nobody else waits meanwhile */

#endif
