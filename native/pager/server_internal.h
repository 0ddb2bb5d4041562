/* What the parts of the server share: server.c begins and ends it, server_machines.c keeps the machines,
 * server_take.c takes what monitors hand over, server_serve.c begins to serve it, server_succeed.c goes on with what a
 * predecessor served. */
#ifndef SNAPSTART_SERVER_INTERNAL_H
#define SNAPSTART_SERVER_INTERNAL_H

#include "server.h"

/* -- server_machines.c ----------------------------------------------------------------------------- */

/* Tell the log. */
void server_say(const struct machine *machine, const char *event, const char *why);

struct machine *machine_find_in(struct machine *first, const char *vm);
void machine_add(struct server *server, struct machine *machine);

/* Release it and all it has. @is_forgotten: its journal is removed too. */
void machine_free(struct machine *machine, bool is_forgotten);

/* It is served no longer, for @reason; empty: because it ended. */
void machine_retire(struct machine *machine, const char *reason);

/* @ret_name: KEEPER_NAME_BYTES. */
void machine_name_for_keeper(const char *vm, int pid, uint64_t start_ticks, char *ret_name);

/* -- server_take.c --------------------------------------------------------------------------------- */

/* Returns NULL without memory. */
struct machine *machine_new(struct server *server, const struct machine_order *order);

/* -- server_serve.c -------------------------------------------------------------------------------- */

/* Returns whether the monitor still holds what it handed over: it may have closed it since. */
bool server_does_hold_now(const struct journal_head *head);

/* Everybody holds what they must: write the journal, serve. Where that fails the machine is ended. */
void machine_begin(struct machine *machine);

void server_vm_is_ready(struct vm_host *host, struct vm *vm);
void server_vm_is_over(struct vm_host *host, struct vm *vm);

/* -- server_succeed.c ------------------------------------------------------------------------------ */

/* Serve every machine that the journals name. Returns 0, or -EPROTONOSUPPORT: another version wrote one. */
int server_read_journals(struct server *server);

/* End the machines that the keeper holds something of and no journal names: the page server died while they were
 * handed over, and closing it would let them read zeros. */
void server_stop_unclaimed(struct server *server);

/* Everything that was needed has been taken. */
void server_close_kept(struct server *server);

#endif
