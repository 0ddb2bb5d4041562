/* Handing guest memory over to a page server, word for word as each monitor does. */
#ifndef SNAPSTART_STANDIN_HAND_OVER_H
#define SNAPSTART_STANDIN_HAND_OVER_H

#include "standin_guest.h"

enum dialect {
        DIALECT_FIRECRACKER, /* both spellings of the page size; the connection stays open (1.12 and later) */
        DIALECT_FIRECRACKER_OLD, /* only page_size_kib, in bytes */
        DIALECT_KUASAR, /* an object; closes at once */
        DIALECT_MEMFD, /* our own: two descriptors */
};

enum split {
        SPLIT_NONE,
        SPLIT_FIRST, /* in two pieces, descriptors with the first */
        SPLIT_LAST, /* ... with the second */
        SPLIT_LATE, /* the whole message without descriptors, then a line feed with them */
};

struct hand_over {
        enum dialect dialect;
        enum split split;
        bool closes; /* the connection, after it */
        const char *socket_path, *image_path;
};

/* Returns the open connection, or FD_NONE if it was closed; -1 if the server is not there. */
int hand_over(const struct hand_over *order, const struct guest *guest);

#endif
