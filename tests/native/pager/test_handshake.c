/* What a monitor says is believed only as far as it can be true. */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "../check.h"
#include "handshake.h"
#include "json_scan.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

/* The results of the last parse. */
struct outcome {
        int r;
        const char *why;
        struct handshake handshake;
};

/* Parse a copy, so that the sanitizer sees any read past its end; what must stay untouched is marked. */
static struct outcome *parse_bytes(enum handshake_protocol protocol, const char *text, size_t length, uint64_t image_bytes)
{
        static struct outcome outcome;
        char *copy = malloc(length + !length);

        CHECK(copy);
        memcpy(copy, text, length);
        memset(&outcome, 0x5a, sizeof(outcome));
        outcome.why = NULL;
        outcome.r = handshake_parse(protocol, copy, length, image_bytes, &outcome.handshake, &outcome.why);
        free(copy);
        CHECK((outcome.r == -EBADMSG) == (outcome.why != NULL));
        CHECK(outcome.r == 0 || outcome.handshake.n_regions == 0x5a5a5a5a5a5a5a5a);
        return &outcome;
}

static struct outcome *parse(enum handshake_protocol protocol, uint64_t image_bytes, const char *text)
{
        return parse_bytes(protocol, text, strlen(text), image_bytes);
}

/* @text as Firecracker's message about an image of 1 GiB. */
static struct outcome *firecracker(const char *text)
{
        return parse(HANDSHAKE_FIRECRACKER, GIB, text);
}

static void check_refused(const struct outcome *outcome, const char *why)
{
        CHECK_EQ(outcome->r, -EBADMSG);
        if (strcmp(outcome->why, why) != 0) {
                fprintf(stderr, "refused for \"%s\", not for \"%s\"\n", outcome->why, why);
                exit(1);
        }
}

static void check_region(const struct region *region, uint64_t address, uint64_t size, uint64_t offset, uint64_t page)
{
        CHECK_EQ(region->address, address);
        CHECK_EQ(region->size_bytes, size);
        CHECK_EQ(region->offset, offset);
        CHECK_EQ(region->page_bytes, page);
}

#define REGION(address, size, offset, rest) \
        "{\"base_host_virt_addr\":" #address ",\"size\":" #size ",\"offset\":" #offset rest "}"
#define PAGES_4K ",\"page_size\":4096,\"page_size_kib\":4096"
#define WHOLE(rest) "[" REGION(139637976727552, 1073741824, 0, rest) "]"

static void test_firecrackers_message_is_understood_with_either_spelling_of_the_page_size(void)
{
        static const char *const spellings[] = {
                WHOLE(",\"page_size\":4096"), WHOLE(",\"page_size_kib\":4096"), WHOLE(PAGES_4K),
                " \t\r\n" WHOLE(PAGES_4K) "\n", WHOLE(",\"page\\u005fsize\":4096"),
        };

        for (size_t i = 0; i < sizeof(spellings) / sizeof(*spellings); i++) {
                struct outcome *outcome = firecracker(spellings[i]);

                CHECK_EQ(outcome->r, 0);
                CHECK_EQ(outcome->handshake.protocol, HANDSHAKE_FIRECRACKER);
                CHECK_EQ(outcome->handshake.image_path[0], '\0');
                CHECK_EQ(outcome->handshake.n_regions, 1);
                check_region(&outcome->handshake.regions[0], 139637976727552, GIB, 0, 4096);
        }
}

static void test_page_sizes_from_4_kib_to_1_gib_are_served(void)
{
        CHECK_EQ(firecracker(WHOLE(",\"page_size\":4096"))->handshake.regions[0].page_bytes, 4096);
        CHECK_EQ(firecracker(WHOLE(",\"page_size\":2097152"))->handshake.regions[0].page_bytes, 2 * MIB);
        CHECK_EQ(firecracker(WHOLE(",\"page_size\":1073741824"))->handshake.regions[0].page_bytes, GIB);
}

