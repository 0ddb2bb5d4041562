#define _GNU_SOURCE
#include "server_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fdutil.h"
#include "json_out.h"
#include "offloads.h"
#include "process.h"
#include "uffd.h"

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

        machine_name_for_keeper(head->vm, head->pid, head->start_ticks, name);
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
        server_say(machine, "vm.taken_over", machine->vm->journal.head->why);
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
        machine_add(server, machine);
        why = succeed(machine, journal, pidfd);
        if (why)
                machine_retire(machine, why);
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

int server_read_journals(struct server *server)
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
        return machine_find_in(server->machines, name) != NULL;
}

/* What the keeper holds of machines that have no journal: the page server died while they were handed over. They
 * are stopped, because closing it would let them read zeros. */
void server_stop_unclaimed(struct server *server)
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
void server_close_kept(struct server *server)
{
        for (size_t i = 0; i < server->keeper.n_kept; i++)
                server->keeper.kept[i].fd = close_fd(server->keeper.kept[i].fd);
}
