#define _GNU_SOURCE
#include "server_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deadline.h"
#include "fdutil.h"
#include "process.h"
#include "uffd.h"

/* Map @image, which is moved from, and begin to bring the machine's working set into memory: its monitor is being
 * made meanwhile. Returns 0 or a negative errno. */
static int find_template(struct machine *machine, struct image *image)
{
        const struct machine_order *order = &machine->order;
        int r = template_acquire(&machine->server->templates, image, order->digest, order->working_set,
                                 &machine->template);

        if (!r)
                template_prepare(machine->template, order->record[0]);
        return r;
}

/* What is known of a machine from its order and its hand-over. Returns NULL without memory. */
static struct journal_head *facts_of(const struct machine_order *order, const struct handed *handed)
{
        struct journal_head *facts = aligned_alloc(_Alignof(struct journal_head), sizeof(*facts));

        if (!facts)
                return NULL;
        memset(facts, 0, sizeof(*facts));
        memcpy(facts->vm, order->vm, sizeof(facts->vm));
        memcpy(facts->image_path, order->image, sizeof(facts->image_path));
        memcpy(facts->working_set_path, order->working_set, sizeof(facts->working_set_path));
        memcpy(facts->digest, order->digest, sizeof(facts->digest));
        facts->protocol = handed->handshake->protocol;
        facts->pid = handed->pid;
        facts->uffd_number = facts->memfd_number = -1;
        facts->n_regions = handed->handshake->n_regions;
        memcpy(facts->regions, handed->handshake->regions, facts->n_regions * sizeof(struct region));
        for (uint64_t i = 0; i < facts->n_regions; i++)
                facts->n_pages += facts->regions[i].size_bytes / facts->regions[i].page_bytes;
        return facts;
}

/* See whether the monitor holds a descriptor, and that it can be taken from there later. */
static int find_held(int pid, int pidfd, uint64_t device, uint64_t inode)
{
        int number = fd_find_in(pid, device, inode), taken;

        if (number < 0)
                return -1;
        taken = fd_take_from(pidfd, number, device, inode);
        if (taken < 0)
                return -1;
        close_fd(taken);
        return number;
}

static const char *check_uffd(struct journal_head *facts, const struct handed *handed)
{
        struct uffd_facts uffd;

        if (uffd_inspect(handed->fds[0], &uffd))
                return "what it sent is no userfaultfd that is ready for use";
        if (uffd.features & (UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP))
                return "its userfaultfd tells of forks or moves, which nobody can follow";
        if (facts->protocol == HANDSHAKE_MEMFD && !(uffd.features & UFFD_FEATURE_MINOR_SHMEM))
                return "its userfaultfd has no minor faults of shared memory";
        if (fcntl(handed->fds[0], F_SETFL, O_NONBLOCK) < 0)
                return "its userfaultfd cannot be made non-blocking";
        if (process_start_ticks(facts->pid, &facts->start_ticks))
                return "its process is gone";
        facts->uffd_device = uffd.device;
        facts->uffd_inode = uffd.inode;
        facts->features = uffd.features;
        facts->uffd_number = find_held(handed->pid, handed->pidfd, uffd.device, uffd.inode);
        return NULL;
}

/* The image of a machine that brings its own. */
static const char *check_memfd(struct machine *machine, struct journal_head *facts, struct handed *handed)
{
        struct image image;

        if (image_take_fd(TAKE_FD(handed->fds[1]), &image))
                return "what it sent as its memfd is none";
        if (!image.is_sealed) {
                image_close(&image);
                return "its memfd is not sealed against writing and shrinking";
        }
        facts->memfd_number =
                find_held(facts->pid, machine->pending.pidfd, image.identity.device, image.identity.inode);
        return find_template(machine, &image) ? "no memory to map its memfd" : NULL;
}

static const char *check_image(struct machine *machine, struct journal_head *facts, struct handed *handed)
{
        const char *why = NULL;

        if (facts->protocol == HANDSHAKE_MEMFD)
                why = check_memfd(machine, facts, handed);
        if (why)
                return why;
        facts->identity = machine->template->image.identity;
        if (handshake_fits(handed->handshake, facts->identity.size_bytes, &why))
                return why;
        return NULL;
}

static bool does_monitor_hold(const struct journal_head *facts)
{
        return facts->uffd_number >= 0 && (facts->protocol != HANDSHAKE_MEMFD || facts->memfd_number >= 0);
}

/* Have the keeper hold it too. Returns NULL, or why the machine cannot be served. */
static const char *keep(struct machine *machine)
{
        struct pending *pending = &machine->pending;
        struct keeper *keeper = &machine->server->keeper;
        struct journal_head *facts = pending->facts;
        int fds[HAND_OVER_FDS] = {pending->uffd_fd, machine->template->image.fd};
        char name[KEEPER_NAME_BYTES];

        facts->kept_by = does_monitor_hold(facts) ? KEPT_BY_VMM : 0;
        machine_name_for_keeper(facts->vm, facts->pid, facts->start_ticks, name);
        if (keeper_is_there(keeper) &&
            keeper_store(keeper, name, fds, (size_t)handshake_fds(facts->protocol), &pending->keeping) == 0) {
                machine->state = MACHINE_KEEPING;
                return NULL;
        }
        if (!facts->kept_by)
                return "nobody else holds its userfaultfd: it could not outlive the page server";
        machine_begin(machine);
        return NULL;
}

/* Check what was handed over, serve it. Returns NULL, or why not; then the machine has been ended unless its
 * userfaultfd was none. */
