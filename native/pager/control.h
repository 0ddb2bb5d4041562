/* What agentd says to the page server, and what it is told: lines of JSON on a Unix socket (docs/memory.md).
 *
 * One request at a time on a connection, answered in order. Only root and the page server's own user are
 * heard. A client that does not read its answers is not read from. */
#ifndef SNAPSTART_CONTROL_H
#define SNAPSTART_CONTROL_H

#include "offloads.h"
#include "server.h"

struct control {
        struct source listener; /* owned */
        struct server *server;
        struct control_link *links;
        unsigned n_links;
        uint64_t next_serial;
        struct offloads offloads;
};

/* Listen on the socket that the keeper listens on at @path; if it does not, listen there, replacing a socket that
 * nobody answers: the caller holds the journal's lock.
 * Returns 0 or a negative errno. */
int control_open(struct control *control, struct server *server, const char *path);

void control_close(struct control *control);

#endif
