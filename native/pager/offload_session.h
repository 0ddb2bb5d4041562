/* What sessions of both directions have: an end that is told once, a patience, jobs that outlive their
 * sockets. Within native/pager/offload*.c only. */
#ifndef SNAPSTART_OFFLOAD_SESSION_H
#define SNAPSTART_OFFLOAD_SESSION_H

#include "offload.h"

struct offload_kind {
        void (*stop)(struct offload *offload); /* leave the loop: close connections. May be called again. */
        void (*release)(struct offload *offload); /* free everything; no job is under way */
        void (*get_stats)(const struct offload *offload, struct offload_stats *ret_stats);
        int (*end_recording)(struct offload *offload);
        void (*kept)(struct offload *offload, int error);
        const char *(*late)(struct offload *offload); /* what the peer has failed to do in time */
};

struct offload {
        const struct offload_kind *kind;
        struct loop *loop; /* borrowed */
        struct reader *reader; /* borrowed */
        struct offload_peer peer; /* socket: owned */
        struct timer patience;
        struct grave grave;
        unsigned n_jobs; /* under way in the reader */
        bool is_over; /* its end was told: it does nothing more by itself */
        bool is_closed; /* nobody wants to be told any more */
};

/* Returns 0 or -ENOMEM. */
int offload_begin(struct offload *offload, const struct offload_kind *kind, struct loop *loop,
                  struct reader *reader, const struct offload_peer *peer);

/* Free what offload_begin() made; for a session that could not be opened. */
void offload_give_up(struct offload *offload);

void offload_tell(struct offload *offload, enum offload_event event, const char *why);

/* Tell the end, once; the session is stopped before. */
void offload_end(struct offload *offload, enum offload_event event, const char *why);

/* Give the peer its patience anew; offload_hurry_not() takes it away. */
void offload_hurry(struct offload *offload);
void offload_hurry_not(struct offload *offload);

void offload_submit(struct offload *offload, struct job *job);

/* First thing in a job's done(). Returns whether the session goes on: it was not closed meanwhile. */
bool offload_job_done(struct offload *offload);

#endif
