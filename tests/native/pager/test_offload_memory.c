/* The memory a machine is restored into, page by page, without a monitor. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "fdutil.h"
#include "image.h"
#include "offload_fill.h"
#include "offload_memory.h"

#define PAGE IMAGE_PAGE_BYTES

/* 8 pages, behind a hole of 2 in their memfd, then 8 pages more. */
static struct offload_layout two_slots(void)
{
        struct offload_layout layout = {
                .n_slots = 2,
                .size_bytes = 16 * PAGE,
                .slots = {
                        { .number = 3, .size_bytes = 8 * PAGE, .file_offset = 2 * PAGE },
                        { .number = 1, .address = UINT64_C(1) << 32, .size_bytes = 8 * PAGE, .offset = 8 * PAGE },
                },
        };

        return layout;
}

static void open_memory(struct offload_memory *memory)
{
        struct offload_layout layout = two_slots();

        CHECK_EQ(offload_memory_open(memory, &layout), 0);
}

static uint64_t allocated_pages(const struct offload_memory *memory)
{
        uint64_t pages = 0;
        struct stat st;

        for (size_t i = 0; i < memory->layout.n_slots; i++) {
                CHECK_EQ(fstat(memory->fds[i], &st), 0);
                pages += (uint64_t)st.st_blocks * 512 / PAGE;
        }
        return pages;
}

static void check_page(const struct offload_memory *memory, uint64_t page, int byte)
{
        uint8_t bytes[PAGE];

        CHECK_EQ(offload_memory_read(memory, page, bytes), 0);
        for (size_t i = 0; i < PAGE; i++)
                CHECK_EQ(bytes[i], byte);
}

static void *filled(int byte, uint64_t pages)
{
        uint8_t *bytes = offload_alloc_locked(OFFLOAD_BUFFER_BYTES);

        CHECK(bytes);
        memset(bytes, byte, pages * PAGE);
        return bytes;
}

static void test_memory_is_empty_at_first(void)
{
        struct offload_memory memory;
        struct stat st;

        open_memory(&memory);
        CHECK_EQ(allocated_pages(&memory), 0);
        CHECK(!offload_memory_has(&memory, 0, 1));
        CHECK_EQ(fstat(memory.fds[0], &st), 0);
        CHECK_EQ(st.st_size, 10 * PAGE);
        CHECK_EQ(fstat(memory.fds[1], &st), 0);
        CHECK_EQ(st.st_size, 8 * PAGE);
        for (int i = 0; i < 2; i++) {
                CHECK_EQ(ftruncate(memory.fds[i], 0), -1);
                CHECK_EQ(ftruncate(memory.fds[i], 100 * PAGE), -1);
        }
        offload_memory_close(&memory);
}

static void test_a_page_is_written_once(void)
{
        uint8_t *ones = filled(1, 4), *twos = filled(2, 4);
        struct offload_memory memory;
        uint64_t copied, zeroed;

        open_memory(&memory);
        CHECK_EQ(offload_memory_install(&memory, 1, 2, ones), 2);
        CHECK(offload_memory_has(&memory, 1, 2));
        CHECK(!offload_memory_has(&memory, 0, 2) && !offload_memory_has(&memory, 2, 2));
        CHECK_EQ(offload_memory_install(&memory, 0, 4, twos), 2);
        CHECK_EQ(offload_memory_install(&memory, 0, 4, twos), 0);
        CHECK_EQ(offload_memory_install(&memory, 0, 4, NULL), 0);
        check_page(&memory, 0, 2);
        check_page(&memory, 1, 1);
        check_page(&memory, 2, 1);
        check_page(&memory, 3, 2);
        offload_memory_count(&memory, &copied, &zeroed);
        CHECK_EQ(copied, 4);
        CHECK_EQ(zeroed, 0);
        CHECK_EQ(allocated_pages(&memory), 4);
        offload_memory_close(&memory);
        offload_free_locked(ones, OFFLOAD_BUFFER_BYTES);
        offload_free_locked(twos, OFFLOAD_BUFFER_BYTES);
}

static void test_pages_go_where_their_slot_is(void)
{
        uint8_t *bytes = filled(7, 4), page[PAGE];
        struct offload_memory memory;

        open_memory(&memory);
        memset(bytes, 5, PAGE);
        CHECK_EQ(offload_memory_install(&memory, 7, 2, bytes), 2); /* the last of one, the first of the other */
        CHECK_EQ(pread(memory.fds[0], page, PAGE, 9 * PAGE), PAGE);
        CHECK_EQ(page[0], 5);
        CHECK_EQ(pread(memory.fds[1], page, PAGE, 0), PAGE);
        CHECK_EQ(page[0], 7);
        CHECK_EQ(allocated_pages(&memory), 2);
        offload_memory_close(&memory);
        offload_free_locked(bytes, OFFLOAD_BUFFER_BYTES);
}

