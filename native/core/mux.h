/* Encode and decode the multiplexer's frames (docs/guest-protocol.md, 2). No I/O here. */
#ifndef SNAPSTART_MUX_H
#define SNAPSTART_MUX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define MUX_HEADER_BYTES 12
#define MUX_MAX_PAYLOAD 65536
#define MUX_MARKER_BYTES 16
#define MUX_EPOCH_BYTES 16
#define MUX_INITIAL_CREDIT 262144

enum mux_type {
        MUX_HELLO = 1,
        MUX_HELLO_ACK,
        MUX_OPEN,
        MUX_DATA,
        MUX_CLOSE,
        MUX_RESET,
        MUX_WINDOW,
};

extern const uint8_t mux_marker[MUX_MARKER_BYTES];

/* Write the header of a frame. */
void mux_header(uint8_t out[MUX_HEADER_BYTES], enum mux_type type, uint32_t stream, uint32_t length);

/* Decide how much of @n bytes the next DATA frame carries: at most MUX_MAX_PAYLOAD and @credit, and
 * so that the frame does not contain the marker, neither in its payload nor across its header's end.
 * Returns the payload length, 0 only if @n or @credit is 0. */
size_t mux_data_length(const uint8_t *bytes, size_t n, size_t credit);

uint32_t mux_get_be32(const uint8_t *bytes);
void mux_put_be32(uint8_t *bytes, uint32_t value);

enum mux_event_kind {
        MUX_NEED_MORE,
        MUX_FRAME,
        MUX_RESYNC, /* the marker was seen: whatever came before is void */
};

struct mux_event {
        enum mux_event_kind kind;
        enum mux_type type;
        uint32_t stream;
        const uint8_t *payload; /* borrows from the decoder until the next call */
        size_t length;
};

/* Bytes in, frames out. Starts hunting: nothing but the marker is seen before the first marker. */
struct mux_decoder {
        bool hunting;
        bool lenient;    /* set by the owner: a wrong header means hunting, not an error */
        bool broken;     /* the header is wrong, unless the marker under way completes */
        size_t matched;  /* bytes of the marker seen at the end of the input */
        size_t length;   /* bytes of the current frame in buffer */
        uint8_t buffer[MUX_HEADER_BYTES + MUX_MAX_PAYLOAD];
};

void mux_decoder_init(struct mux_decoder *decoder);

/* Consume input up to the next event.
 * Returns the number of bytes consumed with the event, or -EPROTO for a wrong magic, type, flags or
 * length (never if lenient); after it the decoder is of no more use. */
ssize_t mux_decode(struct mux_decoder *decoder, const uint8_t *bytes, size_t n, struct mux_event *ret_event);

#endif
