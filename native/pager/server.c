#define _GNU_SOURCE
#include "server.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "deadline.h"
#include "fdutil.h"
#include "json_out.h"
#include "kill_point.h"
#include "offloads.h"
#include "kuasar.h"
#include "process.h"
#include "uffd.h"

static void say(const struct machine *machine, const char *event, const char *why)
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

/* -- the list -------------------------------------------------------------------------------------- */

static struct machine *find_in(struct machine *first, const char *vm)
{
        while (first && strcmp(first->order.vm, vm) != 0)
                first = first->next;
        return first;
}

struct machine *server_find(const struct server *server, const char *vm)
{
        struct machine *machine = find_in(server->machines, vm);

        return machine ? machine : find_in(server->stopped, vm);
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
        template_release(&machine->server->templates, machine->template);
        machine->template = NULL;
        pending->uffd_fd = close_fd(pending->uffd_fd);
        pending->pidfd = close_fd(pending->pidfd);
        kuasar_ending(machine->server->kuasar, machine);
        if (machine->vm)
                vm_free(machine->vm, is_forgotten);
        machine->vm = NULL;
}

static void machine_free(struct machine *machine, bool is_forgotten)
{
        machine_clear(machine, is_forgotten);
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

static void name_for_keeper(const char *vm, int pid, uint64_t start_ticks, char *ret_name)
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
        name_for_keeper(head->vm, head->pid, head->start_ticks, name);
        keeper_forget(&machine->server->keeper, name);
}

/* It is served no longer, for @reason; empty: because it ended. */
static void retire_machine(struct machine *machine, const char *reason)
{
        struct server *server = machine->server;

        snprintf(machine->reason, sizeof(machine->reason), "%s", reason[0] ? reason : "its process ended");
        say(machine, reason[0] ? "vm.stopped" : "vm.ended", machine->reason);
        forget_kept(machine);
        unlink_from(&server->machines, machine);
        machine_clear(machine, true);
        machine->state = MACHINE_STOPPED;
        trim_stopped(server);
        machine->next = server->stopped;
        server->stopped = machine;
        server->changed(server, machine);
}

void server_forget(struct server *server, const char *vm)
{
        struct machine *machine = find_in(server->machines, vm);

        if (machine) {
                forget_kept(machine);
                unlink_from(&server->machines, machine);
        } else {
                machine = find_in(server->stopped, vm);
                if (!machine)
                        return;
                unlink_from(&server->stopped, machine);
                server->n_stopped--;
        }
        machine_free(machine, true);
}

/* -- serving --------------------------------------------------------------------------------------- */

/* A monitor may have closed since what it held when it handed its memory over. */
static bool does_hold_now(const struct journal_head *head)
{
        return fd_find_in(head->pid, head->uffd_device, head->uffd_inode) >= 0 &&
               (head->protocol != HANDSHAKE_MEMFD ||
                fd_find_in(head->pid, head->identity.device, head->identity.inode) >= 0);
}

static void vm_is_ready(struct vm_host *host, struct vm *vm)
{
        struct server *server = container_of(host, struct server, host);
        struct machine *machine = find_in(server->machines, vm->journal.head->vm);

        if (!machine)
                return;
        if (!does_hold_now(vm->journal.head))
                vm->journal.head->kept_by &= ~(uint32_t)KEPT_BY_VMM;
        if (!vm->journal.head->kept_by) {
                vm_stop(vm, "nobody else holds its userfaultfd any more: it could not outlive the page server");
                return;
        }
        say(machine, "vm.ready", vm->journal.head->why);
        server->changed(server, machine);
}

static void vm_is_over(struct vm_host *host, struct vm *vm)
{
        struct server *server = container_of(host, struct server, host);
        struct machine *machine = find_in(server->machines, vm->journal.head->vm);
        char reason[VM_REASON_BYTES];

        memcpy(reason, vm->reason, sizeof(reason));
        retire_machine(machine, reason);
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
        say(machine, "vm.serving", machine->vm->journal.head->why);
        kuasar_began(server->kuasar, machine);
        vm_begin(machine->vm);
        return 0;
}

static void begin_or_stop(struct machine *machine)
{
        char reason[VM_REASON_BYTES];
        int r = begin(machine);

        if (!r)
                return;
        snprintf(reason, sizeof(reason), "it could not be served: %s", strerror(-r));
        retire_machine(machine, reason);
}

static void kept(struct keeping *keeping, int error)
{
        struct pending *pending = container_of(keeping, struct pending, keeping);
        struct machine *machine = container_of(pending, struct machine, pending);

        if (!error)
                pending->facts->kept_by |= KEPT_BY_KEEPER;
        if (!pending->facts->kept_by) {
                process_end(pending->pidfd, PROCESS_END_SOON_MS);
                retire_machine(machine, "the keeper does not answer, and nobody else holds its userfaultfd");
                return;
        }
        begin_or_stop(machine);
}

