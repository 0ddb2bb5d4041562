/* Carry length-prefixed JSON messages over a channel, non-blocking: straight over a Unix socket, or
 * inside one stream of the multiplexer, whose synchronisation and credit are handled here.
 *
 * A message is a 4-byte big-endian length and that many bytes, at most LINK_MAX_MESSAGE. One message
 * at a time is being sent; received messages are taken one by one. */
#ifndef SNAPSTART_MESSAGE_LINK_H
#define SNAPSTART_MESSAGE_LINK_H

#include "mux.h"

#define LINK_MAX_MESSAGE (4U * 1024 * 1024)
#define LINK_MAX_RECEIVED (32U * 1024 * 1024) /* more than any honest guest sends on one link */
#define LINK_STREAM 1U
#define LINK_NEXT_STREAM 3U
#define LINK_TEXT_BYTES 200

struct message_link {
        int fd;                 /* borrowed */
        bool is_mux;
        bool is_synced;         /* HELLO_ACK with our epoch was received (always true without mux) */
        bool peer_closed;       /* the guest sends no more on the stream */
        int64_t synced_ns;      /* when is_synced became true, CLOCK_MONOTONIC; 0 before */
        uint8_t epoch[MUX_EPOCH_BYTES];
        uint64_t received;      /* bytes in all */

        size_t credit;          /* what we may still send on the stream */
        size_t consumed;        /* what we received and have not given credit for */
        uint8_t prefix[4];      /* of the message being sent */
        const uint8_t *body;    /* borrowed until sent */
        size_t body_length;
        size_t sent;            /* bytes of prefix and body put into frames */

        size_t out_start, out_end;
        uint8_t out[2 * MUX_HEADER_BYTES + MUX_MAX_PAYLOAD + 512];

        size_t raw_start, raw_end; /* received, not yet decoded */
        uint8_t raw[MUX_MAX_PAYLOAD];
        struct mux_decoder decoder;

        size_t in_length;       /* bytes of the message being received, with its prefix */
        size_t rest_start, rest_end; /* payload of the current frame not yet consumed */
        const uint8_t *payload;
        char text[LINK_TEXT_BYTES]; /* why the last call returned -EPROTO, for people */
        uint8_t in[4 + LINK_MAX_MESSAGE]; /* last: untouched pages cost nothing */
};

/* Allocate a link. Returns NULL without memory. */
struct message_link *message_link_new(void);

/* Release it; the descriptor is not closed. Takes NULL. */
void message_link_free(struct message_link *link);

/* Start over a connected socket; the first message comes from the peer. */
void message_link_start_raw(struct message_link *link, int fd);

/* Start as a new host of a channel: marker, HELLO with @epoch, OPEN of @service on LINK_STREAM. */
void message_link_start_mux(struct message_link *link, int fd, const uint8_t epoch[MUX_EPOCH_BYTES], const char *service);

/* Send a message. @body: borrowed until message_link_is_flushed().
 * Returns 0, -EBUSY if one is still being sent, -EMSGSIZE if it is too long. */
int message_link_send(struct message_link *link, const void *body, size_t length);

/* Say that nothing more will be sent on the stream; nothing without mux. */
void message_link_close_stream(struct message_link *link);

/* Returns whether everything given to message_link_send() is in the kernel. */
bool message_link_is_flushed(const struct message_link *link);

/* Returns the events to poll for. */
short message_link_events(const struct message_link *link);

/* Write what can be written without waiting. Returns 0 or a negative errno (-EPIPE: peer is gone). */
int message_link_flush(struct message_link *link);

/* Read once without waiting. Returns the count, 0 if nothing was there, -ECONNRESET at the end of
 * the stream, or another negative errno. Call only when message_link_next() said -EAGAIN. */
ssize_t message_link_fill(struct message_link *link);

/* Take the next message.
 * Returns its length with a pointer valid until the next call, -EAGAIN if it is not complete,
 * -ECONNRESET if the guest ended the stream, -EPROTO for anything that no guest may send. */
ssize_t message_link_next(struct message_link *link, const char **ret_body);

/* Returns what was received beyond the last message, for whoever goes on with the channel. */
size_t message_link_pending(const struct message_link *link, const uint8_t **ret_bytes);

#endif
