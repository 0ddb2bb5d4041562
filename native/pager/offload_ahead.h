/* Fill a machine's memory with a working set, in recorded order, before it is asked for: a reader's thread at a
 * time, a few MiB at a time. */
#ifndef SNAPSTART_OFFLOAD_AHEAD_H
#define SNAPSTART_OFFLOAD_AHEAD_H

#include "offload_memory.h"
#include "offload_session.h"
#include "working_set.h"

struct offload_ahead {
        struct offload *session; /* borrowed, as the next two */
        struct offload_memory *memory;
        const struct working_set *set;
        struct job job;
        uint8_t *buffer; /* locked, OFFLOAD_PIECE_PAGES; owned */
        /* The job's while it is under way. */
        size_t run;
        uint64_t in_run; /* pages done of it */
        uint64_t data_page; /* of the next page that is not zero, in set->data */
        uint64_t done; /* pages installed by the last step */
        int result; /* of the last step: 1 there is more, 0 all is done, or a negative errno: no more comes */
        /* The loop's. */
        uint64_t n_installed;
};

/* Begin. @set, @memory: outlive it, as long as @session has jobs. Returns 0 or -ENOMEM. */
int offload_ahead_begin(struct offload_ahead *ahead, struct offload *session, struct offload_memory *memory,
                        const struct working_set *set);

/* Release everything; no job is under way. Zeroed memory is fine. */
void offload_ahead_close(struct offload_ahead *ahead);

#endif
