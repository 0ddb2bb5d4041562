#define _GNU_SOURCE
#include "server_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fdutil.h"
#include "kill_point.h"
#include "kuasar.h"
#include "process.h"
#include "uffd.h"

/* A monitor may have closed since what it held when it handed its memory over. */
bool server_does_hold_now(const struct journal_head *head)
{
        return fd_find_in(head->pid, head->uffd_device, head->uffd_inode) >= 0 &&
               (head->protocol != HANDSHAKE_MEMFD ||
                fd_find_in(head->pid, head->identity.device, head->identity.inode) >= 0);
}

void server_vm_is_ready(struct vm_host *host, struct vm *vm)
{
        struct server *server = container_of(host, struct server, host);
        struct machine *machine = machine_find_in(server->machines, vm->journal.head->vm);

        if (!machine)
                return;
        if (!server_does_hold_now(vm->journal.head))
                vm->journal.head->kept_by &= ~(uint32_t)KEPT_BY_VMM;
        if (!vm->journal.head->kept_by) {
                vm_stop(vm, "nobody else holds its userfaultfd any more: it could not outlive the page server");
                return;
        }
        server_say(machine, "vm.ready", vm->journal.head->why);
        server->changed(server, machine);
}

void server_vm_is_over(struct vm_host *host, struct vm *vm)
{
        struct server *server = container_of(host, struct server, host);
        struct machine *machine = machine_find_in(server->machines, vm->journal.head->vm);
        char reason[VM_REASON_BYTES];

        memcpy(reason, vm->reason, sizeof(reason));
        machine_retire(machine, reason);
}

static bool has_small_pages(const struct journal_head *facts)
{
        for (uint64_t i = 0; i < facts->n_regions; i++)
                if (facts->regions[i].page_bytes != IMAGE_PAGE_BYTES)
                        return false;
        return true;
}

/* Returns whether somebody's working set is not installed yet: the next one's comes after it. */
static bool has_line(const struct server *server)
{
        for (const struct machine *one = server->machines; one; one = one->next)
                if (one->vm && !one->vm->is_stopping && vm_is_installing(one->vm))
                        return true;
        return false;
}

static void choose(const struct server *server, struct journal_head *facts, const struct template *template,
                   bool is_recorded)
{
        struct choose_facts known = {.can_share = facts->protocol == HANDSHAKE_MEMFD,
                                     .is_recording = is_recorded,
                                     .is_in_line = has_line(server),
                                     .recall = -1};
        struct choice choice;

        template_look(template, &known);
        if (!has_small_pages(facts))
                known.has_working_set = false;
        choice = choose_method(&known);
        facts->method = choice.method;
        facts->from_data = choice.from_data;
        facts->fault_around_pages = choice.fault_around_pages;
        if (template->set_problem)
                snprintf(facts->why, sizeof(facts->why), "%s (%s)", choice.why, template->set_problem);
        else
                snprintf(facts->why, sizeof(facts->why), "%s", choice.why);
}

/* Everybody holds what they must: write the journal, serve. Returns 0 or a negative errno; the machine's
 * process is killed then, since nobody serves it. */
static int begin(struct machine *machine)
{
        struct server *server = machine->server;
        struct pending *pending = &machine->pending;
        struct vm_parts parts = {.uffd_fd = TAKE_FD(pending->uffd_fd),
                                 .pidfd = TAKE_FD(pending->pidfd),
                                 .template = machine->template};
        bool is_recorded = machine->order.record[0];
        int r;

        machine->template = NULL;
        choose(server, pending->facts, parts.template, is_recorded);
        r = journal_create(server->journal_fd, pending->facts, &parts.journal);
        if (r) {
                process_end(parts.pidfd, PROCESS_END_SOON_MS);
                template_release(&server->templates, parts.template);
                close_fd(parts.uffd_fd);
                close_fd(parts.pidfd);
                return r;
        }
        kill_point(KILL_JOURNAL);
        r = vm_open(&server->host, &parts, is_recorded, false, &machine->vm);
        if (r)
                return r;
        free(pending->facts);
        pending->facts = NULL;
        machine->state = MACHINE_SERVING;
        server_say(machine, "vm.serving", machine->vm->journal.head->why);
        kuasar_began(server->kuasar, machine);
        vm_begin(machine->vm);
        return 0;
}

void machine_begin(struct machine *machine)
{
        char reason[VM_REASON_BYTES];
        int r = begin(machine);

        if (!r)
                return;
        snprintf(reason, sizeof(reason), "it could not be served: %s", strerror(-r));
        machine_retire(machine, reason);
}