static void test_members_nobody_knows_are_ignored(void)
{
        const char *text = "[" REGION(4096, 1073741824, 0,
                                      ",\"page_size\":4096,\"gpa_start\":0,\"is_guest_memfd\":false,"
                                      "\"x\":[{\"size\":1}],\"x\":{},\"\\u0000\":\"\\ud83d\\ude00\"") "]";

        CHECK_EQ(firecracker(text)->r, 0);
        CHECK_EQ(firecracker(text)->handshake.regions[0].size_bytes, GIB);
}

static void test_regions_come_out_in_the_order_of_their_addresses(void)
{
        struct outcome *outcome = firecracker(
                "[" REGION(4294967296, 268435456, 805306368, PAGES_4K) "," REGION(1048576, 536870912, 0, PAGES_4K) ","
                REGION(538968064, 268435456, 536870912, PAGES_4K) "]");

        CHECK_EQ(outcome->r, 0);
        CHECK_EQ(outcome->handshake.n_regions, 3);
        check_region(&outcome->handshake.regions[0], 1 * MIB, 512 * MIB, 0, 4096);
        check_region(&outcome->handshake.regions[1], 514 * MIB, 256 * MIB, 512 * MIB, 4096);
        check_region(&outcome->handshake.regions[2], 4096 * MIB, 256 * MIB, 768 * MIB, 4096);
}

static void test_a_page_size_has_to_be_one(void)
{
        static const char none[] = "a region without a page size", no_number[] = "a page size that is no number",
                          bad[] = "a page size that is no power of two from 4 KiB to 1 GiB";

        check_refused(firecracker(WHOLE("")), none);
        check_refused(firecracker(WHOLE(",\"page_size\":null")), no_number);
        check_refused(firecracker(WHOLE(",\"page_size\":\"4096\"")), no_number);
        check_refused(firecracker(WHOLE(",\"page_size\":4096.0")), no_number);
        check_refused(firecracker(WHOLE(",\"page_size\":4096,\"page_size_kib\":-4096")), no_number);
        check_refused(firecracker(WHOLE(",\"page_size\":0")), bad);
        check_refused(firecracker(WHOLE(",\"page_size_kib\":4")), bad);
        check_refused(firecracker(WHOLE(",\"page_size\":2048")), bad);
        check_refused(firecracker(WHOLE(",\"page_size\":12288")), bad);
        check_refused(firecracker(WHOLE(",\"page_size\":2147483648")), bad);
        check_refused(firecracker(WHOLE(",\"page_size\":9223372036854775808")), bad);
        check_refused(firecracker(WHOLE(",\"page_size\":4096,\"page_size_kib\":4")), "page_size and page_size_kib, both in bytes, differ");
}

static void test_numbers_have_to_be_there_and_whole(void)
{
        static const char address[] = "a region without a base_host_virt_addr that is a number",
                          size[] = "a region without a size that is a number", offset[] = "a region without an offset that is a number",
                          twice[] = "a region that is no object, or has a member twice";

        check_refused(firecracker("[" REGION(-4096, 4096, 0, PAGES_4K) "]"), address);
        check_refused(firecracker("[" REGION(1e5, 4096, 0, PAGES_4K) "]"), address);
        check_refused(firecracker("[" REGION(18446744073709551616, 4096, 0, PAGES_4K) "]"), address);
        check_refused(firecracker("[{\"size\":4096,\"offset\":0" PAGES_4K "}]"), address);
        check_refused(firecracker("[" REGION(4096, true, 0, PAGES_4K) "]"), size);
        check_refused(firecracker("[{\"base_host_virt_addr\":4096,\"offset\":0" PAGES_4K "}]"), size);
        check_refused(firecracker("[" REGION(4096, 4096, "0", PAGES_4K) "]"), offset);
        check_refused(firecracker("[{\"base_host_virt_addr\":4096,\"size\":4096" PAGES_4K "}]"), offset);
        check_refused(firecracker(WHOLE(PAGES_4K ",\"size\":4096")), twice);
        check_refused(firecracker(WHOLE(PAGES_4K ",\"\\u0073ize\":1073741824")), twice);
        check_refused(firecracker("[[]]"), twice);
        check_refused(firecracker("[1]"), twice);
        check_refused(firecracker("[null]"), twice);
}

