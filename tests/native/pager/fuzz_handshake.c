/* Whatever a monitor says: what is accepted is sound, and a part of it is awaited to its end.
 * Input: the protocol, the image's length in MiB, the message. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>

#include "fuzz.h"
#include "handshake.h"
#include "json_scan.h"

static bool overlap(uint64_t left, uint64_t left_bytes, uint64_t right, uint64_t right_bytes)
{
        return left < right + right_bytes && right < left + left_bytes;
}

static void check_region(const struct handshake *handshake, size_t i, uint64_t image_bytes)
{
        const struct region *region = &handshake->regions[i];
        uint64_t page = region->page_bytes;

        REQUIRE(page >= 4096 && page <= (1 << 30) && __builtin_popcountll(page) == 1);
        REQUIRE(region->size_bytes > 0 && region->size_bytes % page == 0);
        REQUIRE(region->address % page == 0 && region->offset % page == 0);
        REQUIRE(region->address + region->size_bytes > region->address);
        REQUIRE(region->offset + region->size_bytes > region->offset);
        REQUIRE(image_bytes == 0 || region->offset + region->size_bytes <= image_bytes);
        for (size_t k = 0; k < i; k++) {
                const struct region *before = &handshake->regions[k];

                REQUIRE(before->address < region->address);
                REQUIRE(!overlap(before->address, before->size_bytes, region->address, region->size_bytes));
                REQUIRE(!overlap(before->offset, before->size_bytes, region->offset, region->size_bytes));
                REQUIRE(handshake->protocol != HANDSHAKE_FIRECRACKER || before->page_bytes == page);
        }
}

static void check_accepted(const struct handshake *handshake, enum handshake_protocol protocol, uint64_t image_bytes)
{
        const char *path = handshake->image_path;

        REQUIRE(handshake->protocol == protocol);
        REQUIRE(handshake->n_regions >= 1 && handshake->n_regions <= HANDSHAKE_MAX_REGIONS);
        for (size_t i = 0; i < handshake->n_regions; i++)
                check_region(handshake, i, image_bytes);
        if (protocol != HANDSHAKE_KUASAR) {
                REQUIRE(path[0] == '\0');
                return;
        }
        REQUIRE(path[0] == '/' && path[1] != '\0' && memchr(path, '\0', HANDSHAKE_PATH_BYTES));
        REQUIRE(!strstr(path, "//") && !strstr(path, "/./") && !strstr(path, "/../"));
}

/* What was accepted, or awaited, is awaited when less of it has come. */
static void check_part(enum handshake_protocol protocol, const char *text, size_t length, size_t whole, int r)
{
        struct json_progress progress = { 0 };
        struct handshake handshake;
        const char *why = NULL;
        int part = handshake_parse(protocol, text, length, 0, &handshake, &why);
        bool is_whole = json_is_whole(&progress, text, length);

        if (r == -EAGAIN || (r == 0 && length < whole))
                REQUIRE(part == -EAGAIN && !is_whole);
        if (part == -EAGAIN)
                REQUIRE(!is_whole);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct fuzz_input input = { data, size };
        enum handshake_protocol protocol = HANDSHAKE_FIRECRACKER + fuzz_take(&input, 1) % 3;
        uint64_t image_bytes = fuzz_take(&input, 1) << 20;
        const char *text = (const char *)input.at, *why = NULL;
        struct handshake handshake = { .n_regions = SIZE_MAX };
        size_t whole = input.left;
        int r = handshake_parse(protocol, text, input.left, image_bytes, &handshake, &why);

        REQUIRE(r == 0 || r == -EAGAIN || r == -EBADMSG);
        REQUIRE((r == -EBADMSG) == (why != NULL));
        if (r == 0)
                check_accepted(&handshake, protocol, image_bytes);
        else
                REQUIRE(handshake.n_regions == SIZE_MAX);
        while (whole > 0 && (text[whole - 1] == ' ' || text[whole - 1] == '\t' || text[whole - 1] == '\r' || text[whole - 1] == '\n'))
                whole--;
        for (size_t length = input.left; length > 0; length /= 2)
                check_part(protocol, text, length - 1, whole, r);
        return 0;
}
