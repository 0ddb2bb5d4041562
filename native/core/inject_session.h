/* One guest's side of the inject protocol, version "1", as a state machine over messages.
 *
 *   CAPABILITIES -> (PREPARE sent) -> READY -> (COMMIT sent) -> STARTED
 *
 * Whoever owns the session decides when to commit and what to do about time. */
#ifndef SNAPSTART_INJECT_SESSION_H
#define SNAPSTART_INJECT_SESSION_H

#include "message_link.h"

#define INJECT_TEXT_BYTES 512

enum inject_phase {
        INJECT_CAPABILITIES, /* waiting for CAPABILITIES */
        INJECT_PREPARE,      /* waiting for READY */
        INJECT_READY,        /* the guest holds; the host may COMMIT or CANCEL */
        INJECT_COMMIT,       /* waiting for STARTED; nothing may be sent any more */
        INJECT_STARTED,
};

enum inject_status {
        INJECT_PENDING,
        INJECT_OK,
        INJECT_REJECTED,
        INJECT_CONNECT_FAILED,
        INJECT_PROTOCOL_ERROR,
        INJECT_TIMEOUT_PREPARE,
        INJECT_TIMEOUT_COMMIT,
        INJECT_CANCELLED,
        INJECT_PEER_CLOSED,
};

struct inject_session {
        struct message_link *link; /* borrowed */
        const void *prepare;       /* borrowed; NULL for an autonomous start without PREPARE */
        size_t prepare_length;
        enum inject_phase phase;
        enum inject_status status;
        int64_t ready_ns;          /* CLOCK_MONOTONIC when READY was read */
        int64_t started_ns;
        char reason[64];           /* of a REJECT */
        char text[INJECT_TEXT_BYTES]; /* why it failed, for people */
        char commit[128];
};

/* Begin on a started link. @is_pipelined: send PREPARE before CAPABILITIES has come. */
void inject_session_start(struct inject_session *session, struct message_link *link, const void *prepare, size_t prepare_length,
                          bool is_pipelined);

/* Act on what the link has received, and read more until nothing is left.
 * Returns 0, or -EPROTO once status is neither INJECT_PENDING nor INJECT_OK. */
int inject_session_receive(struct inject_session *session);

/* Write what is to be sent. Returns as inject_session_receive(). */
int inject_session_flush(struct inject_session *session);

/* Send COMMIT; only in phase INJECT_READY. @with_clock: add wall_clock_ns and held_ns.
 * Returns as inject_session_receive(). */
int inject_session_commit(struct inject_session *session, bool with_clock);

/* Send CANCEL as well as it goes without waiting; only before COMMIT. */
void inject_session_cancel(struct inject_session *session);

/* End the session with @status; @text is copied. Always returns -EPROTO. */
int inject_session_fail(struct inject_session *session, enum inject_status status, const char *text);

#endif
