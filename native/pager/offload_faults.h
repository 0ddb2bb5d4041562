/* Answer a monitor that asks for pages, one request at a time, over a connection of its own.
 *
 * It has one thread that asks and waits: for what its guest touched, and in between, page after page, for all
 * the rest. A request that would wait for a disk is served by a reader's thread, the others here. */
#ifndef SNAPSTART_OFFLOAD_FAULTS_H
#define SNAPSTART_OFFLOAD_FAULTS_H

#include "offload_fill.h"
#include "offload_link.h"
#include "offload_session.h"
#include "offload_touches.h"
#include "offload_wire.h"

struct offload_faults {
        struct offload *session; /* borrowed */
        void *owner; /* borrowed; for the next two */
        void (*refused)(struct offload_faults *faults); /* a request was, after refuses was set */
        void (*closed)(struct offload_faults *faults); /* by the monitor */
        struct offload_fill fill;
        struct offload_touches touches;
        struct offload_link link;
        uint8_t role[OFFLOAD_ROLE_BYTES], answer[OFFLOAD_HEADER_BYTES];
        uint8_t request[OFFLOAD_HEADER_BYTES + OFFLOAD_RANGE_BYTES];
        bool refuses; /* the next request: it is the monitor's sweep, which ends by that */
        bool is_leaving; /* the monitor said so */
        struct job job; /* of the request being served by a thread */
        bool is_busy; /* it is: fill, page and pages are the thread's */
        int result; /* its: 0 or a negative errno */
        uint64_t page, pages; /* asked for */
        int64_t asked_ns;
        bool is_closed; /* by the monitor; nothing more comes */
        bool has_all; /* it is, and everything was asked for */
        uint64_t n_faults, n_covered, n_background, n_stalls, max_stall_us;
};

/* Make what is needed to serve @memory from @image, which is as long. Both outlive it.
 * Returns 0 or -ENOMEM; offload_faults_close() in both cases. */
int offload_faults_open(struct offload_faults *faults, struct offload *session, struct offload_memory *memory,
                        const struct image *image);

/* Serve over @fd, a connected socket, which is owned by @faults from here on, on failure too. The session is
 * ended if the monitor cannot be served.
 * Returns 0, -EPERM if it is not the monitor's user, or another negative errno. */
int offload_faults_serve(struct offload_faults *faults, int fd);

/* Close the connection. Zeroed memory is fine. */
void offload_faults_stop(struct offload_faults *faults);

/* Release everything; no job is under way. Zeroed memory is fine. */
void offload_faults_close(struct offload_faults *faults);

#endif
