/* Hand a machine to a monitor that listens: the protocol's sender.
 *
 * Start, MemoryFd for each slot, Config; then a second connection, on which the monitor will ask for
 * pages; State; Complete or CompletePaused. The monitor answers each, and begins to ask when it has the
 * header of State: before it has anything that could touch memory. So whatever it asks for before the
 * content of State was sent is its own sweep, which can be refused without harm to a guest. */
#ifndef SNAPSTART_OFFLOAD_GREET_H
#define SNAPSTART_OFFLOAD_GREET_H

#include "offload_faults.h"
#include "offload_link.h"
#include "offload_memory.h"
#include "offload_session.h"
#include "offload_text.h"

enum offload_greeting {
        GREET_CALL, /* nobody listens yet */
        GREET_START,
        GREET_SLOTS,
        GREET_CONFIG,
        GREET_CALL_FAULTS,
        GREET_KEEP, /* somebody else is to hold the connection for faults */
        GREET_STATE,
        GREET_COMPLETE,
        GREET_DONE,
};

struct offload_greet {
        struct offload *session; /* borrowed, like all up to done */
        const struct offload_text *texts;
        const struct offload_memory *memory;
        struct offload_faults *faults;
        bool demand_only, resume; /* as in the order */
        int (*keep)(void *context, int fd);
        void (*done)(struct offload_greet *greet); /* the monitor has the machine */
        enum offload_greeting stage;
        struct offload_link link;
        struct timer again; /* to call, or to wait no longer for a sweep */
        bool owes_state; /* its header was sent, its content not */
        bool has_machine; /* the monitor: all that it needs to run it was sent */
        size_t slot; /* being sent */
        uint8_t header[OFFLOAD_HEADER_BYTES], number[OFFLOAD_SLOT_BYTES], reply[OFFLOAD_HEADER_BYTES];
        pid_t pid; /* of the monitor */
        int pidfd; /* its; owned; FD_NONE before there is one, and if it is this process */
};

/* Begin; everything borrowed is set. Fails by ending the session. */
void offload_greet_begin(struct offload_greet *greet);

/* Somebody holds the connection for faults, or (@error) does not. */
void offload_greet_kept(struct offload_greet *greet, int error);

/* Kill the monitor if it has its machine, or has begun to get it. */
void offload_greet_kill(struct offload_greet *greet);

/* Leave the loop. Zeroed memory is fine. */
void offload_greet_stop(struct offload_greet *greet);

/* Returns what the monitor failed to do in time. */
const char *offload_greet_late(const struct offload_greet *greet);

#endif
