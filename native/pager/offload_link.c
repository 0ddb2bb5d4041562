#define _GNU_SOURCE
#include "offload_link.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fdutil.h"

#define MAX_FDS 8 /* looked at in one message: more are cut off by the kernel, and refused */
/* A long message is taken and sent in rounds of the loop, so that nobody waits for it. */
#define MAX_ROUNDS 4
#define MAX_SENT_BYTES (64 * 1024)

int offload_link_open(struct offload_link *link, struct loop *loop, int fd,
                      void (*ready)(struct source *source, uint32_t events))
{
        int r;

        *link = (struct offload_link){
                .source = { .ready = ready, .fd = fd },
                .loop = loop,
                .events = EPOLLIN,
                .fd = FD_NONE,
        };
        r = fcntl(fd, F_SETFL, O_NONBLOCK) < 0 ? -errno : loop_add(loop, &link->source, link->events);
        if (r)
                offload_link_close(link);
        return r;
}

void offload_link_close(struct offload_link *link)
{
        if (link->source.fd >= 0)
                loop_remove(link->loop, &link->source);
        link->source.fd = close_fd(link->source.fd);
        link->fd = close_fd(link->fd);
        link->n_out = link->first_out = 0;
}

int offload_link_peer(const struct offload_link *link, uid_t uid, pid_t *ret_pid)
{
        struct ucred peer;
        socklen_t length = sizeof(peer);

        if (getsockopt(link->source.fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0)
                return -errno;
        if (peer.uid != uid && peer.uid != geteuid())
                return -EPERM;
        *ret_pid = peer.pid;
        return 0;
}

int offload_peer_process(int fd)
{
        struct ucred peer;
        socklen_t length = sizeof(peer);
        struct pollfd other = { .fd = fd };
        _cleanup_close_ int pidfd = FD_NONE;

        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0)
                return -errno;
        if (peer.pid <= 0 || peer.pid == getpid())
                return -ESRCH;
        pidfd = (int)syscall(SYS_pidfd_open, peer.pid, 0);
        if (pidfd < 0)
                return -errno;
        /* Its end is open still, so it has lived up to now, and the number has meant it. */
        if (poll(&other, 1, 0) < 0)
                return -errno;
        return other.revents & POLLHUP ? -ESRCH : TAKE_FD(pidfd);
}

void offload_link_expect(struct offload_link *link, void *into, size_t n, bool takes_fd)
{
        link->into = into;
        link->wanted = n;
        link->got = 0;
        link->takes_fd = takes_fd;
}

/* Keep the descriptor that is awaited, close every other. Returns 0, or -EPROTO if there was another. */
static int take_fds(struct offload_link *link, const struct cmsghdr *control)
{
        size_t n = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        int r = 0;

        for (size_t i = 0; i < n; i++) {
                int fd;

                memcpy(&fd, CMSG_DATA(control) + i * sizeof(fd), sizeof(fd));
                if (link->takes_fd && link->fd < 0) {
                        link->fd = fd;
                        continue;
                }
                close_fd(fd);
                r = -EPROTO;
        }
        return r;
}

static int take_control(struct offload_link *link, struct msghdr *message)
{
        int r = message->msg_flags & MSG_CTRUNC ? -EPROTO : 0;

        for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c))
                if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && take_fds(link, c) < 0)
                        r = -EPROTO;
        return r;
}

/* Receive once. Returns the count, 0 if there is nothing, or a negative errno. */
static ssize_t receive_some(struct offload_link *link)
{
        struct iovec bytes = { link->into + link->got, link->wanted - link->got };
        char control[CMSG_SPACE(MAX_FDS * sizeof(int))] __attribute__((aligned(8)));
        struct msghdr message = {
                .msg_iov = &bytes,
                .msg_iovlen = 1,
                .msg_control = control,
                .msg_controllen = sizeof(control),
        };
        ssize_t n;
        int r;

        do
                n = recvmsg(link->source.fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return errno == EAGAIN ? 0 : -errno;
        r = take_control(link, &message);
        if (r < 0)
                return r;
        return n > 0 ? n : -ECONNRESET;
}

int offload_link_receive(struct offload_link *link)
{
        for (int round = 0; round < MAX_ROUNDS && link->got < link->wanted; round++) {
                ssize_t n = receive_some(link);

                if (n <= 0)
                        return (int)n;
                link->got += (size_t)n;
        }
        if (link->got < link->wanted)
                return 0;
        return link->takes_fd && link->fd < 0 ? -EPROTO : 1;
}

int offload_link_take_fd(struct offload_link *link)
{
        return TAKE_FD(link->fd);
}

void offload_link_send(struct offload_link *link, const void *bytes, size_t n, int fd)
{
        if (link->first_out == link->n_out)
                link->first_out = link->n_out = 0;
        link->out[link->n_out++] = (struct offload_piece){ .bytes = bytes, .length = n, .fd = fd };
}

static void attach(struct msghdr *message, char *control, size_t n, int fd)
{
        struct cmsghdr *header;

        message->msg_control = control;
        message->msg_controllen = n;
        header = CMSG_FIRSTHDR(message);
        *header = (struct cmsghdr){
                .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(fd))
        };
        memcpy(CMSG_DATA(header), &fd, sizeof(fd));
}

/* Send once of @piece. Returns the count, 0 if the peer has to read first, or a negative errno. */
static ssize_t send_some(int socket_fd, const struct offload_piece *piece)
{
        struct iovec bytes = { (void *)piece->bytes, piece->length < MAX_SENT_BYTES ? piece->length : MAX_SENT_BYTES };
        char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))) = { 0 };
        struct msghdr message = { .msg_iov = &bytes, .msg_iovlen = 1 };
        ssize_t n;

        if (piece->fd >= 0)
                attach(&message, control, sizeof(control), piece->fd);
        do
                n = sendmsg(socket_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return errno == EAGAIN ? 0 : -errno;
        return n;
}

int offload_link_flush(struct offload_link *link)
{
        for (int round = 0; round < MAX_ROUNDS && link->first_out < link->n_out; round++) {
                struct offload_piece *piece = &link->out[link->first_out];
                ssize_t n = send_some(link->source.fd, piece);

                if (n <= 0)
                        return (int)n;
                piece->bytes += n;
                piece->length -= (size_t)n;
                piece->fd = FD_NONE;
                if (piece->length == 0)
                        link->first_out++;
        }
        return link->first_out == link->n_out;
}

int offload_link_want(struct offload_link *link, uint32_t events)
{
        int r = link->events == events ? 0 : loop_change(link->loop, &link->source, events);

        if (r == 0)
                link->events = events;
        return r;
}
