#define _GNU_SOURCE
#include "server_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fdutil.h"
#include "json_out.h"
#include "kuasar.h"
#include "process.h"

void server_say(const struct machine *machine, const char *event, const char *why)
{
        struct json_out out;

        if (json_open(&out))
                return;
        json_put_text(&out, "event", event);
        json_put_text(&out, "vm", machine->order.vm);
        if (machine->vm) {
                const struct journal_head *head = machine->vm->journal.head;

                json_put_integer(&out, "pid", head->pid);
                json_put_text(&out, "method", method_name(head->method));
                json_put_integer(&out, "pages", (int64_t)head->n_pages);
        }
        json_put_text(&out, "why", why);
        json_log(&out);
}

struct machine *machine_find_in(struct machine *first, const char *vm)
{
        while (first && strcmp(first->order.vm, vm) != 0)
                first = first->next;
        return first;
}

struct machine *server_find(const struct server *server, const char *vm)
{
        struct machine *machine = machine_find_in(server->machines, vm);

        return machine ? machine : machine_find_in(server->stopped, vm);
}

static void unlink_from(struct machine **at, const struct machine *machine)
{
        while (*at && *at != machine)
                at = &(*at)->next;
        if (*at)
                *at = machine->next;
}

static void release_machine(struct grave *grave)
{
        free(container_of(grave, struct machine, grave));
}

/* Give back everything but the memory of @machine itself. */
static void machine_clear(struct machine *machine, bool is_forgotten)
{
        struct pending *pending = &machine->pending;

        hand_over_close(&machine->hand_over);
        loop_unset(&machine->server->loop, &machine->timer);
        keeping_cancel(&pending->keeping);
        free(pending->facts);
        pending->facts = NULL;
        template_drop(&machine->server->templates, machine->template);
        machine->template = NULL;
        pending->uffd_fd = close_fd(pending->uffd_fd);
        pending->pidfd = close_fd(pending->pidfd);
        kuasar_ending(machine->server->kuasar, machine);
        if (machine->vm)
                vm_free(machine->vm, is_forgotten);
        machine->vm = NULL;
}

void machine_free(struct machine *machine, bool is_forgotten)
{
        machine_clear(machine, is_forgotten);
        machine->grave.release = release_machine;
        loop_later(&machine->server->loop, &machine->grave);
}

static void trim_stopped(struct server *server)
{
        struct machine **at = &server->stopped;

        if (server->n_stopped < STOPPED_KEPT) {
                server->n_stopped++;
                return;
        }
        while ((*at)->next)
                at = &(*at)->next;
        machine_free(*at, false);
        *at = NULL;
}

void machine_name_for_keeper(const char *vm, int pid, uint64_t start_ticks, char *ret_name)
{
        snprintf(ret_name, KEEPER_NAME_BYTES, "%s@%d@%" PRIu64, vm, pid, start_ticks);
}

/* Have the keeper close what it holds of a machine that is over. */
static void forget_kept(struct machine *machine)
{
        char name[KEEPER_NAME_BYTES];
        const struct journal_head *head = machine->vm ? machine->vm->journal.head : machine->pending.facts;

        if (!head)
                return;
        machine_name_for_keeper(head->vm, head->pid, head->start_ticks, name);
        keeper_forget(&machine->server->keeper, name);
}

/* It is served no longer, for @reason; empty: because it ended. */
void machine_retire(struct machine *machine, const char *reason)
{
        struct server *server = machine->server;

        snprintf(machine->reason, sizeof(machine->reason), "%s", reason[0] ? reason : "its process ended");
        server_say(machine, reason[0] ? "vm.stopped" : "vm.ended", machine->reason);
        forget_kept(machine);
        unlink_from(&server->machines, machine);
        machine_clear(machine, true);
        machine->state = MACHINE_STOPPED;
        trim_stopped(server);
        machine->next = server->stopped;
        server->stopped = machine;
        server->changed(server, machine);
}

/* Whoever says that it has ended may be wrong: one that lives would read zeros once its userfaultfd is closed. */
static void end_process(const struct machine *machine)
{
        int pidfd = machine->vm ? machine->vm->process.fd : machine->pending.pidfd;

        if (pidfd >= 0)
                process_end(pidfd, PROCESS_END_SOON_MS);
}

void server_forget(struct server *server, const char *vm)
{
        struct machine *machine = machine_find_in(server->machines, vm);

        if (machine) {
                end_process(machine);
                forget_kept(machine);
                unlink_from(&server->machines, machine);
        } else {
                machine = machine_find_in(server->stopped, vm);
                if (!machine)
                        return;
                unlink_from(&server->stopped, machine);
                server->n_stopped--;
        }
        machine_free(machine, true);
}

void machine_add(struct server *server, struct machine *machine)
{
        machine->next = server->machines;
        server->machines = machine;
}
