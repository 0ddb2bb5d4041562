#define _GNU_SOURCE
#include "hand_over.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "deadline.h"
#include "fdutil.h"
#include "json_scan.h"
#include "kill_point.h"
#include "process.h"
#include "uffd.h"

#define LINKS_MAX 64 /* connections that have not said everything yet */
#define BACKLOG 64
#define FIRST_BYTES 8192
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

/* One connection. */
struct hand_over_link {
        struct source source;
        struct timer timer;
        struct grave grave;
        struct hand_over *owner;
        struct hand_over_link *next;
        char *text; /* owned */
        size_t length, capacity;
        struct json_progress progress;
        int fds[HANDSHAKE_MAX_FDS];
        int n_fds;
        int pid, pidfd;
};

static void release(struct grave *grave)
{
        free(container_of(grave, struct hand_over_link, grave));
}

static void link_close(struct hand_over_link *link)
{
        struct hand_over_link **at = &link->owner->links;
        struct loop *loop = link->owner->loop;

        while (*at && *at != link)
                at = &(*at)->next;
        if (*at)
                *at = link->next;
        link->owner->n_links--;
        loop_unset(loop, &link->timer);
        loop_remove(loop, &link->source);
        for (int i = 0; i < link->n_fds; i++)
                close_fd(link->fds[i]);
        close_fd(link->source.fd);
        close_fd(link->pidfd);
        free(link->text);
        loop_later(loop, &link->grave);
}

/* A monitor whose userfaultfd came but is not taken would wait for ever, or read zeros once it is closed. */
static void end_monitor(const struct hand_over_link *link)
{
        struct uffd_facts facts;

        for (int i = 0; i < link->n_fds; i++)
                if (uffd_inspect(link->fds[i], &facts) == 0)
                        process_end(link->pidfd, PROCESS_END_SOON_MS);
}

static void refuse(struct hand_over_link *link, const char *why)
{
        struct hand_over *owner = link->owner;

        end_monitor(link);
        link_close(link);
        owner->caller->received(owner, NULL, why);
}

static void too_late(struct timer *timer)
{
        refuse(container_of(timer, struct hand_over_link, timer), "it did not say everything in time");
}

/* Keep the descriptors of one message; those beyond what is kept are closed by the kernel (MSG_CTRUNC). */
static void keep_fds(struct hand_over_link *link, struct msghdr *message)
{
        for (struct cmsghdr *one = CMSG_FIRSTHDR(message); one; one = CMSG_NXTHDR(message, one)) {
                size_t n = (one->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                int fds[HANDSHAKE_MAX_FDS];

                if (one->cmsg_level != SOL_SOCKET || one->cmsg_type != SCM_RIGHTS)
                        continue;
                memcpy(fds, CMSG_DATA(one), n * sizeof(int));
                for (size_t i = 0; i < n; i++) {
                        if (link->n_fds < HANDSHAKE_MAX_FDS)
                                link->fds[link->n_fds++] = fds[i];
                        else
                                close_fd(fds[i]);
                }
        }
}

static bool make_room(struct hand_over_link *link)
{
        size_t wanted = link->capacity ? link->capacity * 2 : FIRST_BYTES;
        char *text;

        if (link->length < link->capacity)
                return true;
        if (wanted > HANDSHAKE_MAX_BYTES)
                return false;
        text = realloc(link->text, wanted);
        if (!text)
                return false;
        link->text = text;
        link->capacity = wanted;
        return true;
}

/* Returns bytes received, 0 at the end, -EAGAIN if there is nothing, -ENOBUFS if it is too much. */
static ssize_t receive(struct hand_over_link *link)
{
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(HANDSHAKE_MAX_FDS * sizeof(int))];
        } control;
        struct iovec part;
        struct msghdr message = {
                .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
        ssize_t n;

        if (!make_room(link))
                return -ENOBUFS;
        part = (struct iovec){.iov_base = link->text + link->length, .iov_len = link->capacity - link->length};
        n = recvmsg(link->source.fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (n < 0)
                return -errno;
        keep_fds(link, &message);
        if (message.msg_flags & MSG_CTRUNC)
                return -ENOBUFS;
        link->length += (size_t)n;
        return n;
}

/* All is said: pass it on. */
static void complete(struct hand_over_link *link, const struct handshake *handshake)
{
        struct hand_over *owner = link->owner;
        struct handed handed = {.handshake = handshake, .pid = link->pid, .pidfd = TAKE_FD(link->pidfd)};

        for (int i = 0; i < HAND_OVER_FDS; i++)
                handed.fds[i] = i < link->n_fds ? TAKE_FD(link->fds[i]) : FD_NONE;
        link_close(link);
        owner->caller->received(owner, &handed, NULL);
        for (int i = 0; i < HAND_OVER_FDS; i++)
                close_fd(handed.fds[i]);
        close_fd(handed.pidfd);
}

/* Returns whether more has to come. @is_end: nothing more will. */
static bool consider(struct hand_over_link *link, bool is_end)
{
        int r, wanted = handshake_fds(link->owner->protocol);
        bool was_whole = link->progress.is_whole;
        struct handshake *handshake;
        const char *why = "no memory";

        /* What comes byte by byte is read once when it is whole, and once when its descriptors are there. */
        if (!is_end && (!json_is_whole(&link->progress, link->text, link->length) ||
                        (was_whole && link->n_fds < wanted)))
                return true;
        handshake = malloc(sizeof(*handshake));
        r = handshake ? handshake_parse(link->owner->protocol, link->text, link->length, 0, handshake, &why) : -ENOMEM;
        if (r == 0 && link->n_fds > wanted)
                refuse(link, "it sent more descriptors than its protocol has");
        else if (r == 0 && link->n_fds == wanted)
                complete(link, handshake);
        else if ((r == 0 || r == -EAGAIN) && !is_end) {
                free(handshake);
                return true;
        } else
                refuse(link, r == 0        ? "it sent no userfaultfd"
                             : r == -EAGAIN ? "it hung up in the middle of what it said"
                                            : why);
        free(handshake);
        return false;
}

static void readable(struct source *source, uint32_t events)
{
        struct hand_over_link *link = container_of(source, struct hand_over_link, source);
        ssize_t n = receive(link);

        (void)events;
        kill_point(KILL_RECEIVE);
        if (n == -EAGAIN || n == -EINTR)
                return;
        if (n < 0 && n != -ECONNRESET) {
                refuse(link, "it said too much");
                return;
        }
        consider(link, n <= 0);
}

static int find_peer(int fd, uid_t *ret_uid, int *ret_pid, int *ret_pidfd)
{
        struct ucred peer;
        socklen_t length = sizeof(peer);
        int pidfd;

        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0)
                return -errno;
        length = sizeof(pidfd);
        if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &length) < 0)
                pidfd = (int)syscall(SYS_pidfd_open, peer.pid, 0); /* before Linux 6.5 */
        if (pidfd < 0)
                return -errno;
        *ret_uid = peer.uid;
        *ret_pid = peer.pid;
        *ret_pidfd = pidfd;
        return 0;
}

