#define _GNU_SOURCE
#include "handshake.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "json_scan.h"

#define SMALLEST_PAGE_BYTES UINT64_C(4096)
#define LARGEST_PAGE_BYTES (UINT64_C(1) << 30)

/* Every check returns NULL, or in words for people what is wrong. */

enum region_member { ADDRESS, SIZE, OFFSET, PAGE_SIZE, PAGE_SIZE_KIB, N_REGION_MEMBERS };

static const char *const region_members[N_REGION_MEMBERS] = {
        "base_host_virt_addr", "size", "offset", "page_size", "page_size_kib",
};

enum kuasar_member { KUASAR_VERSION, SNAPSHOT_PATH, MAPPINGS, N_KUASAR_MEMBERS };

static const char *const kuasar_members[N_KUASAR_MEMBERS] = { "version", "snapshot_path", "mappings" };

enum memfd_member { PROTOCOL, MEMFD_VERSION, REGIONS, N_MEMFD_MEMBERS };

static const char *const memfd_members[N_MEMFD_MEMBERS] = { "protocol", "version", "regions" };

/* Returns which of the @n @names it is, @n for none. */
static size_t index_of(struct json name, const char *const *names, size_t n)
{
        size_t i = 0;

        while (i < n && !json_equals(name, names[i]))
                i++;
        return i;
}

/* Find the members called @names in one walk; what is missing is empty, others are ignored.
 * Returns false if @object is none or has one of them twice. */
static bool pick(struct json object, const char *const *names, size_t n, struct json *ret_values)
{
        struct json rest, name, value;

        for (size_t i = 0; i < n; i++)
                ret_values[i] = (struct json){ "", 0 };
        if (json_members(object, &rest) < 0)
                return false;
        while (json_next_member(&rest, &name, &value) > 0) {
                size_t i = index_of(name, names, n);

                if (i == n)
                        continue;
                if (ret_values[i].length > 0)
                        return false;
                ret_values[i] = value;
        }
        return true;
}

/* Read the page size: in bytes under either name, in older Firecrackers under the second alone. */
static const char *read_page_bytes(const struct json *members, uint64_t *ret_bytes)
{
        struct json value = members[PAGE_SIZE], old = members[PAGE_SIZE_KIB];
        uint64_t bytes, old_bytes;

        if (value.length == 0)
                value = old;
        if (old.length == 0)
                old = value;
        if (value.length == 0)
                return "a region without a page size";
        if (json_unsigned(value, &bytes) < 0 || json_unsigned(old, &old_bytes) < 0)
                return "a page size that is no number";
        if (bytes != old_bytes)
                return "page_size and page_size_kib, both in bytes, differ";
        *ret_bytes = bytes;
        return NULL;
}

static const char *check_region(const struct region *region)
{
        uint64_t page = region->page_bytes;

        if (page < SMALLEST_PAGE_BYTES || page > LARGEST_PAGE_BYTES || (page & (page - 1)) != 0)
                return "a page size that is no power of two from 4 KiB to 1 GiB";
        if (((region->address | region->size_bytes | region->offset) & (page - 1)) != 0)
                return "an address, size or offset that is no multiple of the page size";
        if (region->size_bytes == 0)
                return "an empty region";
        if (region->address > UINT64_MAX - region->size_bytes)
                return "a region beyond the end of the address space";
        if (region->offset > UINT64_MAX - region->size_bytes)
                return "a region beyond the end of the image";
        return NULL;
}

static const char *read_region(struct json value, struct region *ret_region)
{
        struct json members[N_REGION_MEMBERS];
        struct region region;
        const char *why;

        if (!pick(value, region_members, N_REGION_MEMBERS, members))
                return "a region that is no object, or has a member twice";
        if (json_unsigned(members[ADDRESS], &region.address) < 0)
                return "a region without a base_host_virt_addr that is a number";
        if (json_unsigned(members[SIZE], &region.size_bytes) < 0)
                return "a region without a size that is a number";
        if (json_unsigned(members[OFFSET], &region.offset) < 0)
                return "a region without an offset that is a number";
        why = read_page_bytes(members, &region.page_bytes);
        if (!why)
                why = check_region(&region);
        if (!why)
                *ret_region = region;
        return why;
}

static int compare(uint64_t left, uint64_t right)
{
        return (left > right) - (left < right);
}

static int by_address(const void *left, const void *right)
{
        return compare(((const struct region *)left)->address, ((const struct region *)right)->address);
}

static int by_offset(const void *left, const void *right)
{
        return compare(((const struct region *)left)->offset, ((const struct region *)right)->offset);
}

/* Order the regions by address at last. */
static const char *check_overlaps(struct handshake *handshake)
{
        struct region *region = handshake->regions;
        size_t n = handshake->n_regions;

        qsort(region, n, sizeof(*region), by_offset);
        for (size_t i = 1; i < n; i++)
                if (region[i].offset - region[i - 1].offset < region[i - 1].size_bytes)
                        return "regions that overlap in the image";
        qsort(region, n, sizeof(*region), by_address);
        for (size_t i = 1; i < n; i++)
                if (region[i].address - region[i - 1].address < region[i - 1].size_bytes)
                        return "regions that overlap in memory";
        return NULL;
}

static const char *read_regions(struct json array, struct handshake *handshake)
{
        struct json rest, value;
        const char *why;

        if (json_elements(array, &rest) < 0)
                return "no list of regions";
        while (json_next_element(&rest, &value) > 0) {
                if (handshake->n_regions == HANDSHAKE_MAX_REGIONS)
                        return "too many regions";
                why = read_region(value, &handshake->regions[handshake->n_regions]);
                if (why)
                        return why;
                handshake->n_regions++;
        }
        return handshake->n_regions > 0 ? check_overlaps(handshake) : "no regions";
}

