/* The offload protocol without I/O: bytes, memory layouts, the order of messages. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "check.h"
#include "image.h"
#include "offload_intake.h"
#include "offload_layout.h"
#include "offload_touches.h"
#include "offload_wire.h"

#define MAPPING(slot, gpa, size, file_offset)                                                                  \
        "{\"slot\":" #slot ",\"gpa\":" #gpa ",\"size\":" #size ",\"zone_id\":\"mem0\",\"virtio_mem\":false,"   \
        "\"file_offset\":" #file_offset "}"
#define CONFIG(mappings) "{\"vm_config\":{},\"memory_manager_data\":{\"guest_ram_mappings\":[" mappings "]}}"

static const char two_slots[] = CONFIG(MAPPING(0, 0, 1048576, 0) "," MAPPING(1, 4294967296, 65536, 1048576));

static void test_requests_are_the_bytes_a_monitor_writes(void)
{
        static const uint8_t config[] = { 2, 0, 0, 0, 0, 0, 0, 0, 0x34, 0x12, 0, 0, 0, 0, 0, 0 };
        static const uint8_t later[] = { 1, 0, 5, 0, 0xaa, 0xbb, 0xcc, 0xdd, 0, 0, 0, 0, 0, 0, 0, 0 };
        static const uint8_t ok[] = { 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 };
        struct offload_request request;
        uint8_t out[OFFLOAD_HEADER_BYTES];

        offload_write_request(out, OFFLOAD_CONFIG, 0x1234);
        CHECK_EQ(memcmp(out, config, sizeof(out)), 0);
        CHECK_EQ(offload_read_request(config, &request), 0);
        CHECK_EQ(request.command, OFFLOAD_CONFIG);
        CHECK_EQ(request.length, 0x1234);
        CHECK_EQ(offload_read_request(later, &request), 0);
        CHECK_EQ(request.command, OFFLOAD_START);
        CHECK_EQ(request.version, 5);
        offload_write_response(out, OFFLOAD_OK);
        CHECK_EQ(memcmp(out, ok, sizeof(out)), 0);
}

static void test_unknown_words_are_refused(void)
{
        static const uint16_t no_commands[] = { 0, 10, 256, 0xffff }, no_statuses[] = { 0, 3, 256 };
        uint8_t bytes[OFFLOAD_HEADER_BYTES] = { 0 };
        struct offload_request request = { .length = 7 };
        struct offload_response response = { .length = 7 };

        for (size_t i = 0; i < 4; i++) {
                memcpy(bytes, &no_commands[i], 2);
                CHECK_EQ(offload_read_request(bytes, &request), -EBADMSG);
        }
        for (size_t i = 0; i < 3; i++) {
                memcpy(bytes, &no_statuses[i], 2);
                CHECK_EQ(offload_read_response(bytes, &response), -EBADMSG);
        }
        CHECK_EQ(request.length, 7);
        CHECK_EQ(response.length, 7);
}

static void test_ranges_slots_and_roles_come_back(void)
{
        struct offload_range range = { .address = UINT64_C(0x123456789000), .length = 4096 }, back;
        uint8_t bytes[OFFLOAD_RANGE_BYTES];

        offload_write_range(bytes, &range);
        CHECK_EQ(bytes[1], 0x90);
        offload_read_range(bytes, &back);
        CHECK_EQ(back.address, range.address);
        CHECK_EQ(back.length, range.length);
        offload_write_slot(bytes, 0x01020304);
        CHECK_EQ(bytes[0], 4);
        CHECK_EQ(offload_read_slot(bytes), 0x01020304);
        offload_write_role(bytes, OFFLOAD_ROLE_FAULT);
        CHECK_EQ(bytes[0], 2);
        CHECK_EQ(bytes[1], 0);
}

static void test_a_layout_is_read_in_the_listed_order(void)
{
        static const char config[] = CONFIG(MAPPING(7, 4294967296, 65536, 1048576) "," MAPPING(3, 0, 1048576, 0));
        struct offload_layout layout;
        const char *why = NULL;

        CHECK_EQ(offload_layout_parse(config, strlen(config), &layout, &why), 0);
        CHECK(!why);
        CHECK_EQ(layout.n_slots, 2);
        CHECK_EQ(layout.size_bytes, 65536 + 1048576);
        CHECK_EQ(layout.slots[0].number, 7);
        CHECK_EQ(layout.slots[0].offset, 0);
        CHECK_EQ(layout.slots[1].offset, 65536);
        CHECK_EQ(layout.slots[1].file_offset, 0);
        CHECK_EQ(layout.slots[1].number, 3);
        CHECK_EQ(offload_layout_at(&layout, 65535), 0);
        CHECK_EQ(offload_layout_at(&layout, 65536), 1);
}

static void test_memory_plugged_in_by_blocks_need_not_be_asked_for(void)
{
        static const char config[] = CONFIG(MAPPING(0, 0, 8192, 0) ",{\"slot\":1,\"gpa\":8192,\"size\":8192,"
                                            "\"virtio_mem\":true,\"file_offset\":0}");
        struct image image = { .pages = 4, .zeros = (uint64_t[]){ 0 } };
        struct offload_touches touches;
        struct offload_layout layout;
        const char *why;

        CHECK_EQ(offload_layout_parse(config, strlen(config), &layout, &why), 0);
        CHECK(!layout.slots[0].is_plugged && layout.slots[1].is_plugged);
        CHECK_EQ(offload_touches_open(&touches, &image), 0);
        offload_touches_note(&touches, &layout, &image, 0, 1);
        offload_touches_note(&touches, &layout, &image, 2, 2);
        CHECK(!offload_touches_has_all(&touches, &layout));
        offload_touches_note(&touches, &layout, &image, 1, 1);
        CHECK(offload_touches_has_all(&touches, &layout));
        offload_touches_close(&touches);
}

/* A sweep goes up each slot, whichever comes first, around what was asked for between; the rest are touches. */
static void test_the_monitors_sweep_is_told_from_touches(void)
{
        static const struct {
                uint64_t page;
                bool is_sweep;
        } requests[] = {
                { 256, true }, { 257, true },  { 3, false },   { 258, true }, { 260, false }, { 259, true },
                { 261, true }, { 262, true },  { 262, false }, { 264, false }, { 263, true }, { 265, true },
                { 266, true }, { 267, true },  { 268, true },  { 269, true }, { 270, true },  { 271, true },
                { 5, false },  { 0, true },    { 1, true },    { 2, true },   { 4, true },    { 6, true },
                { 8, false },
        };
        struct image image = { .pages = 272, .zeros = (uint64_t[5]){ 0 } };
        struct offload_touches touches;
        struct offload_layout layout;
        const char *why;

        CHECK_EQ(offload_layout_parse(two_slots, strlen(two_slots), &layout, &why), 0);
        CHECK_EQ(offload_touches_open(&touches, &image), 0);
        touches.is_recording = true;
        for (size_t i = 0; i < sizeof(requests) / sizeof(*requests); i++) {
                struct offload_asked asked = offload_touches_note(&touches, &layout, &image, requests[i].page, 1);

                CHECK_EQ(asked.is_sweep, requests[i].is_sweep);
                CHECK_EQ(asked.is_new, i != 8);
        }
        CHECK_EQ(touches.n, 5);
        CHECK_EQ(touches.list[0].page, 3);
        CHECK_EQ(touches.list[4].page, 8);
        offload_touches_close(&touches);
}