static const char *take(struct machine *machine, struct handed *handed)
{
        struct pending *pending = &machine->pending;
        const char *why;

        pending->facts = facts_of(&machine->order, handed);
        if (!pending->facts)
                return "no memory";
        why = check_uffd(pending->facts, handed);
        if (why)
                return why;
        pending->uffd_fd = TAKE_FD(handed->fds[0]);
        pending->pidfd = TAKE_FD(handed->pidfd);
        why = check_image(machine, pending->facts, handed);
        return why ? why : keep(machine);
}

/* A monitor whose userfaultfd came but cannot be served would wait for ever, or read zeros. */
static void refuse(struct machine *machine, const char *why)
{
        machine->refused = why;
        if (machine->pending.uffd_fd >= 0) {
                process_end(machine->pending.pidfd, PROCESS_END_SOON_MS);
                machine_retire(machine, why);
                return;
        }
        server_say(machine, "hand_over.refused", why);
        free(machine->pending.facts);
        machine->pending.facts = NULL;
}

static void received(struct hand_over *hand_over, struct handed *handed, const char *why)
{
        struct machine *machine = container_of(hand_over, struct machine, hand_over);

        if (!handed) {
                machine->refused = why;
                server_say(machine, "hand_over.refused", why);
                return;
        }
        why = take(machine, handed);
        if (why) {
                struct uffd_facts uffd;

                /* Refused before it was taken out of @handed: it is closed there. */
                if (handed->fds[0] >= 0 && handed->pidfd >= 0 && uffd_inspect(handed->fds[0], &uffd) == 0)
                        process_end(handed->pidfd, PROCESS_END_SOON_MS);
                refuse(machine, why);
        }
        if (machine->state != MACHINE_LISTENING) {
                hand_over_close(&machine->hand_over);
                loop_unset(&machine->server->loop, &machine->timer);
        }
}

static void not_handed_over(struct timer *timer)
{
        struct machine *machine = container_of(timer, struct machine, timer);
        char reason[VM_REASON_BYTES];

        snprintf(reason, sizeof(reason), "its monitor did not hand its memory over in time%s%s",
                 machine->refused ? ": " : "", machine->refused ? machine->refused : "");
        machine_retire(machine, reason);
}

static void kept(struct keeping *keeping, int error)
{
        struct pending *pending = container_of(keeping, struct pending, keeping);
        struct machine *machine = container_of(pending, struct machine, pending);

        if (!error)
                pending->facts->kept_by |= KEPT_BY_KEEPER;
        if (!pending->facts->kept_by) {
                process_end(pending->pidfd, PROCESS_END_SOON_MS);
                machine_retire(machine, "the keeper does not answer, and nobody else holds its userfaultfd");
                return;
        }
        machine_begin(machine);
}

struct machine *machine_new(struct server *server, const struct machine_order *order)
{
        static const struct hand_over_caller caller = {.received = received};
        struct machine *machine = calloc(1, sizeof(*machine));

        if (!machine)
                return NULL;
        machine->server = server;
        machine->order = *order;
        machine->timer.due = not_handed_over;
        machine->pending.uffd_fd = machine->pending.pidfd = FD_NONE;
        machine->pending.keeping.kept = kept;
        machine->hand_over.caller = &caller;
        machine->hand_over.protocol = order->protocol;
        machine->hand_over.uid = order->uid;
        machine->hand_over.patience_ns = server->settings.hand_over_ns;
        return machine;
}

static bool is_same_order(const struct machine_order *a, const struct machine_order *b)
{
        return a->protocol == b->protocol && a->uid == b->uid && strcmp(a->image, b->image) == 0 &&
               strcmp(a->socket, b->socket) == 0 && memcmp(a->digest, b->digest, sizeof(a->digest)) == 0 &&
               strcmp(a->working_set, b->working_set) == 0 && strcmp(a->record, b->record) == 0;
}

int server_listen(struct server *server, const struct machine_order *order, const char **ret_why)
{
        struct machine *machine = machine_find_in(server->machines, order->vm);
        struct image image;
        int r = 0;

        if (machine) {
                *ret_why = "another machine is expected or served under this name";
                return is_same_order(&machine->order, order) ? 0 : -EEXIST;
        }
        server_forget(server, order->vm);
        machine = machine_new(server, order);
        *ret_why = "no memory";
        if (!machine)
                return -ENOMEM;
        if (order->image[0]) {
                *ret_why = "its image cannot be opened";
                r = image_take(order->image, &image);
                r = r ? r : find_template(machine, &image);
        }
        if (!r) {
                *ret_why = "its socket cannot be made";
                r = hand_over_open(&machine->hand_over, &server->loop, order->socket);
        }
        if (r) {
                machine_free(machine, false);
                return r;
        }
        machine_add(server, machine);
        loop_set(&server->loop, &machine->timer, now_ns() + server->settings.hand_over_ns);
        return 0;
}

const char *server_take_unasked(struct server *server, const struct machine_order *order, struct image *image,
                                struct handed *handed)
{
        struct machine *machine;
        const char *why;

        server_forget(server, order->vm);
        machine = machine_new(server, order);
        if (!machine) {
                image_close(image);
                return "no memory";
        }
        machine_add(server, machine);
        why = find_template(machine, image) ? "its image cannot be mapped" : take(machine, handed);
        if (why && machine->pending.uffd_fd >= 0)
                refuse(machine, why);
        else if (why)
                server_forget(server, order->vm);
        return why;
}