/* -- hand-over ------------------------------------------------------------------------------------- */

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
        facts->memfd_number = find_held(facts->pid, machine->pending.pidfd, image.identity.device, image.identity.inode);
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
        name_for_keeper(facts->vm, facts->pid, facts->start_ticks, name);
        if (keeper_is_there(keeper) &&
            keeper_store(keeper, name, fds, (size_t)handshake_fds(facts->protocol), &pending->keeping) == 0) {
                machine->state = MACHINE_KEEPING;
                return NULL;
        }
        if (!facts->kept_by)
                return "nobody else holds its userfaultfd: it could not outlive the page server";
        begin_or_stop(machine);
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
                retire_machine(machine, why);
                return;
        }
        say(machine, "hand_over.refused", why);
        free(machine->pending.facts);
        machine->pending.facts = NULL;
}

static void received(struct hand_over *hand_over, struct handed *handed, const char *why)
{
        struct machine *machine = container_of(hand_over, struct machine, hand_over);

        if (!handed) {
                machine->refused = why;
                say(machine, "hand_over.refused", why);
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
        retire_machine(machine, reason);
}

static struct machine *machine_new(struct server *server, const struct machine_order *order)
{
        static const struct hand_over_caller caller = {.received = received};
        struct machine *machine = calloc(1, sizeof(*machine));

        if (!machine)
                return NULL;
        machine->server = server;
        machine->order = *order;
        machine->timer.due = not_handed_over;
        machine->grave.release = release_machine;
        machine->pending.uffd_fd = machine->pending.pidfd = FD_NONE;
        machine->pending.keeping.kept = kept;
        machine->hand_over.caller = &caller;
        machine->hand_over.protocol = order->protocol;
        machine->hand_over.uid = order->uid;
        machine->hand_over.patience_ns = server->settings.hand_over_ns;
        return machine;
}

static void add(struct server *server, struct machine *machine)
{
        machine->next = server->machines;
        server->machines = machine;
}

static bool is_same_order(const struct machine_order *a, const struct machine_order *b)
{
        return a->protocol == b->protocol && a->uid == b->uid && strcmp(a->image, b->image) == 0 &&
               strcmp(a->socket, b->socket) == 0 && memcmp(a->digest, b->digest, sizeof(a->digest)) == 0 &&
               strcmp(a->working_set, b->working_set) == 0 && strcmp(a->record, b->record) == 0;
}

int server_listen(struct server *server, const struct machine_order *order, const char **ret_why)
{
        struct machine *machine = find_in(server->machines, order->vm);
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
        add(server, machine);
        loop_set(&server->loop, &machine->timer, now_ns() + server->settings.hand_over_ns);
        return 0;
}

/* -- unasked --------------------------------------------------------------------------------------- */

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
        add(server, machine);
        why = find_template(machine, image) ? "its image cannot be mapped" : take(machine, handed);
        if (why && machine->pending.uffd_fd >= 0)
                refuse(machine, why);
        else if (why)
                server_forget(server, order->vm);
        return why;
}

/* -- taking over ----------------------------------------------------------------------------------- */

static int take_kept(struct server *server, const char *name, uint64_t device, uint64_t inode)
{
        for (size_t i = 0; i < server->keeper.n_kept; i++) {
                struct kept *one = &server->keeper.kept[i];
                struct stat at;

                if (one->fd >= 0 && strcmp(one->name, name) == 0 && fstat(one->fd, &at) == 0 &&
                    at.st_dev == device && at.st_ino == inode)
                        return TAKE_FD(one->fd);
        }
        return -ENOENT;
}

static int find_again(struct server *server, const struct journal_head *head, int pidfd, int number, uint64_t device,
                      uint64_t inode)
{
        char name[KEEPER_NAME_BYTES];
        int fd;

        name_for_keeper(head->vm, head->pid, head->start_ticks, name);
        fd = take_kept(server, name, device, inode);
        return fd >= 0 || number < 0 ? fd : fd_take_from(pidfd, number, device, inode);
}

static bool is_same_image(const struct image_identity *a, const struct image_identity *b)
{
        return memcmp(a, b, sizeof(*a)) == 0;
}

static int find_image(struct server *server, const struct journal_head *head, int pidfd, struct image *ret_image)
{
        struct image image;
        int r, fd;

        if (head->protocol == HANDSHAKE_MEMFD) {
                fd = find_again(server, head, pidfd, head->memfd_number, head->identity.device, head->identity.inode);
                r = fd < 0 ? fd : image_take_fd(fd, &image);
        } else
                r = image_take(head->image_path, &image);
        if (r)
                return r;
        if (!is_same_image(&image.identity, &head->identity)) {
                image_close(&image);
                return -ESTALE;
        }
        *ret_image = image;
        return 0;
}