static void refused(const char *config)
{
        struct offload_layout layout = { .n_slots = 77 };
        const char *why = NULL;

        CHECK_EQ(offload_layout_parse(config, strlen(config), &layout, &why), -EBADMSG);
        CHECK(why);
        CHECK_EQ(layout.n_slots, 77);
}

static void test_layouts_that_cannot_be_are_refused(void)
{
        refused("");
        refused("[]");
        refused("{}");
        refused("{\"memory_manager_data\":{}}");
        refused("{\"memory_manager_data\":{\"guest_ram_mappings\":3}}");
        refused(CONFIG(""));
        refused(CONFIG("7"));
        refused(CONFIG("{\"slot\":0,\"gpa\":0,\"size\":4096}"));
        refused(CONFIG(MAPPING(0, 0, 0, 0)));
        refused(CONFIG(MAPPING(0, 0, 4097, 0)));
        refused(CONFIG(MAPPING(0, 1, 4096, 0)));
        refused(CONFIG(MAPPING(0, 0, 4096, 512)));
        refused(CONFIG(MAPPING(-1, 0, 4096, 0)));
        refused(CONFIG(MAPPING(4294967296, 0, 4096, 0)));
        refused(CONFIG(MAPPING(0, 0, 18446744073709547520, 0)));
        refused(CONFIG(MAPPING(0, 18446744073709547520, 8192, 0)));
        refused(CONFIG(MAPPING(0, 0, 4096, 18446744073709547520)));
        refused(CONFIG(MAPPING(0, 0, 4096, 0) "," MAPPING(0, 4096, 4096, 0)));
        refused(CONFIG(MAPPING(0, 0, 8192, 0) "," MAPPING(1, 4096, 8192, 0)));
        refused(CONFIG(MAPPING(1, 4096, 4096, 0) "," MAPPING(0, 0, 65536, 0)));
        /* 16 TiB in one, then one page more: its number would not fit. */
        refused(CONFIG(MAPPING(0, 0, 17592186040320, 0) "," MAPPING(1, 35184372088832, 4096, 0)));
}

