#define _GNU_SOURCE
#include "line_client.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "fdutil.h"

void line_client_attach(struct line_client *client, int fd)
{
        client->fd = fd;
        client->own_fd = false;
        client->start = client->end = client->scanned = 0;
}

int line_client_open(struct line_client *client, const char *path, const struct limits *lim)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        _cleanup_close_ int fd = FD_NONE;
        size_t length = strlen(path);

        if (length >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        memcpy(address.sun_path, path, length + 1);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        while (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
                struct pollfd none[1];
                int r;

                if (errno == EINTR)
                        continue;
                if (errno != EAGAIN)
                        return -errno;
                r = limits_poll(lim, none, 0, now_ns() + 1000000); /* the backlog is full; no event tells */
                if (r < 0)
                        return r;
        }
        line_client_attach(client, TAKE_FD(fd));
        client->own_fd = true;
        return 0;
}

void line_client_close(struct line_client *client)
{
        if (!client)
                return;
        if (client->own_fd)
                close_fd(client->fd);
        client->fd = FD_NONE;
        client->own_fd = false;
}

static ssize_t send_once(int fd, const void *bytes, size_t n, int pass_fd)
{
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(sizeof(int))];
        } control = { .space = { 0 } };
        struct iovec iov = { (void *)(uintptr_t)bytes, n };
        struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };
        ssize_t sent;

        if (pass_fd >= 0) {
                struct cmsghdr *header;

                message.msg_control = control.space;
                message.msg_controllen = sizeof(control.space);
                header = CMSG_FIRSTHDR(&message);
                header->cmsg_level = SOL_SOCKET;
                header->cmsg_type = SCM_RIGHTS;
                header->cmsg_len = CMSG_LEN(sizeof(int));
                memcpy(CMSG_DATA(header), &pass_fd, sizeof(int));
        }
        do
                sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        while (sent < 0 && errno == EINTR);
        if (sent < 0)
                return errno == EAGAIN ? 0 : -errno;
        return sent;
}

ssize_t line_client_try_send(struct line_client *client, const void *bytes, size_t n)
{
        return n == 0 ? 0 : send_once(client->fd, bytes, n, -1);
}

int line_client_send(struct line_client *client, const void *bytes, size_t n, int pass_fd, const struct limits *lim)
{
        const char *at = bytes;

        while (n > 0) {
                ssize_t sent = send_once(client->fd, at, n, pass_fd);
                int r;

                if (sent < 0)
                        return (int)sent;
                if (sent == 0) {
                        r = limits_wait(lim, client->fd, POLLOUT);
                        if (r < 0)
                                return r;
                        continue;
                }
                pass_fd = -1;
                at += sent;
                n -= (size_t)sent;
        }
        return 0;
}

ssize_t line_client_fill(struct line_client *client)
{
        ssize_t got;

        if (client->start > 0) {
                memmove(client->buffer, client->buffer + client->start, client->end - client->start);
                client->end -= client->start;
                client->start = 0;
        }
        if (client->end == sizeof(client->buffer))
                return -EMSGSIZE;
        do
                got = recv(client->fd, client->buffer + client->end, sizeof(client->buffer) - client->end, MSG_DONTWAIT);
        while (got < 0 && errno == EINTR);
        if (got < 0)
                return errno == EAGAIN ? 0 : -errno;
        if (got == 0)
                return -ECONNRESET;
        client->end += (size_t)got;
        return got;
}

ssize_t line_client_take(struct line_client *client, const char **ret_line)
{
        char *start = client->buffer + client->start;
        size_t unread = client->end - client->start, length;
        char *newline = memchr(start + client->scanned, '\n', unread - client->scanned);

        if (!newline) {
                client->scanned = unread;
                return -EAGAIN;
        }
        length = (size_t)(newline - start);
        client->start += length + 1;
        client->scanned = 0;
        if (length > 0 && start[length - 1] == '\r')
                length--;
        *ret_line = start;
        return (ssize_t)length;
}

ssize_t line_client_read(struct line_client *client, const struct limits *lim, const char **ret_line)
{
        for (;;) {
                ssize_t r = line_client_take(client, ret_line);

                if (r != -EAGAIN)
                        return r;
                r = line_client_fill(client);
                if (r == 0)
                        r = limits_wait(lim, client->fd, POLLIN);
                if (r < 0)
                        return r;
        }
}
