/* One connection of the offload protocol on the loop: what is awaited arrives exactly, what is sent waits in a
 * short queue. Nothing blocks, and nothing is read before somebody asks for it. */
#ifndef SNAPSTART_OFFLOAD_LINK_H
#define SNAPSTART_OFFLOAD_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "fdutil.h"
#include "loop.h"

#define OFFLOAD_LINK_PIECES 4

/* Bytes that go out in messages of their own: a receiver that reads with read(2) up to where one begins
 * does not lose the descriptor that comes with it. */
struct offload_piece {
        const uint8_t *bytes; /* borrowed until sent */
        size_t length;
        int fd; /* borrowed until sent; FD_NONE for none */
};

struct offload_link {
        struct source source; /* fd: owned */
        struct loop *loop;
        uint32_t events; /* asked for */
        uint8_t *into; /* what is awaited; borrowed */
        size_t wanted, got;
        bool takes_fd; /* one descriptor comes with it */
        int fd; /* that came; owned */
        struct offload_piece out[OFFLOAD_LINK_PIECES];
        size_t n_out, first_out;
};

/* Register a connected socket. @fd: owned by the link from here on, on failure too; made non-blocking.
 * Returns 0 or a negative errno. */
int offload_link_open(struct offload_link *link, struct loop *loop, int fd,
                      void (*ready)(struct source *source, uint32_t events));

/* Close what is owned. Zeroed memory does not do: begin with OFFLOAD_LINK_NONE. */
void offload_link_close(struct offload_link *link);

#define OFFLOAD_LINK_NONE { .source = { .fd = FD_NONE }, .fd = FD_NONE }

/* Returns 0 if the peer's user is @uid or this process's own, -EPERM if not; with its process in *ret_pid. */
int offload_link_peer(const struct offload_link *link, uid_t uid, pid_t *ret_pid);

/* Returns an owned pidfd of the process at the other end of socket @fd, which listened or connected;
 * -ESRCH if it is gone or is this one, or another negative errno. */
int offload_peer_process(int fd);

/* Await @n bytes at @into, with a descriptor if @takes_fd. */
void offload_link_expect(struct offload_link *link, void *into, size_t n, bool takes_fd);

/* Receive of what is awaited what there is, up to some hundred KiB.
 * Returns 1 when it is complete, 0 if more has to come, -ECONNRESET at the end of the stream, -EPROTO if
 * descriptors came that were not asked for (closed), or none that was, or another negative errno. */
int offload_link_receive(struct offload_link *link);

/* Take the descriptor that came. */
int offload_link_take_fd(struct offload_link *link);

/* Queue a piece of at least one byte. There is always room: who sends awaits an answer before sending more. */
void offload_link_send(struct offload_link *link, const void *bytes, size_t n, int fd);

/* Send of what is queued what the socket takes, up to some hundred KiB. Returns 1 when nothing is left, 0 to
 * be called again when the loop says EPOLLOUT, or a negative errno. */
int offload_link_flush(struct offload_link *link);

/* Returns whether something is queued. */
static inline bool offload_link_is_sending(const struct offload_link *link)
{
        return link->first_out < link->n_out;
}

/* Ask to be told of @events only. Returns 0 or a negative errno. */
int offload_link_want(struct offload_link *link, uint32_t events);

#endif