static void test_a_layout_has_room_for_so_many_slots(void)
{
        char config[32768];
        struct offload_layout layout;
        const char *why;

        for (int n = OFFLOAD_MAX_SLOTS; n <= OFFLOAD_MAX_SLOTS + 1; n++) {
                size_t at = (size_t)sprintf(config, "{\"memory_manager_data\":{\"guest_ram_mappings\":[");

                for (int i = 0; i < n; i++)
                        at += (size_t)sprintf(config + at,
                                              "%s{\"slot\":%d,\"gpa\":%d,\"size\":4096,\"file_offset\":0}",
                                              i ? "," : "", i, i * 4096);
                strcpy(config + at, "]}}");
                CHECK_EQ(offload_layout_parse(config, strlen(config), &layout, &why),
                         n > OFFLOAD_MAX_SLOTS ? -EBADMSG : 0);
        }
}

static void test_guest_memory_is_translated_within_one_slot_only(void)
{
        struct offload_layout layout;
        uint64_t page = 77, pages = 77;
        const char *why;
        static const struct {
                struct offload_range range;
                int r;
                uint64_t page;
        } cases[] = {
                { { 0, 4096 }, 0, 0 },
                { { 1048576 - 4096, 4096 }, 0, 255 },
                { { 0, 1048576 }, 0, 0 },
                { { UINT64_C(1) << 32, 4096 }, 0, 256 },
                { { (UINT64_C(1) << 32) + 61440, 4096 }, 0, 271 },
                { { 0, 0 }, -EINVAL, 0 },
                { { 0, 4095 }, -EINVAL, 0 },
                { { 1, 4096 }, -EINVAL, 0 },
                { { 1048576, 4096 }, -EINVAL, 0 },
                { { 1048576 - 4096, 8192 }, -EINVAL, 0 },
                { { (UINT64_C(1) << 32) + 65536, 4096 }, -EINVAL, 0 },
                { { UINT64_MAX - 4095, 4096 }, -EINVAL, 0 },
                { { 4096, UINT64_MAX - 4095 }, -EINVAL, 0 },
        };

        CHECK_EQ(offload_layout_parse(two_slots, strlen(two_slots), &layout, &why), 0);
        for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
                CHECK_EQ(offload_layout_pages(&layout, &cases[i].range, &page, &pages), cases[i].r);
                if (cases[i].r == 0) {
                        CHECK_EQ(page, cases[i].page);
                        CHECK_EQ(pages, cases[i].range.length / IMAGE_PAGE_BYTES);
                }
        }
}

static int ask(struct intake *intake, enum offload_command command, uint64_t length)
{
        struct offload_request request = { .command = command, .length = length };

        return intake_request(intake, &request);
}

/* An intake that has got everything before @stage. */
static struct intake intake_at(enum intake_stage stage)
{
        struct intake intake = { 0 };

        if (stage >= INTAKE_STARTED) {
                CHECK_EQ(ask(&intake, OFFLOAD_START, 0), INTAKE_ACKNOWLEDGE);
                CHECK_EQ(ask(&intake, OFFLOAD_MEMORY_FD, 4), INTAKE_RECEIVE_SLOT);
                CHECK_EQ(intake_slot(&intake, 1), 0);
                CHECK_EQ(ask(&intake, OFFLOAD_MEMORY_FD, 4), INTAKE_RECEIVE_SLOT);
                CHECK_EQ(intake_slot(&intake, 0), 0);
        }
        if (stage >= INTAKE_CONFIGURED) {
                CHECK_EQ(ask(&intake, OFFLOAD_CONFIG, strlen(two_slots)), INTAKE_RECEIVE_CONFIG);
                CHECK_EQ(intake_config(&intake, two_slots, strlen(two_slots)), 0);
        }
        if (stage >= INTAKE_STATED)
                CHECK_EQ(ask(&intake, OFFLOAD_STATE, 1), INTAKE_RECEIVE_STATE);
        if (stage >= INTAKE_COMPLETE)
                CHECK_EQ(ask(&intake, OFFLOAD_COMPLETE_PAUSED, 0), INTAKE_SAVE);
        CHECK_EQ(intake.stage, stage);
        CHECK(!intake.why);
        return intake;
}