static void order_of(const struct journal_head *head, struct machine_order *ret_order)
{
        memset(ret_order, 0, sizeof(*ret_order));
        memcpy(ret_order->vm, head->vm, sizeof(ret_order->vm));
        memcpy(ret_order->image, head->image_path, sizeof(ret_order->image));
        memcpy(ret_order->working_set, head->working_set_path, sizeof(ret_order->working_set));
        memcpy(ret_order->digest, head->digest, sizeof(ret_order->digest));
        ret_order->protocol = head->protocol;
}

/* Serve the machine of @journal. @journal, @pidfd: owned from here on. Returns NULL or why it cannot be, as
 * static text. */
static const char *succeed(struct machine *machine, struct journal *journal, int pidfd)
{
        struct server *server = machine->server;
        const struct journal_head *head = journal->head;
        struct vm_parts parts = {.journal = *journal, .pidfd = pidfd, .uffd_fd = FD_NONE};
        struct image image = {.fd = FD_NONE};
        const char *why = NULL;

        parts.uffd_fd = find_again(server, head, pidfd, head->uffd_number, head->uffd_device, head->uffd_inode);
        if (parts.uffd_fd < 0)
                why = "its userfaultfd is not to be had any more";
        else if (head->kept_by == KEPT_BY_KEEPER && !keeper_is_there(&server->keeper))
                why = "nobody else holds its userfaultfd: it could not outlive the page server";
        else if (find_image(server, head, pidfd, &image))
                why = "its image was changed, cut or removed";
        else if (template_acquire(&server->templates, &image, head->digest, head->working_set_path, &parts.template))
                why = "no memory";
        if (why) {
                process_end(pidfd, PROCESS_END_SOON_MS);
                journal_remove(server->journal_fd, head->vm);
                journal_close(journal);
                close_fd(parts.uffd_fd);
                close_fd(pidfd);
                return why;
        }
        if (vm_open(&server->host, &parts, false, true, &machine->vm))
                return "it cannot be served";
        machine->state = MACHINE_SERVING;
        say(machine, "vm.taken_over", machine->vm->journal.head->why);
        vm_begin(machine->vm);
        return NULL;
}

static void take_over(struct server *server, struct journal *journal)
{
        struct machine_order order;
        struct machine *machine;
        const char *why;
        int pidfd = process_open(journal->head->pid, journal->head->start_ticks);

        if (pidfd < 0) {
                journal_remove(server->journal_fd, journal->head->vm);
                journal_close(journal);
                return;
        }
        order_of(journal->head, &order);
        machine = machine_new(server, &order);
        if (!machine) {
                journal_close(journal);
                close_fd(pidfd);
                return;
        }
        add(server, machine);
        why = succeed(machine, journal, pidfd);
        if (why)
                retire_machine(machine, why);
}

static void say_journal(const char *name, const char *event, int error)
{
        struct json_out out;

        if (json_open(&out))
                return;
        json_put_text(&out, "event", event);
        json_put_text(&out, "file", name);
        json_put_text(&out, "why", strerror(-error));
        json_log(&out);
}

static bool is_journal(const char *name)
{
        size_t n = strlen(name), suffix = sizeof(JOURNAL_SUFFIX) - 1;

        return n > suffix && strcmp(name + n - suffix, JOURNAL_SUFFIX) == 0;
}

/* Returns 0, or -EPROTONOSUPPORT: another version wrote it, and has to go on. */
static int read_journal(struct server *server, const char *name)
{
        struct journal journal;
        int r = journal_open(server->journal_fd, name, &journal);

        switch (r) {
        case 0:
                take_over(server, &journal);
                return 0;
        case -ENODATA: /* its writer died in the middle: the machine was never served */
                unlinkat(server->journal_fd, name, 0);
                return 0;
        case -EPROTONOSUPPORT:
                say_journal(name, "journal.version", r);
                return r;
        default: /* nothing in it can be believed, not even whom to stop */
                say_journal(name, "journal.damaged", r);
                return 0;
        }
}

