#define _GNU_SOURCE
#include "server_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "deadline.h"
#include "fdutil.h"
#include "kuasar.h"
#include "process.h"

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

        *server = (struct server){
                .settings = *settings, .journal_fd = FD_NONE, .lock_fd = FD_NONE, .listener_fd = FD_NONE};
        server->begun_ns = now_ns();
        server->changed = nobody_asks;
        server->loop.epoll_fd = server->keeper.fd = FD_NONE;
        r = open_directory(server, ret_why);
        if (r)
                return r;
        *ret_why = "no memory or descriptors";
        r = loop_open(&server->loop);
        r = r ? r : reader_open(&server->reader, &server->loop, settings->readers);
        r = r ? r : crew_open(&server->crew, &server->loop, crew_size());
        if (r)
                return r;
        server->templates.reader = &server->reader;
        server->templates.loop = &server->loop;
        server->host = (struct vm_host){
                .loop = &server->loop,
                .reader = &server->reader,
                .crew = &server->crew,
                .templates = &server->templates,
                .journal_fd = server->journal_fd,
                .ready = server_vm_is_ready,
                .over = server_vm_is_over,
        };
        *ret_why = "the keeper cannot be reached";
        r = keeper_open(&server->keeper, &server->loop);
        if (r)
                return r;
        server->listener_fd = keeper_take(&server->keeper, KEEPER_CONTROL);
        *ret_why = "a machine's journal is of another version of this program: start that one";
        r = server_read_journals(server);
        if (r)
                return r;
        server_stop_unclaimed(server);
        server_close_kept(server);
        *ret_why = "the socket of Kuasar's monitors cannot be made";
        return settings->kuasar.socket ? kuasar_open(server, &server->kuasar) : 0;
}

void server_abandon(struct server *server)
{
        for (struct machine *one = server->machines; one; one = one->next) {
                const struct journal_head *head = one->vm ? one->vm->journal.head : one->pending.facts;
                int pidfd = one->vm ? one->vm->process.fd : one->pending.pidfd;

                if (!head || pidfd < 0 || server_does_hold_now(head))
                        continue;
                server_say(one, "vm.stopped", "its keeper is gone, and nobody else holds its userfaultfd");
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
        crew_close(&server->crew);
        kuasar_close(server->kuasar);
        keeper_close(&server->keeper);
        loop_close(&server->loop);
        templates_close(&server->templates);
out:
        close_fd(server->listener_fd);
        close_fd(server->lock_fd);
        close_fd(server->journal_fd);
}
