/* Frames survive any cut of the byte stream; the marker wins over everything. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "check.h"
#include "mux.h"

static uint8_t stream[512 * 1024];
static size_t length;

static void put(const void *bytes, size_t n)
{
        if (n > 0)
                memcpy(stream + length, bytes, n);
        length += n;
}

static void put_frame(enum mux_type type, uint32_t id, const void *payload, size_t n)
{
        uint8_t header[MUX_HEADER_BYTES];

        mux_header(header, type, id, (uint32_t)n);
        put(header, sizeof(header));
        put(payload, n);
}

struct seen {
        size_t frames, resyncs, bytes;
        uint32_t last_stream;
        int error;
};

/* Decode the stream in pieces of at most @piece bytes (0: random sizes). */
static struct seen decode(size_t piece, bool lenient)
{
        static struct mux_decoder decoder;
        struct seen seen = { 0 };
        size_t at = 0;

        mux_decoder_init(&decoder);
        decoder.lenient = lenient;
        while (at < length) {
                size_t n = piece ? piece : 1 + (size_t)random() % 100, used = 0;
                uint8_t *copy;

                if (n > length - at)
                        n = length - at;
                copy = malloc(n);
                CHECK(copy);
                memcpy(copy, stream + at, n);
                while (used < n && !seen.error) {
                        struct mux_event event;
                        ssize_t r = mux_decode(&decoder, copy + used, n - used, &event);

                        if (r < 0) {
                                seen.error = (int)r;
                                break;
                        }
                        used += (size_t)r;
                        seen.resyncs += event.kind == MUX_RESYNC;
                        if (event.kind == MUX_FRAME) {
                                seen.frames++;
                                seen.bytes += event.length;
                                seen.last_stream = event.stream;
                        }
                }
                free(copy);
                at += n;
                if (seen.error)
                        break;
        }
        return seen;
}

static void test_any_chunking_gives_the_same_frames(void)
{
        static uint8_t payload[MUX_MAX_PAYLOAD];

        length = 0;
        put("garbage \xf5SNA", 12);
        put(mux_marker, MUX_MARKER_BYTES);
        put_frame(MUX_HELLO_ACK, 0, "0123456789abcdef", 16);
        put_frame(MUX_DATA, 1, payload, sizeof(payload));
        put_frame(MUX_DATA, 3, mux_marker, MUX_MARKER_BYTES - 1);
        put_frame(MUX_CLOSE, 5, NULL, 0);
        put("SF\4\0\0\0", 6);
        put(mux_marker, MUX_MARKER_BYTES);
        put_frame(MUX_CLOSE, 7, NULL, 0);
        for (size_t piece = 0; piece < 40; piece++) {
                struct seen seen = decode(piece, false);

                CHECK_EQ(seen.error, 0);
                CHECK_EQ(seen.resyncs, 2);
                CHECK_EQ(seen.frames, 5);
                CHECK_EQ(seen.bytes, 16 + sizeof(payload) + MUX_MARKER_BYTES - 1);
                CHECK_EQ(seen.last_stream, 7);
        }
}

/* A host that died anywhere in a frame: the marker is found whatever was before it. */
static void test_marker_after_any_torn_frame(void)
{
        for (size_t torn = 0; torn <= 30; torn++) {
                length = 0;
                put(mux_marker, MUX_MARKER_BYTES);
                put_frame(MUX_DATA, 0xf5534e41, "0123456789abcdefgh", 18);
                length = MUX_MARKER_BYTES + torn;
                put(mux_marker, MUX_MARKER_BYTES);
                put_frame(MUX_CLOSE, 9, NULL, 0);
                for (size_t piece = 0; piece < 4; piece++) {
                        struct seen seen = decode(piece, false);

                        CHECK_EQ(seen.error, 0);
                        CHECK_EQ(seen.resyncs, 2);
                        CHECK_EQ(seen.last_stream, 9);
                }
        }
}

static void check_header(const uint8_t header[MUX_HEADER_BYTES])
{
        length = 0;
        put(mux_marker, MUX_MARKER_BYTES);
        put(header, MUX_HEADER_BYTES);
        put("after", 5);
        CHECK_EQ(decode(1, false).error, -EPROTO);
        put(mux_marker, MUX_MARKER_BYTES);
        put_frame(MUX_CLOSE, 11, NULL, 0);
        CHECK_EQ(decode(1, true).error, 0);
        CHECK_EQ(decode(0, true).last_stream, 11);
}

static void test_wrong_headers(void)
{
        check_header((const uint8_t[]){ 'S', 'G', 4, 0, 0, 0, 0, 1, 0, 0, 0, 0 });
        check_header((const uint8_t[]){ 'S', 'F', 0, 0, 0, 0, 0, 1, 0, 0, 0, 0 });
        check_header((const uint8_t[]){ 'S', 'F', 8, 0, 0, 0, 0, 1, 0, 0, 0, 0 });
        check_header((const uint8_t[]){ 'S', 'F', 4, 1, 0, 0, 0, 1, 0, 0, 0, 0 });
        check_header((const uint8_t[]){ 'S', 'F', 4, 0, 0, 0, 0, 1, 0, 1, 0, 1 });
        check_header((const uint8_t[]){ 'S', 'F', 4, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xf5 });
}

/* Put @n bytes into DATA frames, then look for the marker in what was made. */
static void check_encoding(const uint8_t *bytes, size_t n)
{
        size_t at = 0;

        length = 0;
        put(mux_marker, MUX_MARKER_BYTES);
        while (at < n) {
                size_t take = mux_data_length(bytes + at, n - at, SIZE_MAX);

                CHECK(take > 0 && take <= MUX_MAX_PAYLOAD);
                put_frame(MUX_DATA, 1, bytes + at, take);
                at += take;
        }
        CHECK(!memmem(stream + MUX_MARKER_BYTES, length - MUX_MARKER_BYTES, mux_marker, MUX_MARKER_BYTES));
        CHECK_EQ(decode(0, false).bytes, n);
}

static void test_no_frame_contains_the_marker(void)
{
        static uint8_t bytes[200000];
        static const size_t totals[] = { 0xf5, 0x10f5 - 0x1000, 0xf553, 0xf5f5, 0xf553 + 1 };

        for (size_t i = 0; i + MUX_MARKER_BYTES <= sizeof(bytes); i += 1000)
                memcpy(bytes + i, mux_marker, MUX_MARKER_BYTES);
        memcpy(bytes + MUX_MAX_PAYLOAD - 5, mux_marker, MUX_MARKER_BYTES);
        check_encoding(bytes, sizeof(bytes));
        for (size_t i = 0; i < sizeof(totals) / sizeof(*totals); i++) /* the marker begun by the length */
                for (size_t begun = 1; begun <= 2; begun++) {
                        memset(bytes, 0, sizeof(bytes));
                        memcpy(bytes, mux_marker + begun, MUX_MARKER_BYTES - begun);
                        check_encoding(bytes, totals[i]);
                }
        CHECK_EQ(mux_data_length(bytes, 10, 0), 0);
        CHECK_EQ(mux_data_length(bytes, 0, 10), 0);
        CHECK_EQ(mux_data_length(bytes, 10, 3), 3);
}

int main(void)
{
        srandom(1);
        test_any_chunking_gives_the_same_frames();
        test_marker_after_any_torn_frame();
        test_wrong_headers();
        test_no_frame_contains_the_marker();
        return 0;
}