static void test_zeros_are_allocated_because_a_hole_cannot_be_mapped(void)
{
        struct offload_memory memory;
        uint64_t copied, zeroed;

        open_memory(&memory);
        CHECK_EQ(offload_memory_install(&memory, 6, 4, NULL), 4);
        CHECK_EQ(allocated_pages(&memory), 4);
        check_page(&memory, 6, 0);
        offload_memory_count(&memory, &copied, &zeroed);
        CHECK_EQ(copied, 0);
        CHECK_EQ(zeroed, 4);
        offload_memory_close(&memory);
}

static void test_a_page_given_back_is_kept_as_zeros_and_others_as_they_are(void)
{
        uint8_t *bytes = filled(9, 3);
        struct offload_memory memory;

        open_memory(&memory);
        CHECK_EQ(offload_memory_install(&memory, 0, 3, bytes), 3);
        CHECK_EQ(fallocate(memory.fds[0], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 3 * PAGE, PAGE), 0);
        CHECK_EQ(allocated_pages(&memory), 2);
        CHECK_EQ(offload_memory_keep(&memory, 0, 3), 0);
        CHECK_EQ(allocated_pages(&memory), 3);
        check_page(&memory, 0, 9);
        check_page(&memory, 1, 0);
        check_page(&memory, 2, 9);
        CHECK_EQ(offload_memory_install(&memory, 1, 1, bytes), 0);
        check_page(&memory, 1, 0);
        offload_memory_close(&memory);
        offload_free_locked(bytes, OFFLOAD_BUFFER_BYTES);
}

/* An image of 16 pages: the odd ones are zeros. */
static void open_image(struct image *image)
{
        int fd = memfd_create("image", MFD_CLOEXEC);
        uint8_t page[PAGE];

        CHECK(fd >= 0 && ftruncate(fd, 16 * PAGE) == 0);
        for (int p = 0; p < 16; p += 2) {
                memset(page, p + 1, PAGE);
                CHECK_EQ(pwrite(fd, page, PAGE, p * PAGE), PAGE);
        }
        CHECK_EQ(image_open_fd(fd, image), 0);
}

static void test_pages_are_filled_from_the_image_unless_they_were_before(void)
{
        uint8_t *bytes = filled(99, 1);
        struct offload_memory memory;
        struct offload_fill fill;
        struct image image;

        open_image(&image);
        open_memory(&memory);
        CHECK_EQ(offload_fill_open(&fill, &memory, &image), 0);
        CHECK_EQ(offload_memory_install(&memory, 4, 1, bytes), 1);
        CHECK_EQ(offload_fill_pages(&fill, 0, 16, true), 0);
        for (uint64_t p = 0; p < 16; p++)
                check_page(&memory, p, p == 4 ? 99 : p % 2 ? 0 : (int)p + 1);
        CHECK_EQ(allocated_pages(&memory), 16);
        offload_fill_close(&fill);
        offload_memory_close(&memory);
        image_close(&image);
        offload_free_locked(bytes, OFFLOAD_BUFFER_BYTES);
}

static void test_an_image_that_was_changed_or_cut_fills_nothing(void)
{
        for (int is_cut = 0; is_cut <= 1; is_cut++) {
                struct offload_memory memory;
                struct offload_fill fill;
                struct image image;

                open_image(&image);
                open_memory(&memory);
                CHECK_EQ(offload_fill_open(&fill, &memory, &image), 0);
                usleep(20000); /* past the grain of file times */
                if (is_cut)
                        CHECK_EQ(ftruncate(image.fd, 14 * PAGE), 0);
                else
                        CHECK_EQ(pwrite(image.fd, "x", 1, 0), 1);
                CHECK_EQ(offload_fill_pages(&fill, 14, 1, true), -ESTALE);
                CHECK_EQ(allocated_pages(&memory), 0);
                CHECK(!offload_memory_has(&memory, 14, 1));
                offload_fill_close(&fill);
                offload_memory_close(&memory);
                image_close(&image);
        }
}

static void test_what_was_never_opened_can_be_closed(void)
{
        struct offload_memory memory = { 0 };
        struct offload_fill fill = { 0 };

        offload_memory_close(&memory);
        offload_fill_close(&fill);
}

int main(void)
{
        int n_fds = count_fds();

        test_memory_is_empty_at_first();
        test_a_page_is_written_once();
        test_pages_go_where_their_slot_is();
        test_zeros_are_allocated_because_a_hole_cannot_be_mapped();
        test_a_page_given_back_is_kept_as_zeros_and_others_as_they_are();
        test_pages_are_filled_from_the_image_unless_they_were_before();
        test_an_image_that_was_changed_or_cut_fills_nothing();
        test_what_was_never_opened_can_be_closed();
        CHECK_EQ(count_fds(), n_fds);
        return 0;
}