static void test_a_region_lies_on_page_boundaries(void)
{
        static const char why[] = "an address, size or offset that is no multiple of the page size";

        check_refused(firecracker("[" REGION(4097, 4096, 0, PAGES_4K) "]"), why);
        check_refused(firecracker("[" REGION(4096, 4095, 0, PAGES_4K) "]"), why);
        check_refused(firecracker("[" REGION(4096, 4096, 2048, PAGES_4K) "]"), why);
        check_refused(firecracker("[" REGION(4096, 2097152, 0, ",\"page_size\":2097152") "]"), why);
        check_refused(firecracker("[" REGION(2097152, 2097152, 4096, ",\"page_size\":2097152") "]"), why);
        check_refused(firecracker("[" REGION(2097152, 2101248, 0, ",\"page_size\":2097152") "]"), why);
}

static void test_a_region_ends_before_it_wraps_around(void)
{
        check_refused(firecracker("[" REGION(18446744073709547520, 4096, 0, PAGES_4K) "]"), "a region beyond the end of the address space");
        check_refused(firecracker("[" REGION(4096, 18446744073709547520, 0, PAGES_4K) "]"), "a region beyond the end of the address space");
        check_refused(firecracker("[" REGION(4096, 8192, 18446744073709547520, PAGES_4K) "]"), "a region beyond the end of the image");
        check_refused(parse(HANDSHAKE_FIRECRACKER, 0, "[" REGION(4096, 8192, 18446744073709547520, PAGES_4K) "]"), "a region beyond the end of the image");
        check_refused(firecracker("[" REGION(4096, 0, 0, PAGES_4K) "]"), "an empty region");
        check_refused(firecracker("[" REGION(4096, 4096, 1073741824, PAGES_4K) "]"), "a region beyond the end of the image");
        check_refused(firecracker("[" REGION(4096, 1073745920, 0, PAGES_4K) "]"), "a region beyond the end of the image");
        check_refused(firecracker("[" REGION(4096, 9223372036854775808, 9223372036854771712, PAGES_4K) "]"), "a region beyond the end of the image");
}

static void test_regions_overlap_nowhere(void)
{
        static const char memory[] = "regions that overlap in memory", image[] = "regions that overlap in the image";

        check_refused(firecracker("[" REGION(4096, 8192, 0, PAGES_4K) "," REGION(8192, 8192, 8192, PAGES_4K) "]"), memory);
        check_refused(firecracker("[" REGION(8192, 8192, 8192, PAGES_4K) "," REGION(4096, 8192, 0, PAGES_4K) "]"), memory);
        check_refused(firecracker("[" REGION(4096, 8192, 0, PAGES_4K) "," REGION(4096, 4096, 8192, PAGES_4K) "]"), memory);
        check_refused(firecracker("[" REGION(4096, 65536, 0, PAGES_4K) "," REGION(8192, 4096, 65536, PAGES_4K) "," REGION(131072, 4096, 69632, PAGES_4K) "]"), memory);
        check_refused(firecracker("[" REGION(4096, 8192, 0, PAGES_4K) "," REGION(12288, 8192, 4096, PAGES_4K) "]"), image);
        check_refused(firecracker("[" REGION(4096, 8192, 0, PAGES_4K) "," REGION(12288, 8192, 0, PAGES_4K) "]"), image);
        check_refused(firecracker("[" REGION(4096, 12288, 0, PAGES_4K) "," REGION(65536, 4096, 16384, PAGES_4K) "," REGION(131072, 4096, 4096, PAGES_4K) "]"), image);
        check_refused(firecracker(WHOLE(PAGES_4K ",\"x\":0},{\"x\":1")), "a region without a base_host_virt_addr that is a number");
}

