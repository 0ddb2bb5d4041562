#define _GNU_SOURCE
#include "message_link.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "deadline.h"

struct message_link *message_link_new(void)
{
        void *memory = mmap(NULL, sizeof(struct message_link), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        return memory == MAP_FAILED ? NULL : memory;
}

void message_link_free(struct message_link *link)
{
        if (link)
                munmap(link, sizeof(*link));
}

static int broken(struct message_link *link, const char *why)
{
        snprintf(link->text, sizeof(link->text), "%s", why);
        return -EPROTO;
}

/* Append to the output. The callers leave room: control frames are small and few. */
static void put_out(struct message_link *link, const void *bytes, size_t n)
{
        memcpy(link->out + link->out_end, bytes, n);
        link->out_end += n;
}

static size_t out_room(const struct message_link *link)
{
        return sizeof(link->out) - link->out_end;
}

static void put_frame(struct message_link *link, enum mux_type type, uint32_t stream, const void *payload, size_t n)
{
        uint8_t header[MUX_HEADER_BYTES];

        mux_header(header, type, stream, (uint32_t)n);
        put_out(link, header, sizeof(header));
        if (n > 0)
                put_out(link, payload, n);
}

void message_link_start_raw(struct message_link *link, int fd)
{
        link->fd = fd;
        link->is_mux = false;
        link->is_synced = true;
        link->credit = SIZE_MAX;
}

void message_link_start_mux(struct message_link *link, int fd, const uint8_t epoch[MUX_EPOCH_BYTES], const char *service)
{
        char open[128];
        int n = snprintf(open, sizeof(open), "{\"service\":\"%s\"}", service);

        link->fd = fd;
        link->is_mux = true;
        link->credit = MUX_INITIAL_CREDIT;
        memcpy(link->epoch, epoch, MUX_EPOCH_BYTES);
        mux_decoder_init(&link->decoder);
        put_out(link, mux_marker, MUX_MARKER_BYTES);
        put_frame(link, MUX_HELLO, 0, epoch, MUX_EPOCH_BYTES);
        put_frame(link, MUX_OPEN, LINK_STREAM, open, (size_t)n);
}

int message_link_send(struct message_link *link, const void *body, size_t length)
{
        if (link->body)
                return -EBUSY;
        if (length == 0 || length > LINK_MAX_MESSAGE)
                return -EMSGSIZE;
        mux_put_be32(link->prefix, (uint32_t)length);
        link->body = body;
        link->body_length = length;
        link->sent = 0;
        return 0;
}

void message_link_close_stream(struct message_link *link)
{
        if (link->is_mux && out_room(link) >= MUX_HEADER_BYTES)
                put_frame(link, MUX_CLOSE, LINK_STREAM, NULL, 0);
}

bool message_link_is_flushed(const struct message_link *link)
{
        return !link->body && link->out_start == link->out_end;
}

/* Move the next piece of the message into the output. Returns whether there was one. */
static bool put_piece(struct message_link *link)
{
        const uint8_t *bytes;
        size_t n, left;

        if (!link->body || out_room(link) < MUX_HEADER_BYTES + MUX_MAX_PAYLOAD)
                return false;
        if (link->sent < sizeof(link->prefix)) {
                bytes = link->prefix + link->sent;
                left = sizeof(link->prefix) - link->sent;
        } else {
                bytes = link->body + (link->sent - sizeof(link->prefix));
                left = link->body_length + sizeof(link->prefix) - link->sent;
        }
        n = mux_data_length(bytes, left, link->credit);
        if (n == 0)
                return false;
        if (link->is_mux) {
                put_frame(link, MUX_DATA, LINK_STREAM, bytes, n);
                link->credit -= n;
        } else {
                put_out(link, bytes, n);
        }
        link->sent += n;
        if (link->sent == sizeof(link->prefix) + link->body_length)
                link->body = NULL;
        return true;
}

/* Give credit back for what was consumed, once it is worth a frame. */
static void put_window(struct message_link *link)
{
        uint8_t credit[4];

        if (!link->is_mux || link->peer_closed || link->consumed < MUX_INITIAL_CREDIT / 4 || out_room(link) < MUX_HEADER_BYTES + sizeof(credit))
                return;
        mux_put_be32(credit, (uint32_t)link->consumed);
        put_frame(link, MUX_WINDOW, LINK_STREAM, credit, sizeof(credit));
        link->consumed = 0;
}

short message_link_events(const struct message_link *link)
{
        bool can_send = link->out_start < link->out_end || (link->body && link->credit > 0);

        return (short)(POLLIN | (can_send ? POLLOUT : 0));
}

int message_link_flush(struct message_link *link)
{
        for (;;) {
                ssize_t sent;

                put_window(link);
                while (put_piece(link))
                        ;
                if (link->out_start == link->out_end)
                        return 0;
                do
                        sent = send(link->fd, link->out + link->out_start, link->out_end - link->out_start, MSG_NOSIGNAL | MSG_DONTWAIT);
                while (sent < 0 && errno == EINTR);
                if (sent < 0)
                        return errno == EAGAIN ? 0 : -errno;
                link->out_start += (size_t)sent;
                if (link->out_start == link->out_end)
                        link->out_start = link->out_end = 0;
        }
}

ssize_t message_link_fill(struct message_link *link)
{
        ssize_t got;

        do
                got = recv(link->fd, link->raw, sizeof(link->raw), MSG_DONTWAIT);
        while (got < 0 && errno == EINTR);
        if (got < 0)
                return errno == EAGAIN ? 0 : -errno;
        if (got == 0)
                return -ECONNRESET;
        link->raw_start = 0;
        link->raw_end = (size_t)got;
        link->received += (uint64_t)got;
        if (link->received > LINK_MAX_RECEIVED)
                return broken(link, "the guest floods the channel");
        return got;
}

static int on_reset(struct message_link *link, const struct mux_event *event)
{
        int shown = event->length > 150 ? 150 : (int)event->length;

        snprintf(link->text, sizeof(link->text), "the guest reset the stream: %.*s", shown, (const char *)event->payload);
        for (char *at = link->text; *at; at++)
                if ((unsigned char)*at < 0x20 || (unsigned char)*at > 0x7e)
                        *at = '?';
        return -EPROTO;
}

static int on_window(struct message_link *link, const struct mux_event *event)
{
        if (event->length != 4 || __builtin_add_overflow(link->credit, mux_get_be32(event->payload), &link->credit))
                return broken(link, "the guest sent an impossible WINDOW frame");
        return 0;
}

/* Act on a frame of the synchronised channel. */
static int on_frame(struct message_link *link, const struct mux_event *event)
{
        if (event->stream != LINK_STREAM)
                return 0; /* a late frame of nobody */
        switch (event->type) {
        case MUX_DATA:
                if (link->peer_closed)
                        return 0;
                link->payload = event->payload;
                link->rest_start = 0;
                link->rest_end = event->length;
                return 0;
        case MUX_CLOSE:
                link->peer_closed = true;
                return 0;
        case MUX_RESET:
                return on_reset(link, event);
        case MUX_WINDOW:
                return on_window(link, event);
        default:
                return broken(link, "the guest sent a frame that only a host sends");
        }
}

/* Frames before our HELLO_ACK were meant for another host. */
static void on_foreign_frame(struct message_link *link, const struct mux_event *event)
{
        if (event->type == MUX_HELLO_ACK && event->length == MUX_EPOCH_BYTES &&
            memcmp(event->payload, link->epoch, MUX_EPOCH_BYTES) == 0) {
                link->is_synced = true;
                link->synced_ns = now_ns();
        }
}

/* Decode received bytes up to the next event of the multiplexer. */
static int decode_once(struct message_link *link)
{
        struct mux_event event;
        ssize_t used;

        link->decoder.lenient = !link->is_synced; /* frames for another host may be torn */
        used = mux_decode(&link->decoder, link->raw + link->raw_start, link->raw_end - link->raw_start, &event);
        if (used < 0)
                return broken(link, "the guest sent bytes that are no frame");
        link->raw_start += (size_t)used;
        if (!link->is_synced) {
                if (event.kind == MUX_FRAME)
                        on_foreign_frame(link, &event);
                return 0;
        }
        if (event.kind == MUX_RESYNC)
                return broken(link, "the guest synchronised again in the middle of a stream");
        return event.kind == MUX_FRAME ? on_frame(link, &event) : 0;
}

/* Make more payload available. Returns 0, or -EAGAIN when the received bytes are used up. */
static int next_payload(struct message_link *link)
{
        if (!link->is_mux) {
                link->payload = link->raw;
                link->rest_start = link->raw_start;
                link->rest_end = link->raw_end;
                link->raw_start = link->raw_end;
                return link->rest_start < link->rest_end ? 0 : -EAGAIN;
        }
        while (link->rest_start == link->rest_end) {
                int r;

                if (link->raw_start == link->raw_end)
                        return link->peer_closed ? -ECONNRESET : -EAGAIN;
                r = decode_once(link);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* Move payload into the message. Returns whether the message is whole, or -EPROTO. */
static int take_payload(struct message_link *link)
{
        size_t want = sizeof(link->prefix), n = link->rest_end - link->rest_start;
        uint32_t body;

        if (link->in_length >= want)
                want += mux_get_be32(link->in); /* within the limit: checked below */
        if (n > want - link->in_length)
                n = want - link->in_length;
        memcpy(link->in + link->in_length, link->payload + link->rest_start, n);
        link->in_length += n;
        link->rest_start += n;
        link->consumed += n;
        if (link->in_length < sizeof(link->prefix))
                return 0;
        body = mux_get_be32(link->in);
        if (body == 0 || body > LINK_MAX_MESSAGE)
                return broken(link, body ? "the guest announced a message over 4 MiB" : "the guest sent an empty message");
        return link->in_length == sizeof(link->prefix) + body;
}

ssize_t message_link_next(struct message_link *link, const char **ret_body)
{
        for (;;) {
                int r = 0;

                if (link->rest_start == link->rest_end)
                        r = next_payload(link);
                if (r == 0)
                        r = take_payload(link);
                if (r < 0)
                        return r;
                if (r > 0) {
                        *ret_body = (const char *)link->in + sizeof(link->prefix);
                        r = (int)(link->in_length - sizeof(link->prefix));
                        link->in_length = 0;
                        return r;
                }
        }
}

size_t message_link_pending(const struct message_link *link, const uint8_t **ret_bytes)
{
        *ret_bytes = link->raw + link->raw_start;
        return link->raw_end - link->raw_start;
}
