#define _GNU_SOURCE
#include "control_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "fdutil.h"

#define LINE_MAX_BYTES (64 * 1024)
#define LINKS_MAX 256
#define BACKLOG 64
#define LINES_PER_TURN 16

static void release(struct grave *grave)
{
        struct control_link *link = container_of(grave, struct control_link, grave);

        free(link->in);
        free(link);
}

void control_link_close(struct control_link *link)
{
        struct control_link **at = &link->control->links;
        struct loop *loop = &link->control->server->loop;

        if (link->source.fd < 0)
                return;
        while (*at && *at != link)
                at = &(*at)->next;
        if (*at)
                *at = link->next;
        link->control->n_links--;
        loop_unset(loop, &link->timer);
        loop_remove(loop, &link->source);
        link->source.fd = close_fd(link->source.fd);
        free(link->out);
        link->out = NULL;
        loop_later(loop, &link->grave);
}

/* Do what is complete, one request after the other, each when the one before is answered. */
void control_read_on(struct control_link *link)
{
        size_t at = 0;
        int lines = 0;

        link->is_reading = true;
        for (; !link->is_busy && link->source.fd >= 0 && lines < LINES_PER_TURN; lines++) {
                char *end = memchr(link->in + at, '\n', link->n_in - at);
                size_t length;

                if (!end)
                        break;
                length = (size_t)(end - link->in) - at;
                control_do_line(link, link->in + at, length);
                at += length + 1;
        }
        link->is_reading = false;
        link->n_in -= at;
        memmove(link->in, link->in + at, link->n_in);
        /* Others first: it is told again in the next round, because it can be written to. */
        if (lines == LINES_PER_TURN && !link->is_busy && link->source.fd >= 0)
                loop_change(&link->control->server->loop, &link->source, EPOLLOUT);
}

static void readable(struct control_link *link)
{
        ssize_t n = recv(link->source.fd, link->in + link->n_in, LINE_MAX_BYTES - link->n_in, MSG_DONTWAIT);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n <= 0) {
                control_link_close(link);
                return;
        }
        link->n_in += (size_t)n;
        control_read_on(link);
        if (link->source.fd >= 0 && !link->is_busy && link->n_in == LINE_MAX_BYTES)
                control_link_close(link); /* no request is as long */
        else if (link->source.fd >= 0 && link->is_busy && link->n_in == LINE_MAX_BYTES)
                loop_change(&link->control->server->loop, &link->source, 0); /* read when it has been answered */
}

static void ready(struct source *source, uint32_t events)
{
        struct control_link *link = container_of(source, struct control_link, source);

        if (events & EPOLLOUT) {
                if (!control_flush(link))
                        control_link_close(link);
                else
                        control_read_on(link);
        } else if (events & EPOLLIN)
                readable(link);
        else
                control_link_close(link);
}

static bool may_command(int fd)
{
        struct ucred peer;
        socklen_t length = sizeof(peer);

        return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
               (peer.uid == 0 || peer.uid == geteuid());
}

static void link_open(struct control *control, int fd)
{
        struct control_link *link = calloc(1, sizeof(*link));

        if (link)
                link->in = malloc(LINE_MAX_BYTES);
        if (!link || !link->in) {
                free(link);
                close_fd(fd);
                return;
        }
        link->control = control;
        link->serial = ++control->next_serial;
        link->source = (struct source){.ready = ready, .fd = fd};
        link->timer.due = control_wait_ended;
        link->grave.release = release;
        link->next = control->links;
        control->links = link;
        control->n_links++;
        if (loop_add(&control->server->loop, &link->source, EPOLLIN))
                control_link_close(link);
}

static void connected(struct source *source, uint32_t events)
{
        struct control *control = container_of(source, struct control, listener);
        int fd = accept4(source->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        (void)events;
        if (fd < 0)
                return;
        if (control->n_links < LINKS_MAX && may_command(fd))
                link_open(control, fd);
        else
                close_fd(fd);
}

static int listen_at(const char *path, int *ret_fd)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        _cleanup_close_ int fd = FD_NONE;

        if (strlen(path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        strcpy(address.sun_path, path);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        unlink(path);
        if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || chmod(path, 0600) < 0 ||
            listen(fd, BACKLOG) < 0)
                return -errno;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* A client that is gone before it was accepted must not stop us. */
static int set_nonblocking(int fd)
{
        int flags = fcntl(fd, F_GETFL);

        return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

int control_open(struct control *control, struct server *server, const char *path)
{
        _cleanup_close_ int fd = TAKE_FD(server->listener_fd);
        int r = fd < 0 ? listen_at(path, &fd) : set_nonblocking(fd);

        if (r)
                return r;
        *control = (struct control){.server = server, .listener = {.ready = connected, .fd = fd}};
        control->offloads = (struct offloads){
                .server = server, .changed = control_offload_changed, .recorded = control_offload_recorded};
        r = loop_add(&server->loop, &control->listener, EPOLLIN);
        if (r)
                return r;
        fd = FD_NONE;
        server->control = control;
        server->changed = control_machine_changed;
        return 0;
}

void control_close(struct control *control)
{
        offloads_close(&control->offloads);
        while (control->links)
                control_link_close(control->links);
        loop_remove(&control->server->loop, &control->listener);
        control->listener.fd = close_fd(control->listener.fd);
        control->server->control = NULL;
}
