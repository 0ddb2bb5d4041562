/* A socket at which monitors hand their memory over. Whoever connects is not believed: a time for
 * everything, bounds on what is kept, descriptors nobody asked for are closed. */
#ifndef SNAPSTART_HAND_OVER_H
#define SNAPSTART_HAND_OVER_H

#include <sys/types.h>

#include "handshake.h"
#include "loop.h"

#define HAND_OVER_FDS 2

/* What came in one connection. */
struct handed {
        const struct handshake *handshake; /* borrowed, until the call returns */
        int fds[HAND_OVER_FDS]; /* as handshake_fds() says; the receiver's own if it sets them to FD_NONE */
        int pid, pidfd; /* of who connected, as the kernel says; pidfd likewise */
};

struct hand_over;

struct hand_over_caller {
        /* @why: NULL, or why nothing came of it, @handed is NULL then. */
        void (*received)(struct hand_over *hand_over, struct handed *handed, const char *why);
};

struct hand_over {
        struct source listener; /* owned */
        struct loop *loop;
        enum handshake_protocol protocol;
        uid_t uid; /* who may connect, beside root */
        int64_t patience_ns; /* for one connection to say everything */
        bool is_lasting; /* takes one hand-over after the other; else closed after the first good one */
        char path[108];
        const struct hand_over_caller *caller;
        struct hand_over_link *links;
        unsigned n_links;
};

/* Listen at @path, which must not exist, mode 0600, owned by @uid. Everything but listener, loop and links
 * is set by the caller. Returns 0 or a negative errno (-EEXIST, -ENAMETOOLONG). */
int hand_over_open(struct hand_over *hand_over, struct loop *loop, const char *path);

/* Close, and remove the socket's file. Closing it twice is harmless; may be called from received(). */
void hand_over_close(struct hand_over *hand_over);

#endif