/* Firecracker backs all of its memory with pages of one size. */
static const char *read_firecracker(struct json message, struct handshake *handshake)
{
        const char *why = read_regions(message, handshake);

        for (size_t i = 1; !why && i < handshake->n_regions; i++)
                if (handshake->regions[i].page_bytes != handshake->regions[0].page_bytes)
                        why = "regions with different page sizes";
        return why;
}

/* Returns whether @path begins at the root and has no empty component, "." or "..". */
static bool is_normal(const char *path)
{
        while (*path == '/') {
                size_t n = strcspn(++path, "/");

                if (n == 0 || (n == 1 && path[0] == '.') || (n == 2 && path[0] == '.' && path[1] == '.'))
                        return false;
                path += n;
                if (!*path)
                        return true;
        }
        return false;
}

static const char *read_path(struct json value, char *path)
{
        ssize_t n = json_string(value, path, HANDSHAKE_PATH_BYTES);

        if (n < 0 || (size_t)n != strlen(path) || !is_normal(path))
                return "a snapshot_path that is no absolute path in its shortest form";
        return NULL;
}

static bool is_version_1(struct json value)
{
        uint64_t version;

        return json_unsigned(value, &version) == 0 && version == 1;
}

static const char *read_kuasar(struct json message, struct handshake *handshake)
{
        struct json members[N_KUASAR_MEMBERS];
        const char *why;

        if (!pick(message, kuasar_members, N_KUASAR_MEMBERS, members))
                return "a member twice";
        if (!is_version_1(members[KUASAR_VERSION]))
                return "a version other than 1";
        why = read_path(members[SNAPSHOT_PATH], handshake->image_path);
        return why ? why : read_regions(members[MAPPINGS], handshake);
}

static const char *read_memfd(struct json message, struct handshake *handshake)
{
        struct json members[N_MEMFD_MEMBERS];

        if (!pick(message, memfd_members, N_MEMFD_MEMBERS, members))
                return "a member twice";
        if (!json_equals(members[PROTOCOL], "snapstart-memfd") || !is_version_1(members[MEMFD_VERSION]))
                return "a protocol other than snapstart-memfd, version 1";
        return read_regions(members[REGIONS], handshake);
}

static const char *read_message(struct json message, struct handshake *handshake)
{
        switch (handshake->protocol) {
        case HANDSHAKE_FIRECRACKER:
                return read_firecracker(message, handshake);
        case HANDSHAKE_KUASAR:
                return read_kuasar(message, handshake);
        case HANDSHAKE_MEMFD:
                return read_memfd(message, handshake);
        }
        return "no such protocol";
}

static const char *check_fits(const struct handshake *handshake, uint64_t image_bytes)
{
        uint64_t sum = 0;

        for (size_t i = 0; i < handshake->n_regions; i++) {
                const struct region *region = &handshake->regions[i];

                if (region->offset > image_bytes || region->size_bytes > image_bytes - region->offset)
                        return "a region beyond the end of the image";
                sum += region->size_bytes;
        }
        if (handshake->protocol == HANDSHAKE_FIRECRACKER && sum != image_bytes)
                return "regions that are together shorter than the image: it is another machine's";
        return NULL;
}

static int verdict(const char *why, const char **ret_why)
{
        if (!why)
                return 0;
        *ret_why = why;
        return -EBADMSG;
}

int handshake_fits(const struct handshake *handshake, uint64_t image_bytes, const char **ret_why)
{
        return verdict(check_fits(handshake, image_bytes), ret_why);
}

/* Returns whether @text begins like a message of @protocol, or is nothing but white space. */
static bool begins_right(enum handshake_protocol protocol, const char *text, size_t length)
{
        size_t i = 0;

        while (i < length && memchr(" \t\r\n", text[i], 4))
                i++;
        return i == length || text[i] == (protocol == HANDSHAKE_FIRECRACKER ? '[' : '{');
}

/* Find the value that the text is. Returns 0, -EAGAIN or -EBADMSG like handshake_parse(). */
static int find_message(enum handshake_protocol protocol, const char *text, size_t length,
                        struct json *ret_message, const char **ret_why)
{
        int r;

        if (length == 0)
                return -EAGAIN;
        if (length > HANDSHAKE_MAX_BYTES)
                return verdict("a message that is too long", ret_why);
        if (!begins_right(protocol, text, length))
                return verdict("no message of this protocol", ret_why);
        r = json_parse_part(text, length, ret_message);
        if (r == -EAGAIN && length == HANDSHAKE_MAX_BYTES)
                return verdict("a message that is too long", ret_why);
        return r == -EBADMSG ? verdict("malformed JSON", ret_why) : r;
}

int handshake_parse(enum handshake_protocol protocol, const char *text, size_t length,
                    uint64_t image_bytes, struct handshake *ret_handshake, const char **ret_why)
{
        struct handshake handshake;
        struct json message;
        const char *why;
        int r = find_message(protocol, text, length, &message, ret_why);

        if (r < 0)
                return r;
        handshake.protocol = protocol;
        handshake.image_path[0] = '\0';
        handshake.n_regions = 0;
        why = read_message(message, &handshake);
        if (!why && image_bytes > 0)
                why = check_fits(&handshake, image_bytes);
        if (!why)
                *ret_handshake = handshake;
        return verdict(why, ret_why);
}

int handshake_fds(enum handshake_protocol protocol)
{
        return protocol == HANDSHAKE_MEMFD ? 2 : 1;
}
