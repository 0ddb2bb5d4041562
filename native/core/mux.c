#define _GNU_SOURCE
#include "mux.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

const uint8_t mux_marker[MUX_MARKER_BYTES] = { 0xf5, 0x53, 0x4e, 0x41, 0x50, 0xf7, 0x53, 0x54,
                                               0x41, 0x52, 0x54, 0xfb, 0x4d, 0x58, 0x31, 0xff };

uint32_t mux_get_be32(const uint8_t *bytes)
{
        uint32_t value;

        memcpy(&value, bytes, sizeof(value));
        return be32toh(value);
}

void mux_put_be32(uint8_t *bytes, uint32_t value)
{
        value = htobe32(value);
        memcpy(bytes, &value, sizeof(value));
}

void mux_header(uint8_t out[MUX_HEADER_BYTES], enum mux_type type, uint32_t stream, uint32_t length)
{
        out[0] = 'S';
        out[1] = 'F';
        out[2] = (uint8_t)type;
        out[3] = 0;
        mux_put_be32(out + 4, stream);
        mux_put_be32(out + 8, length);
}

/* The marker can begin in the header only in the last bytes of the length: anywhere else its bytes
 * would be a wrong type or a length over the limit. */
static bool straddles_header(const uint8_t *bytes, size_t n, size_t length)
{
        uint8_t tail[4];

        mux_put_be32(tail, (uint32_t)length);
        for (size_t begun = 1; begun <= 2; begun++)
                if (memcmp(tail + 4 - begun, mux_marker, begun) == 0 && n >= MUX_MARKER_BYTES - begun &&
                    memcmp(bytes, mux_marker + begun, MUX_MARKER_BYTES - begun) == 0)
                        return true;
        return false;
}

size_t mux_data_length(const uint8_t *bytes, size_t n, size_t credit)
{
        size_t length = n < credit ? n : credit;
        const uint8_t *found;

        if (length > MUX_MAX_PAYLOAD)
                length = MUX_MAX_PAYLOAD;
        if (length == 0)
                return 0;
        found = memmem(bytes, length, mux_marker, MUX_MARKER_BYTES);
        if (found)
                length = (size_t)(found - bytes) + MUX_MARKER_BYTES / 2;
        if (straddles_header(bytes, length, length))
                length--;
        return length;
}

void mux_decoder_init(struct mux_decoder *decoder)
{
        decoder->hunting = true;
        decoder->lenient = decoder->broken = false;
        decoder->matched = decoder->length = 0;
}

/* Follow the marker through @n bytes. Its first byte occurs in it only once, so a mismatch starts
 * over. Returns the number of bytes up to and with the marker's end, or 0 if it does not end here. */
static size_t match_marker(struct mux_decoder *decoder, const uint8_t *bytes, size_t n)
{
        size_t i = 0;

        while (i < n) {
                if (decoder->matched == 0) {
                        const uint8_t *first = memchr(bytes + i, mux_marker[0], n - i);
                        if (!first)
                                return 0;
                        i = (size_t)(first - bytes) + 1;
                        decoder->matched = 1;
                        continue;
                }
                if (bytes[i] != mux_marker[decoder->matched]) {
                        decoder->matched = 0;
                        continue;
                }
                i++;
                if (++decoder->matched == MUX_MARKER_BYTES) {
                        decoder->matched = 0;
                        return i;
                }
        }
        return 0;
}

static bool header_is_valid(const uint8_t *header)
{
        uint8_t type = header[2];

        return header[0] == 'S' && header[1] == 'F' && type >= MUX_HELLO && type <= MUX_WINDOW && header[3] == 0 &&
               mux_get_be32(header + 8) <= MUX_MAX_PAYLOAD;
}

/* How many bytes can be taken before something has to be decided. */
static size_t wanted(const struct mux_decoder *decoder)
{
        if (decoder->hunting)
                return SIZE_MAX;
        if (decoder->broken)
                return 1;
        if (decoder->length < MUX_HEADER_BYTES)
                return MUX_HEADER_BYTES - decoder->length;
        return MUX_HEADER_BYTES + mux_get_be32(decoder->buffer + 8) - decoder->length;
}

static bool frame_is_whole(const struct mux_decoder *decoder)
{
        return decoder->length >= MUX_HEADER_BYTES &&
               decoder->length == MUX_HEADER_BYTES + (size_t)mux_get_be32(decoder->buffer + 8);
}

static void take_frame(struct mux_decoder *decoder, struct mux_event *ret_event)
{
        *ret_event = (struct mux_event){
                .kind = MUX_FRAME,
                .type = (enum mux_type)decoder->buffer[2],
                .stream = mux_get_be32(decoder->buffer + 4),
                .payload = decoder->buffer + MUX_HEADER_BYTES,
                .length = decoder->length - MUX_HEADER_BYTES,
        };
        decoder->length = 0;
}

static void resync(struct mux_decoder *decoder, struct mux_event *ret_event)
{
        decoder->hunting = decoder->broken = false;
        decoder->length = 0;
        *ret_event = (struct mux_event){ .kind = MUX_RESYNC };
}

ssize_t mux_decode(struct mux_decoder *decoder, const uint8_t *bytes, size_t n, struct mux_event *ret_event)
{
        size_t used = 0;

        while (used < n) {
                size_t want = wanted(decoder), take = want < n - used ? want : n - used;
                size_t marker_end = match_marker(decoder, bytes + used, take);

                if (marker_end > 0) {
                        resync(decoder, ret_event);
                        return (ssize_t)(used + marker_end);
                }
                if (!decoder->hunting && !decoder->broken) {
                        memcpy(decoder->buffer + decoder->length, bytes + used, take);
                        decoder->length += take;
                }
                used += take;
                if (decoder->hunting)
                        continue;
                if (decoder->length == MUX_HEADER_BYTES && !header_is_valid(decoder->buffer))
                        decoder->broken = true;
                if (decoder->broken) {
                        if (decoder->matched > 0)
                                continue;
                        if (!decoder->lenient)
                                return -EPROTO;
                        decoder->hunting = true;
                        decoder->broken = false;
                        decoder->length = 0;
                        continue;
                }
                if (frame_is_whole(decoder)) {
                        take_frame(decoder, ret_event);
                        return (ssize_t)used;
                }
        }
        *ret_event = (struct mux_event){ .kind = MUX_NEED_MORE };
        return (ssize_t)used;
}
