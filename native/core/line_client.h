/* Talk in lines over a stream socket: QMP, and the newline-JSON sockets of sandboxers. */
#ifndef SNAPSTART_LINE_CLIENT_H
#define SNAPSTART_LINE_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "deadline.h"

#define LINE_MAX_BYTES (64 * 1024)

/* A connection and what was read from it beyond the last line. */
struct line_client {
        int fd;               /* owned if own_fd */
        bool own_fd;
        size_t start, end;    /* unread bytes in buffer */
        size_t scanned;       /* bytes from start known to hold no newline */
        char buffer[LINE_MAX_BYTES];
};

/* Use a connected socket. @fd: stays the caller's. The socket's blocking mode does not matter. */
void line_client_attach(struct line_client *client, int fd);

/* Connect to a Unix socket. Returns 0, or a negative errno (-ENAMETOOLONG from 108 bytes). */
int line_client_open(struct line_client *client, const char *path, const struct limits *lim);

/* Close what is owned. Takes NULL. */
void line_client_close(struct line_client *client);

/* Send @n bytes, with @pass_fd attached to the first if it is not negative.
 * @pass_fd: borrowed; the peer gets a copy.
 * Returns 0, -ECANCELED, -ETIMEDOUT, -EPIPE or another negative errno. */
int line_client_send(struct line_client *client, const void *bytes, size_t n, int pass_fd, const struct limits *lim);

/* Send as much as goes without waiting. Returns the count, possibly 0, or a negative errno. */
ssize_t line_client_try_send(struct line_client *client, const void *bytes, size_t n);

/* Read once, without waiting. Descriptors a peer attaches are not received: the kernel drops them.
 * Returns the number of bytes read, 0 if there was nothing, -ECONNRESET at the end of the stream,
 * -EMSGSIZE if a line is longer than LINE_MAX_BYTES, or another negative errno. */
ssize_t line_client_fill(struct line_client *client);

/* Take the next whole line that was read, without its "\n" or "\r\n".
 * Returns its length with a pointer that is valid until the next call on @client, -EAGAIN if there
 * is none. */
ssize_t line_client_take(struct line_client *client, const char **ret_line);

/* Wait for the next line. Returns as line_client_take(), or the errors of line_client_fill(),
 * -ECANCELED, -ETIMEDOUT. */
ssize_t line_client_read(struct line_client *client, const struct limits *lim, const char **ret_line);

#endif