static int read_journals(struct server *server)
{
        int fd = openat(server->journal_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
        DIR *directory = fd < 0 ? NULL : fdopendir(fd);
        struct dirent *entry;

        if (!directory) {
                close_fd(fd);
                return -errno;
        }
        while (r == 0 && (entry = readdir(directory)))
                if (is_journal(entry->d_name))
                        r = read_journal(server, entry->d_name);
        closedir(directory);
        return r;
}

static bool is_served(const struct server *server, const char *vm, size_t length)
{
        char name[JOURNAL_ID_BYTES];

        snprintf(name, sizeof(name), "%.*s", (int)length, vm);
        return find_in(server->machines, name) != NULL;
}

/* What the keeper holds of machines that have no journal: the page server died while they were handed over. They
 * are stopped, because closing it would let them read zeros. */
static void stop_unclaimed(struct server *server)
{
        for (size_t i = 0; i < server->keeper.n_kept; i++) {
                struct kept *one = &server->keeper.kept[i];
                const char *at = strchr(one->name, '@');
                uint64_t ticks;
                int pid, pidfd;

                if (one->fd >= 0 && !at && strncmp(one->name, OFFLOAD_KEPT, sizeof(OFFLOAD_KEPT) - 1) == 0) {
                        offload_end_orphan(one->fd);
                        keeper_forget(&server->keeper, one->name);
                }
                if (one->fd < 0 || !at || is_served(server, one->name, (size_t)(at - one->name)))
                        continue;
                if (sscanf(at, "@%d@%" SCNu64, &pid, &ticks) == 2) {
                        pidfd = process_open(pid, ticks);
                        if (pidfd >= 0)
                                process_end(pidfd, PROCESS_END_MS);
                        close_fd(pidfd);
                }
                keeper_forget(&server->keeper, one->name);
        }
}

/* Everything that was needed has been taken. */
static void close_kept(struct server *server)
{
        for (size_t i = 0; i < server->keeper.n_kept; i++)
                server->keeper.kept[i].fd = close_fd(server->keeper.kept[i].fd);
}

/* -- life ------------------------------------------------------------------------------------------ */

static int open_directory(struct server *server, const char **ret_why)
{
        const char *path = server->settings.journal_path;
        int r;

        *ret_why = "the journal's directory cannot be opened";
        server->journal_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (server->journal_fd < 0)
                return -errno;
        *ret_why = "the journal's directory is not on a tmpfs, which keeps it in memory";
        r = journal_check_directory(server->journal_fd);
        if (r)
                return r;
        *ret_why = "the journal's lock cannot be taken";
        server->lock_fd = openat(server->journal_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (server->lock_fd < 0)
                return -errno;
        while (flock(server->lock_fd, LOCK_EX) < 0)
                if (errno != EINTR)
                        return -errno;
        return 0;
}

static void nobody_asks(struct server *server, struct machine *machine)
{
        (void)server;
        (void)machine;
}

int server_open(struct server *server, const struct server_settings *settings, const char **ret_why)
{
        int r;

        *server = (struct server){.settings = *settings, .journal_fd = FD_NONE, .lock_fd = FD_NONE};
        server->begun_ns = now_ns();
        server->changed = nobody_asks;
        server->loop.epoll_fd = server->keeper.fd = FD_NONE;
        r = open_directory(server, ret_why);
        if (r)
                return r;
        *ret_why = "no memory or descriptors";
        r = loop_open(&server->loop);
        r = r ? r : reader_open(&server->reader, &server->loop, settings->readers);
        if (r)
                return r;
        server->templates.reader = &server->reader;
        server->templates.loop = &server->loop;
        server->host = (struct vm_host){
                .loop = &server->loop,
                .reader = &server->reader,
                .templates = &server->templates,
                .journal_fd = server->journal_fd,
                .ready = vm_is_ready,
                .over = vm_is_over,
        };
        *ret_why = "the keeper cannot be reached";
        r = keeper_open(&server->keeper, &server->loop);
        if (r)
                return r;
        *ret_why = "a machine's journal is of another version of this program: start that one";
        r = read_journals(server);
        if (r)
                return r;
        stop_unclaimed(server);
        close_kept(server);
        *ret_why = "the socket of Kuasar's monitors cannot be made";
        return settings->kuasar.socket ? kuasar_open(server, &server->kuasar) : 0;
}

void server_abandon(struct server *server)
{
        for (struct machine *one = server->machines; one; one = one->next) {
                const struct journal_head *head = one->vm ? one->vm->journal.head : one->pending.facts;
                int pidfd = one->vm ? one->vm->process.fd : one->pending.pidfd;

                if (!head || pidfd < 0 || does_hold_now(head))
                        continue;
                say(one, "vm.stopped", "its keeper is gone, and nobody else holds its userfaultfd");
                process_end(pidfd, PROCESS_END_MS);
        }
}

static void free_all(struct machine **first)
{
        while (*first) {
                struct machine *machine = *first;

                *first = machine->next;
                machine_free(machine, false);
        }
}

void server_close(struct server *server)
{
        if (server->loop.epoll_fd < 0)
                goto out;
        kuasar_stop(server->kuasar);
        free_all(&server->machines);
        free_all(&server->stopped);
        reader_close(&server->reader);
        kuasar_close(server->kuasar);
        keeper_close(&server->keeper);
        loop_close(&server->loop);
        templates_close(&server->templates);
out:
        close_fd(server->lock_fd);
        close_fd(server->journal_fd);
}
