/* What a Cloud Hypervisor says when it gives its machine away, judged message by message.
 *
 * Start, MemoryFd for each slot, Config, State, then Complete (the machine ran) or CompletePaused; Abandon at
 * any time. The monitor pauses the machine before State, and takes the acknowledgement of the last message
 * as leave to end it: nothing may be missing then. Pure: the bytes are received, and the descriptors held,
 * by others. */
#ifndef SNAPSTART_OFFLOAD_INTAKE_H
#define SNAPSTART_OFFLOAD_INTAKE_H

#include "offload_layout.h"
#include "offload_text.h"
#include "offload_wire.h"

enum intake_stage {
        INTAKE_NEW,
        INTAKE_STARTED, /* slots may come */
        INTAKE_CONFIGURED,
        INTAKE_STATED,
        INTAKE_COMPLETE, /* everything is there, and the machine stands still */
        INTAKE_ABANDONED,
};

/* What to do with a request that was accepted. */
enum intake_act {
        INTAKE_ACKNOWLEDGE, /* nothing follows it */
        INTAKE_RECEIVE_SLOT, /* a slot's number with a descriptor, then intake_slot() */
        INTAKE_RECEIVE_CONFIG, /* as many bytes as the request says, then intake_config() */
        INTAKE_RECEIVE_STATE,
        INTAKE_SAVE, /* acknowledge when all of it is on disk */
        INTAKE_END, /* acknowledge, then give up */
};

struct intake {
        enum intake_stage stage;
        size_t n_slots;
        uint32_t slots[OFFLOAD_MAX_SLOTS]; /* numbers, as they came */
        struct offload_layout layout; /* from INTAKE_CONFIGURED on */
        const char *why; /* static text for people, when something was refused */
};

/* Judge a request. Returns an enum intake_act, or -EPROTO with why. */
int intake_request(struct intake *intake, const struct offload_request *request);

/* Take the number of the next slot. Returns 0, or -EPROTO with why. */
int intake_slot(struct intake *intake, uint32_t number);

/* Take the configuration, which has to name the slots that came, no more and no fewer.
 * Returns 0, or -EPROTO with why. */
int intake_config(struct intake *intake, const char *config, size_t length);

/* Returns which of the slots that came is slot @i of the layout. From INTAKE_CONFIGURED on. */
size_t intake_source(const struct intake *intake, size_t i);

#endif