static void test_firecrackers_regions_make_up_the_image_with_pages_of_one_size(void)
{
        static const char shorter[] = "regions that are together shorter than the image: it is another machine's";
        const char *half = "[" REGION(4096, 536870912, 536870912, PAGES_4K) "]";
        struct outcome *outcome;
        const char *why = NULL;

        check_refused(firecracker(half), shorter);
        check_refused(firecracker("[" REGION(0, 536870912, 0, ",\"page_size\":4096") "," REGION(1073741824, 536870912, 536870912, ",\"page_size\":2097152") "]"),
                      "regions with different page sizes");
        outcome = parse(HANDSHAKE_FIRECRACKER, 0, half);
        CHECK_EQ(outcome->r, 0);
        CHECK_EQ(handshake_fits(&outcome->handshake, GIB, &why), -EBADMSG);
        CHECK(strcmp(why, shorter) == 0);
}

static void test_whether_regions_fit_can_be_asked_later(void)
{
        struct handshake handshake = {
                .protocol = HANDSHAKE_MEMFD,
                .n_regions = 2,
                .regions = { { .address = GIB, .size_bytes = 8192, .offset = 4096 }, { .address = 2 * GIB, .size_bytes = 4096, .offset = 0 } },
        };
        const char *why = NULL;

        CHECK_EQ(handshake_fits(&handshake, 12288, &why), 0);
        CHECK_EQ(handshake_fits(&handshake, GIB, &why), 0);
        CHECK(!why);
        CHECK_EQ(handshake_fits(&handshake, 12287, &why), -EBADMSG);
        CHECK(strcmp(why, "a region beyond the end of the image") == 0);
        CHECK_EQ(handshake_fits(&handshake, 0, &why), -EBADMSG);
        handshake.regions[1].size_bytes = UINT64_MAX - 4095;
        CHECK_EQ(handshake_fits(&handshake, GIB, &why), -EBADMSG);
}

#define KUASAR(version, path, mappings) "{\"version\":" version ",\"snapshot_path\":" path ",\"mappings\":" mappings "}"
#define MAPPING REGION(4096, 1048576, 4096, ",\"page_size\":4096,\"gpa\":0,\"zone_id\":null")

static struct outcome *kuasar(const char *text)
{
        return parse(HANDSHAKE_KUASAR, 0, text);
}

static void test_kuasars_message_is_understood(void)
{
        struct outcome *outcome = kuasar(KUASAR("1", "\"/run/kuasar/a\\u00e9/restore/memory.img\"",
                                                "[" MAPPING "," REGION(4294967296, 2097152, 2097152, ",\"page_size\":2097152,\"zone_id\":\"mem1\"") "]"));

        CHECK_EQ(outcome->r, 0);
        CHECK_EQ(outcome->handshake.protocol, HANDSHAKE_KUASAR);
        CHECK(strcmp(outcome->handshake.image_path, "/run/kuasar/a\xc3\xa9/restore/memory.img") == 0);
        CHECK_EQ(outcome->handshake.n_regions, 2);
        check_region(&outcome->handshake.regions[0], 4096, MIB, 4096, 4096);
        check_region(&outcome->handshake.regions[1], 4 * GIB, 2 * MIB, 2 * MIB, 2 * MIB);
        check_refused(parse(HANDSHAKE_KUASAR, MIB, KUASAR("1", "\"/a\"", "[" MAPPING "]")), "a region beyond the end of the image");
}

static void test_kuasars_message_needs_its_version_and_its_regions(void)
{
        check_refused(kuasar(KUASAR("2", "\"/a\"", "[" MAPPING "]")), "a version other than 1");
        check_refused(kuasar(KUASAR("1.0", "\"/a\"", "[" MAPPING "]")), "a version other than 1");
        check_refused(kuasar("{\"snapshot_path\":\"/a\",\"mappings\":[" MAPPING "]}"), "a version other than 1");
        check_refused(kuasar(KUASAR("1", "\"/a\"", "[" MAPPING "],\"version\":1")), "a member twice");
        check_refused(kuasar(KUASAR("1", "\"/a\"", "{}")), "no list of regions");
        check_refused(kuasar("{\"version\":1,\"snapshot_path\":\"/a\"}"), "no list of regions");
        check_refused(kuasar(KUASAR("1", "\"/a\"", "[]")), "no regions");
}

