/* Sockets with a name: wait at one for the only monitor that may come in, or knock at one. */
#ifndef SNAPSTART_OFFLOAD_DOOR_H
#define SNAPSTART_OFFLOAD_DOOR_H

#include <sys/types.h>

#include "loop.h"

struct offload_door {
        struct source source; /* fd: owned */
        struct loop *loop; /* borrowed; NULL: not open */
        const char *path; /* borrowed */
        /* Somebody is there. @fd: owned by the callee now; a negative errno if nobody can be let in. */
        void (*came)(struct offload_door *door, int fd);
};

/* Listen at @path, which must not exist, with mode 0600 and owned by @uid.
 * Returns 0 or a negative errno; offload_door_close() in both cases. */
int offload_door_open(struct offload_door *door, struct loop *loop, const char *path, uid_t uid,
                      void (*came)(struct offload_door *door, int fd));

/* Listen no longer; the socket's name is removed. Zeroed memory is fine. */
void offload_door_close(struct offload_door *door);

/* Connect to @path without waiting. Returns an owned descriptor, or a negative errno. */
int offload_knock(const char *path);

#endif