static bool may_connect(const struct hand_over *hand_over, uid_t uid)
{
        return uid == 0 || uid == hand_over->uid;
}

static void link_open(struct hand_over *hand_over, int fd)
{
        struct hand_over_link *link = calloc(1, sizeof(*link));
        uid_t uid = 0;
        int r;

        if (!link) {
                close_fd(fd);
                return;
        }
        link->owner = hand_over;
        link->source = (struct source){.ready = readable, .fd = fd};
        link->timer.due = too_late;
        link->grave.release = release;
        link->pidfd = FD_NONE;
        link->next = hand_over->links;
        hand_over->links = link;
        hand_over->n_links++;
        r = find_peer(fd, &uid, &link->pid, &link->pidfd);
        if (!r && !may_connect(hand_over, uid))
                r = -EPERM;
        r = r ? r : loop_add(hand_over->loop, &link->source, EPOLLIN);
        if (r)
                link_close(link);
        else
                loop_set(hand_over->loop, &link->timer, now_ns() + hand_over->patience_ns);
}

static struct hand_over_link *oldest(struct hand_over *hand_over)
{
        struct hand_over_link *link = hand_over->links;

        while (link->next)
                link = link->next;
        return link;
}

static void connected(struct source *source, uint32_t events)
{
        struct hand_over *hand_over = container_of(source, struct hand_over, listener);
        int fd = accept4(source->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        (void)events;
        if (fd < 0)
                return;
        if (hand_over->n_links == LINKS_MAX)
                refuse(oldest(hand_over), "it said nothing while many others came");
        /* Whoever was told of that may have closed the door. */
        if (hand_over->loop)
                link_open(hand_over, fd);
        else
                close_fd(fd);
}

static int bind_at(int fd, const char *path, uid_t uid)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};

        if (strlen(path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        strcpy(address.sun_path, path);
        if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                return errno == EADDRINUSE ? -EEXIST : -errno;
        /* Nobody can connect before listen(2), so its owner and mode are right in time. */
        if (chmod(path, 0600) < 0 || chown(path, uid, (gid_t)-1) < 0 || listen(fd, BACKLOG) < 0) {
                int r = -errno;

                unlink(path);
                return r;
        }
        return 0;
}

int hand_over_open(struct hand_over *hand_over, struct loop *loop, const char *path)
{
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        int r;

        if (fd < 0)
                return -errno;
        r = bind_at(fd, path, hand_over->uid);
        if (r)
                return r;
        strcpy(hand_over->path, path);
        hand_over->loop = loop;
        hand_over->links = NULL;
        hand_over->n_links = 0;
        hand_over->listener = (struct source){.ready = connected, .fd = fd};
        r = loop_add(loop, &hand_over->listener, EPOLLIN);
        if (r) {
                unlink(path);
                return r;
        }
        fd = FD_NONE;
        return 0;
}

void hand_over_close(struct hand_over *hand_over)
{
        if (!hand_over->loop)
                return;
        while (hand_over->links)
                link_close(hand_over->links);
        loop_remove(hand_over->loop, &hand_over->listener);
        hand_over->listener.fd = close_fd(hand_over->listener.fd);
        unlink(hand_over->path);
        hand_over->loop = NULL;
}
