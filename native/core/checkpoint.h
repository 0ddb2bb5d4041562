/* Freeze a running VM: stop it and write its device state, leaving RAM where it is mapped. */
#ifndef SNAPSTART_CHECKPOINT_H
#define SNAPSTART_CHECKPOINT_H

#include "deadline.h"
#include "line_client.h"

struct checkpoint_times {
        int64_t begun_ns, negotiated_ns, stopped_ns, configured_ns, migrated_ns;
};

struct checkpoint_failure {
        int code;       /* negative errno: -EREMOTEIO QEMU refused, -EPROTO not QMP, -ECONNRESET it hung up,
                           -ETIMEDOUT, -ECANCELED, or a failure of our own system call */
        char text[512];
};

/* Run qmp_capabilities (unless @is_negotiated), stop, migrate to @state_fd with x-ignore-shared, and
 * wait for MIGRATION completed.
 * @client: attached to the monitor, with nothing outstanding. @state_fd: borrowed, a regular file
 * open for writing.
 * Returns 0, or -1 with @ret_failure. After a failure the VM may be stopped or migrating: kill it. */
int checkpoint_run(struct line_client *client, bool is_negotiated, int state_fd, const struct limits *lim,
                   struct checkpoint_failure *ret_failure, struct checkpoint_times *ret_times);

#endif