static void test_each_command_has_its_place(void)
{
        /* For each stage: which commands are taken. */
        static const uint16_t taken[] = {
                [INTAKE_NEW] = 1 << OFFLOAD_START | 1 << OFFLOAD_ABANDON,
                [INTAKE_STARTED] = 1 << OFFLOAD_MEMORY_FD | 1 << OFFLOAD_CONFIG | 1 << OFFLOAD_ABANDON,
                [INTAKE_CONFIGURED] = 1 << OFFLOAD_STATE | 1 << OFFLOAD_ABANDON,
                [INTAKE_STATED] = 1 << OFFLOAD_COMPLETE | 1 << OFFLOAD_COMPLETE_PAUSED | 1 << OFFLOAD_ABANDON,
                [INTAKE_COMPLETE] = 1 << OFFLOAD_ABANDON,
        };
        static const uint64_t lengths[] = { [OFFLOAD_CONFIG] = 10, [OFFLOAD_STATE] = 10, [OFFLOAD_MEMORY_FD] = 4,
                                            [OFFLOAD_PAGE_FAULT] = 16 };

        for (int stage = INTAKE_NEW; stage <= INTAKE_COMPLETE; stage++)
                for (int command = OFFLOAD_START; command <= OFFLOAD_PAGE_FAULT; command++) {
                        struct intake intake = intake_at((enum intake_stage)stage);
                        int r = ask(&intake, (enum offload_command)command, lengths[command]);

                        if (taken[stage] & 1 << command) {
                                CHECK(r >= 0);
                                CHECK(command == OFFLOAD_ABANDON || !intake.why);
                        } else {
                                CHECK_EQ(r, -EPROTO);
                                CHECK(intake.why);
                        }
                }
}

static void test_lengths_that_lie_are_refused(void)
{
        static const struct {
                enum intake_stage stage;
                enum offload_command command;
                uint64_t length;
        } cases[] = {
                { INTAKE_NEW, OFFLOAD_START, 1 },
                { INTAKE_STARTED, OFFLOAD_MEMORY_FD, 8 },
                { INTAKE_STARTED, OFFLOAD_CONFIG, 0 },
                { INTAKE_STARTED, OFFLOAD_CONFIG, OFFLOAD_MAX_CONFIG_BYTES + 1 },
                { INTAKE_STARTED, OFFLOAD_CONFIG, UINT64_MAX },
                { INTAKE_CONFIGURED, OFFLOAD_STATE, 0 },
                { INTAKE_CONFIGURED, OFFLOAD_STATE, OFFLOAD_MAX_STATE_BYTES + 1 },
                { INTAKE_STATED, OFFLOAD_COMPLETE, 1 },
        };

        for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
                struct intake intake = intake_at(cases[i].stage);

                CHECK_EQ(ask(&intake, cases[i].command, cases[i].length), -EPROTO);
                CHECK(intake.why);
        }
}

static void test_another_version_is_refused(void)
{
        struct offload_request request = { .command = OFFLOAD_START, .version = 1 };
        struct intake intake = { 0 };

        CHECK_EQ(intake_request(&intake, &request), -EPROTO);
        CHECK(strstr(intake.why, "version"));
}

static void test_the_slots_that_come_are_those_of_the_configuration(void)
{
        static const uint32_t sets[][3] = { { 0 }, { 0, 2 }, { 0, 1, 2 } };
        static const size_t sizes[] = { 1, 2, 3 };
        struct intake intake = intake_at(INTAKE_STARTED);

        CHECK_EQ(intake_slot(&intake, 1), -EPROTO);
        for (size_t i = 0; i < 3; i++) {
                intake = (struct intake){ .stage = INTAKE_STARTED };
                for (size_t k = 0; k < sizes[i]; k++)
                        CHECK_EQ(intake_slot(&intake, sets[i][k]), 0);
                CHECK_EQ(intake_config(&intake, two_slots, strlen(two_slots)), -EPROTO);
                CHECK(strstr(intake.why, "slots"));
        }
        intake = intake_at(INTAKE_CONFIGURED);
        CHECK_EQ(intake_source(&intake, 0), 1);
        CHECK_EQ(intake_source(&intake, 1), 0);
}

static void test_a_machine_without_shared_memory_is_told_so(void)
{
        struct intake intake = { .stage = INTAKE_STARTED };

        CHECK_EQ(ask(&intake, OFFLOAD_CONFIG, 10), -EPROTO);
        CHECK(strstr(intake.why, "shared memory"));
}

int main(void)
{
        test_requests_are_the_bytes_a_monitor_writes();
        test_unknown_words_are_refused();
        test_ranges_slots_and_roles_come_back();
        test_a_layout_is_read_in_the_listed_order();
        test_memory_plugged_in_by_blocks_need_not_be_asked_for();
        test_the_monitors_sweep_is_told_from_touches();
        test_layouts_that_cannot_be_are_refused();
        test_a_layout_has_room_for_so_many_slots();
        test_guest_memory_is_translated_within_one_slot_only();
        test_each_command_has_its_place();
        test_lengths_that_lie_are_refused();
        test_another_version_is_refused();
        test_the_slots_that_come_are_those_of_the_configuration();
        test_a_machine_without_shared_memory_is_told_so();
        return 0;
}
