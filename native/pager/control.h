/* What agentd says to the page server, and what it is told: lines of JSON on a Unix socket (docs/memory.md).
 *
 * One request at a time on a connection, answered in order. Only root and the page server's own user are
 * heard. A client that does not read its answers is not read from. */
#ifndef SNAPSTART_CONTROL_H
#define SNAPSTART_CONTROL_H

#include "server.h"

struct control {
        struct source listener; /* owned */
        struct server *server;
        struct control_link *links;
        unsigned n_links;
        uint64_t next_serial;
};

/* Listen at @path, replacing a socket there that nobody answers: the caller holds the journal's lock.
 * Returns 0 or a negative errno. */
int control_open(struct control *control, struct server *server, const char *path);

void control_close(struct control *control);

/* One request line, for tests and fuzzing. Returns 0 with the order, or -EBADMSG with @ret_why. */
int control_parse_order(const char *text, size_t length, struct machine_order *ret_order, const char **ret_why);

#endif
