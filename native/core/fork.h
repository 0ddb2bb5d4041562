/* Start a session: one call from "nothing runs" to STARTED.
 *
 * Both sockets are connected to listening sockets that the VMM inherits, so everything the host has
 * to say is written before the VMM even exists: the monitor's commands, the multiplexer's marker and
 * HELLO, OPEN of inject, PREPARE. What is left is to watch four descriptors until the guest has said
 * STARTED: the process, the monitor, the channel, and the caller's cancellation. */
#ifndef SNAPSTART_FORK_H
#define SNAPSTART_FORK_H

#include "deadline.h"
#include "mux.h"
#include "spawn.h"

#define FORK_TEXT_BYTES 512

/* How far the fork is; of a failure, what it was waiting for. */
enum fork_stage {
        FORK_SPAWN,
        FORK_MONITOR,  /* greeting and answers of the monitor */
        FORK_LOAD,     /* MIGRATION completed */
        FORK_RESUME,   /* RESUME */
        FORK_GUEST,    /* HELLO_ACK with our epoch */
        FORK_PREPARE,  /* READY */
        FORK_START,    /* STARTED */
};

enum fork_kind {
        FORK_SYSTEM = 1,      /* a system call of ours failed: see code */
        FORK_SPAWN_FAILED,
        FORK_VMM_EXITED,
        FORK_VMM_REFUSED,     /* a monitor command or the migration failed */
        FORK_VMM_PROTOCOL,
        FORK_GUEST_PROTOCOL,
        FORK_GUEST_REJECTED,
        FORK_DEADLINE,
        FORK_CANCELLED,
};

/* Everything is borrowed for the duration of the call. */
struct fork_request {
        struct spawn_spec spawn;
        int qmp_fd;             /* connected, nothing read or written so far */
        const char *qmp_lines;  /* commands, each line ended by "\n" */
        size_t qmp_length;
        unsigned qmp_replies;   /* how many commands that is; 0: the VMM boots, nothing is loaded */
        int channel_fd;         /* connected, nothing read or written so far */
        uint8_t epoch[MUX_EPOCH_BYTES];
        const void *prepare;    /* the body of PREPARE */
        size_t prepare_length;
};

/* Times of CLOCK_MONOTONIC in nanoseconds. */
struct fork_times {
        int64_t begun_ns, spawned_ns, monitor_ns, loaded_ns, resumed_ns, guest_ns, prepared_ns, started_ns;
};

struct fork_call; /* what must outlive the call: unread bytes of both sockets */

struct fork_result {
        struct spawn_result process; /* pidfd: owned by the result */
        struct fork_times times;
        const char *qmp_pending;     /* borrows from the fork_call */
        size_t qmp_pending_length;
        const uint8_t *channel_pending;
        size_t channel_pending_length;
};

struct fork_failure {
        enum fork_stage stage;
        enum fork_kind kind;
        int code;            /* negative errno of FORK_SYSTEM and FORK_SPAWN_FAILED, else 0 */
        int wait_status;     /* of a VMM that ended by itself, as waitpid(2) encodes it, else -1 */
        char reason[64];     /* of FORK_GUEST_REJECTED */
        char text[FORK_TEXT_BYTES];
};

/* Run the sequence.
 * On success returns 0; the stream of inject is closed from our side, its frames may still come, and
 * the next stream is LINK_NEXT_STREAM. On failure returns -1 with @ret_failure; the VMM is killed and
 * reaped, both sockets are useless.
 * @ret_call: to be freed with fork_call_free() when the result has been read; NULL on failure. */
int fork_run(const struct fork_request *request, const struct limits *lim, struct fork_failure *ret_failure,
             struct fork_result *ret_result, struct fork_call **ret_call);

void fork_call_free(struct fork_call *call);

/* Returns a few words for people: what the fork waits for in @stage. */
const char *fork_stage_text(enum fork_stage stage);

#endif