static void test_kuasars_path_is_absolute_and_normal(void)
{
        static const char *const good[] = { "\"/a\"", "\"/a/b.c/..d/.e\"", "\"/\\u002e\\u002e\\u002e\"" };
        static const char *const bad[] = {
                "\"\"", "\"/\"", "\"a\"", "\"a/b\"", "\"/a/\"", "\"//a\"", "\"/a//b\"", "\"/./a\"", "\"/a/.\"", "\"/../a\"",
                "\"/a/..\"", "\"/a/../../etc/shadow\"", "\"/a\\u0000\"", "\"/a\\u0000/../b\"", "\"/a\\u002f..\\u002fb\"", "1", "null", "[\"/a\"]",
        };
        char text[512];

        for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
                snprintf(text, sizeof(text), KUASAR("1", "%s", "[" MAPPING "]"), good[i]);
                CHECK_EQ(kuasar(text)->r, 0);
        }
        for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
                snprintf(text, sizeof(text), KUASAR("1", "%s", "[" MAPPING "]"), bad[i]);
                check_refused(kuasar(text), "a snapshot_path that is no absolute path in its shortest form");
        }
        check_refused(kuasar("{\"version\":1,\"mappings\":[" MAPPING "]}"), "a snapshot_path that is no absolute path in its shortest form");
}

static void test_kuasars_path_fits_its_buffer(void)
{
        char text[2 * HANDSHAKE_PATH_BYTES], path[HANDSHAKE_PATH_BYTES + 1];

        memset(path, 'x', sizeof(path));
        path[0] = '/';
        for (size_t n = HANDSHAKE_PATH_BYTES - 1; n <= HANDSHAKE_PATH_BYTES; n++) {
                struct outcome *outcome;

                snprintf(text, sizeof(text), KUASAR("1", "\"%.*s\"", "[" MAPPING "]"), (int)n, path);
                outcome = kuasar(text);
                CHECK_EQ(outcome->r, n < HANDSHAKE_PATH_BYTES ? 0 : -EBADMSG);
                CHECK(outcome->r < 0 || strlen(outcome->handshake.image_path) == n);
        }
}

#define MEMFD(protocol, version, regions) "{\"protocol\":" protocol ",\"version\":" version ",\"regions\":" regions "}"

static struct outcome *memfd(const char *text)
{
        return parse(HANDSHAKE_MEMFD, 0, text);
}

static void test_our_own_message_is_understood(void)
{
        struct outcome *outcome = memfd(MEMFD("\"snapstart-memfd\"", "1", "[" MAPPING "]"));

        CHECK_EQ(outcome->r, 0);
        CHECK_EQ(outcome->handshake.protocol, HANDSHAKE_MEMFD);
        CHECK_EQ(outcome->handshake.image_path[0], '\0');
        check_region(&outcome->handshake.regions[0], 4096, MIB, 4096, 4096);
}

static void test_our_own_message_names_itself(void)
{
        static const char why[] = "a protocol other than snapstart-memfd, version 1";

        check_refused(memfd(MEMFD("\"snapstart-memfd\"", "2", "[" MAPPING "]")), why);
        check_refused(memfd(MEMFD("\"snapstart\"", "1", "[" MAPPING "]")), why);
        check_refused(memfd(MEMFD("1", "1", "[" MAPPING "]")), why);
        check_refused(memfd("{\"version\":1,\"regions\":[" MAPPING "]}"), why);
        check_refused(memfd("{\"protocol\":\"snapstart-memfd\",\"regions\":[" MAPPING "]}"), why);
        check_refused(memfd(MEMFD("\"snapstart-memfd\"", "1", "[" MAPPING "],\"regions\":[]")), "a member twice");
        check_refused(memfd("{\"protocol\":\"snapstart-memfd\",\"version\":1}"), "no list of regions");
}

