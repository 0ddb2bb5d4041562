/* Give identities to several guests at once: all of them start, or none does.
 *
 * Two phases with a barrier. Until every guest has said READY nothing is decided; if one fails
 * before, those that are READY get CANCEL, and the others are dropped, which a guest must read as
 * cancellation. After COMMIT nothing more is sent and nothing can be undone. */
#ifndef SNAPSTART_INJECT_H
#define SNAPSTART_INJECT_H

#include "inject_session.h"

#define INJECT_MAX_TARGETS 64

/* One guest. Everything is borrowed. */
struct inject_target {
        int fd;               /* connected; negative means that connecting failed */
        bool is_mux;          /* a channel of ours, on which we are a new host, not the guest's Unix socket */
        bool with_clock;      /* COMMIT carries wall_clock_ns and held_ns */
        uint8_t epoch[MUX_EPOCH_BYTES]; /* for is_mux */
        const void *prepare;  /* body of PREPARE; NULL for an autonomous start */
        size_t prepare_length;
};

struct inject_result {
        enum inject_status status;
        enum inject_phase phase; /* how far it came */
        char reason[64];
        char text[INJECT_TEXT_BYTES];
        int64_t ready_ns, started_ns;
};

/* Run the protocol over @n targets.
 * @prepare_deadline_ns, @commit_deadline_ns: absolute, until all are READY and until all are STARTED.
 * @results: room for @n, all set on success of the call, which says nothing about the guests.
 * Returns 0, -EINVAL for too many targets, or -ENOMEM. */
int inject_run(const struct inject_target *targets, size_t n, int64_t prepare_deadline_ns, int64_t commit_deadline_ns, int cancel_fd,
               struct inject_result *results);

#endif
