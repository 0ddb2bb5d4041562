/* Descriptors that outlive this process, by systemd's protocol (sd_notify(3), sd_listen_fds(3)): kept by the
 * service manager, or by `snap-pager supervise`, which speaks it too. */
#ifndef SNAPSTART_KEEPER_H
#define SNAPSTART_KEEPER_H

#include <stdbool.h>
#include <stddef.h>

#include "loop.h"

#define KEEPER_NAME_BYTES 256
#define KEEPER_CONTROL "control" /* FileDescriptorName= of the socket unit */

/* One descriptor that a predecessor left. */
struct kept {
        char name[KEEPER_NAME_BYTES];
        int fd; /* owned; FD_NONE once it was taken */
};

struct keeper {
        struct loop *loop;
        int fd; /* datagrams to the keeper; owned; FD_NONE: there is none */
        struct kept *kept; /* owned */
        size_t n_kept;
};

/* Waiting for the keeper to have what it was sent; embedded. */
struct keeping {
        struct source source; /* the end of a pipe: the keeper closes the other; owned */
        struct timer timer;
        struct loop *loop;
        /* @error: 0, or -ETIMEDOUT if it did not answer. */
        void (*kept)(struct keeping *keeping, int error);
};

/* Take what the environment names: NOTIFY_SOCKET, LISTEN_FDS. Unsets all of it.
 * Returns 0 (no keeper is fine) or a negative errno. */
int keeper_open(struct keeper *keeper, struct loop *loop);
void keeper_close(struct keeper *keeper);

static inline bool keeper_is_there(const struct keeper *keeper)
{
        return keeper->fd >= 0;
}

/* Take what was left under @name.
 * Returns a descriptor owned by the caller, or -ENOENT. */
int keeper_take(struct keeper *keeper, const char *name);

/* Have the @n descriptors @fds kept under @name. @fds: borrowed. keeping->kept() is called once, later.
 * Returns 0 or a negative errno; kept() is not called then. */
int keeper_store(struct keeper *keeper, const char *name, const int *fds, size_t n, struct keeping *keeping);

/* Stop waiting for the answer. */
void keeping_cancel(struct keeping *keeping);

/* Have what is kept under @name closed. */
void keeper_forget(struct keeper *keeper, const char *name);

/* Tell the keeper something, for example "READY=1". */
void keeper_say(struct keeper *keeper, const char *text);

#endif