static void test_one_protocols_message_is_none_of_another(void)
{
        static const char *const messages[] = { WHOLE(PAGES_4K), KUASAR("1", "\"/a\"", "[" MAPPING "]"), MEMFD("\"snapstart-memfd\"", "1", "[" MAPPING "]") };

        for (int protocol = HANDSHAKE_FIRECRACKER; protocol <= HANDSHAKE_MEMFD; protocol++)
                for (int of = HANDSHAKE_FIRECRACKER; of <= HANDSHAKE_MEMFD; of++)
                        CHECK_EQ(parse((enum handshake_protocol)protocol, 0, messages[of - 1])->r, of == protocol ? 0 : -EBADMSG);
        check_refused(parse((enum handshake_protocol)4, 0, messages[1]), "no such protocol");
        CHECK_EQ(handshake_parse(HANDSHAKE_KUASAR, NULL, 0, 0, NULL, NULL), -EAGAIN);
}

static void test_each_protocol_has_its_descriptors(void)
{
        CHECK_EQ(handshake_fds(HANDSHAKE_FIRECRACKER), 1);
        CHECK_EQ(handshake_fds(HANDSHAKE_KUASAR), 1);
        CHECK_EQ(handshake_fds(HANDSHAKE_MEMFD), 2);
}

static void test_a_message_in_pieces_is_awaited_to_its_last_byte(void)
{
        static const struct {
                enum handshake_protocol protocol;
                const char *text;
        } messages[] = {
                { HANDSHAKE_FIRECRACKER, "\n[" REGION(4096, 4096, 0, PAGES_4K ",\"x\":\"\\ud83d\\ude00\xc3\xa9\"") "," REGION(8192, 4096, 4096, PAGES_4K) "]" },
                { HANDSHAKE_KUASAR, KUASAR("1", "\"/\\u0041\xf0\x9f\x98\x80\"", "[" MAPPING "]") },
                { HANDSHAKE_MEMFD, MEMFD("\"snapstart-memfd\"", "1", "[" MAPPING "],\"y\":[true,false,null,-1.5e-3]") },
        };

        for (size_t i = 0; i < sizeof(messages) / sizeof(*messages); i++) {
                size_t length = strlen(messages[i].text);

                for (size_t n = 0; n < length; n++)
                        CHECK_EQ(parse_bytes(messages[i].protocol, messages[i].text, n, 0)->r, -EAGAIN);
                CHECK_EQ(parse_bytes(messages[i].protocol, messages[i].text, length, 0)->r, 0);
        }
}

static void test_what_no_further_byte_can_mend_is_refused_at_once(void)
{
        static const char *const texts[] = {
                "{", "x", "\"", "1", "hello", "[1 2", "[x", "[}", "[{\"size\":tx", "[{\"size\":01", "[{\"a\" 1", "[\"\\x", "[\"\n", "[\"\xff", "[{}}",
                "[{},]", "[]x", "[] []", WHOLE(PAGES_4K) WHOLE(PAGES_4K),
        };

        for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
                CHECK_EQ(firecracker(texts[i])->r, -EBADMSG);
        CHECK_EQ(kuasar("[")->r, -EBADMSG);
        CHECK_EQ(memfd("[")->r, -EBADMSG);
        CHECK_EQ(parse_bytes(HANDSHAKE_FIRECRACKER, "\0", 1, 0)->r, -EBADMSG);
        CHECK_EQ(parse_bytes(HANDSHAKE_FIRECRACKER, "[\0", 2, 0)->r, -EBADMSG);
}

/* Text that grows. */
struct text {
        char bytes[HANDSHAKE_MAX_BYTES + 64];
        size_t length;
};

__attribute__((format(printf, 2, 3))) static void append(struct text *text, const char *format, ...)
{
        va_list values;
        int n;

        va_start(values, format);
        n = vsnprintf(text->bytes + text->length, sizeof(text->bytes) - text->length, format, values);
        va_end(values);
        CHECK(n >= 0 && text->length + (size_t)n < sizeof(text->bytes));
        text->length += (size_t)n;
}

/* Write @n regions of one page each, the last address first. */
static void append_regions(struct text *text, unsigned n)
{
        append(text, "[");
        for (unsigned i = 0; i < n; i++)
                append(text, "%s{\"base_host_virt_addr\":%u,\"size\":4096,\"offset\":%u,\"page_size\":4096}", i ? "," : "",
                       (n - i) * 4096, i * 4096);
        append(text, "]");
}

