/* The sessions with Cloud Hypervisors, by name. */
#ifndef SNAPSTART_OFFLOADS_H
#define SNAPSTART_OFFLOADS_H

#include "journal.h"
#include "offload.h"
#include "server.h"

enum offloaded_state {
        OFFLOADED_CALLING, /* the monitor does not have its machine yet, or has not given all of it */
        OFFLOADED_SERVING,
        OFFLOADED_SAVED,
        OFFLOADED_ENDED,
        OFFLOADED_FAILED,
};

/* What is ordered, in the words of the control protocol. */
struct offload_order {
        char vm[JOURNAL_ID_BYTES];
        bool is_save;
        char socket[108];
        char image[JOURNAL_PATH_BYTES], config[JOURNAL_PATH_BYTES], state[JOURNAL_PATH_BYTES];
        char working_set[JOURNAL_PATH_BYTES], record[JOURNAL_PATH_BYTES];
        uint8_t digest[WORKING_SET_DIGEST_BYTES];
        uid_t uid;
        bool demand_only, resume;
};

struct offloaded {
        struct offloaded *next;
        struct offloads *offloads;
        struct offload_order order;
        enum offloaded_state state;
        const char *why; /* static; NULL: nothing went wrong */
        struct offload *session;
        struct keeping keeping; /* of the connection its monitor asks on */
        struct image image;
        struct working_set set;
        bool has_set, is_recording;
        uint64_t serial; /* of who waits for the record */
};

#define OFFLOAD_KEPT "offload-" /* before the name, at the keeper */

struct offloads {
        struct server *server;
        struct offloaded *first;
        /* Told when the state of one changed. */
        void (*changed)(struct offloads *offloads, struct offloaded *one);
        /* The record @one->serial waits for is there, or is not: @why. */
        void (*recorded)(struct offloads *offloads, struct offloaded *one, const char *why);
};

/* Begin a session. Returns 0, -EEXIST if there is one of this name, or a negative errno with @ret_why. */
int offloads_begin(struct offloads *offloads, const struct offload_order *order, const char **ret_why);

/* Returns NULL if there is none. */
struct offloaded *offloads_find(const struct offloads *offloads, const char *vm);

/* End the session and forget it. */
void offloads_forget(struct offloads *offloads, const char *vm);

void offloads_close(struct offloads *offloads);

#endif