static void test_as_many_regions_as_there_is_room_for_and_no_more(void)
{
        static struct text text;
        struct outcome *outcome;

        append_regions(&text, HANDSHAKE_MAX_REGIONS);
        outcome = parse_bytes(HANDSHAKE_FIRECRACKER, text.bytes, text.length, HANDSHAKE_MAX_REGIONS * 4096);
        CHECK_EQ(outcome->r, 0);
        CHECK_EQ(outcome->handshake.n_regions, HANDSHAKE_MAX_REGIONS);
        for (unsigned i = 0; i < HANDSHAKE_MAX_REGIONS; i++)
                check_region(&outcome->handshake.regions[i], (i + 1) * 4096, 4096, (HANDSHAKE_MAX_REGIONS - 1 - i) * 4096, 4096);
        text.length = 0;
        append_regions(&text, HANDSHAKE_MAX_REGIONS + 1);
        check_refused(parse_bytes(HANDSHAKE_FIRECRACKER, text.bytes, text.length, 0), "too many regions");
}

static void test_a_message_has_an_end(void)
{
        static struct text text;
        const char *message = "[" REGION(4096, 4096, 0, PAGES_4K) "]";

        append(&text, "%s", message);
        memset(text.bytes + text.length, ' ', sizeof(text.bytes) - text.length);
        CHECK_EQ(parse_bytes(HANDSHAKE_FIRECRACKER, text.bytes, HANDSHAKE_MAX_BYTES, 0)->r, 0);
        check_refused(parse_bytes(HANDSHAKE_FIRECRACKER, text.bytes, HANDSHAKE_MAX_BYTES + 1, 0), "a message that is too long");
        text.bytes[text.length - 1] = ' ';
        CHECK_EQ(parse_bytes(HANDSHAKE_FIRECRACKER, text.bytes, HANDSHAKE_MAX_BYTES - 1, 0)->r, -EAGAIN);
        check_refused(parse_bytes(HANDSHAKE_FIRECRACKER, text.bytes, HANDSHAKE_MAX_BYTES, 0), "a message that is too long");
}

static void test_brackets_without_end_do_not_exhaust_the_stack(void)
{
        static struct text text;

        memset(text.bytes, '[', sizeof(text.bytes));
        CHECK_EQ(parse_bytes(HANDSHAKE_FIRECRACKER, text.bytes, JSON_MAX_DEPTH, 0)->r, -EAGAIN);
        check_refused(parse_bytes(HANDSHAKE_FIRECRACKER, text.bytes, JSON_MAX_DEPTH + 1, 0), "malformed JSON");
        check_refused(parse_bytes(HANDSHAKE_FIRECRACKER, text.bytes, HANDSHAKE_MAX_BYTES, 0), "malformed JSON");
}

int main(void)
{
        test_firecrackers_message_is_understood_with_either_spelling_of_the_page_size();
        test_page_sizes_from_4_kib_to_1_gib_are_served();
        test_members_nobody_knows_are_ignored();
        test_regions_come_out_in_the_order_of_their_addresses();
        test_a_page_size_has_to_be_one();
        test_numbers_have_to_be_there_and_whole();
        test_a_region_lies_on_page_boundaries();
        test_a_region_ends_before_it_wraps_around();
        test_regions_overlap_nowhere();
        test_firecrackers_regions_make_up_the_image_with_pages_of_one_size();
        test_whether_regions_fit_can_be_asked_later();
        test_kuasars_message_is_understood();
        test_kuasars_message_needs_its_version_and_its_regions();
        test_kuasars_path_is_absolute_and_normal();
        test_kuasars_path_fits_its_buffer();
        test_our_own_message_is_understood();
        test_our_own_message_names_itself();
        test_one_protocols_message_is_none_of_another();
        test_each_protocol_has_its_descriptors();
        test_a_message_in_pieces_is_awaited_to_its_last_byte();
        test_what_no_further_byte_can_mend_is_refused_at_once();
        test_as_many_regions_as_there_is_room_for_and_no_more();
        test_a_message_has_an_end();
        test_brackets_without_end_do_not_exhaust_the_stack();
        return 0;
}
