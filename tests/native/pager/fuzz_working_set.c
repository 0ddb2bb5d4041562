/* Whatever a working set's file holds: its runs are pages of the image, each once, with content for each.
 * Input: whether the hash is made to fit, then edits of a valid file. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>

#include "fuzz.h"
#include "fuzz_image.h"
#include "working_set_file.h"

#define TOUCHES 90

static void write_valid(void)
{
        struct touch touches[TOUCHES];
        struct record record = { touches, TOUCHES };
        struct working_set_report report;

        for (uint32_t i = 0; i < TOUCHES; i++)
                touches[i] = (struct touch){ (i / 5 * 53 + i % 5) % FUZZ_IMAGE_PAGES, i % 3 ? 0 : TOUCH_WRITTEN };
        REQUIRE(working_set_build(&record, 1, fuzz_image(), fuzz_digest, TOUCHES, fuzz_path("set"), &report) == 0);
}

static void read_valid(struct fuzz_file *ret_file)
{
        static struct fuzz_file valid;

        if (valid.length == 0) {
                write_valid();
                fuzz_read("set", &valid);
        }
        *ret_file = valid;
}

static void make_hash_fit(struct fuzz_file *file)
{
        struct working_set_header header;
        uint64_t head_bytes;

        if (file->length < sizeof(header))
                return;
        memcpy(&header, file->bytes, sizeof(header));
        if (header.n_runs > FUZZ_FILE_BYTES || header.n_data_pages > FUZZ_FILE_BYTES)
                return;
        head_bytes = working_set_head_bytes(&header);
        if (head_bytes > file->length)
                return;
        header.hash = head_hash(file->bytes, head_bytes, sizeof(header));
        memcpy(file->bytes, &header, sizeof(header));
}

static void check_run(const struct run *run, bool *seen)
{
        REQUIRE(run->pages >= 1 && run->pages <= WORKING_SET_RUN_MAX_PAGES);
        REQUIRE(run->page + run->pages <= FUZZ_IMAGE_PAGES);
        for (uint32_t page = run->page; page < run->page + run->pages; page++) {
                REQUIRE(!seen[page]);
                REQUIRE(!image_is_zero(fuzz_image(), page) || (run->flags & TOUCH_ZERO));
                seen[page] = true;
        }
}

static void check_set(const struct working_set *set)
{
        bool seen[FUZZ_IMAGE_PAGES] = { false };
        uint64_t pages = 0, data_pages = 0, sum = 0;
        int r = working_set_populate(set, 0, set->n_data_pages);

        for (size_t i = 0; i < set->n_runs; i++) {
                check_run(&set->runs[i], seen);
                pages += set->runs[i].pages;
                data_pages += set->runs[i].flags & TOUCH_ZERO ? 0 : set->runs[i].pages;
        }
        REQUIRE(pages == set->n_pages && data_pages == set->n_data_pages);
        REQUIRE(set->recall <= 1);
        REQUIRE(r == 0 || r == -EBADMSG);
        for (uint64_t at = 0; at < data_pages * IMAGE_PAGE_BYTES; at += IMAGE_PAGE_BYTES / 2)
                sum += set->data[at];
        REQUIRE(sum <= data_pages * 2 * UINT8_MAX);
        REQUIRE(working_set_data_resident(set) <= 1 && working_set_image_resident(set, fuzz_image()) <= 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static struct fuzz_file file;
        struct fuzz_input input = { data, size };
        bool hash_fits = fuzz_take(&input, 1) % 4 > 0;
        struct working_set set;
        int r;

        read_valid(&file);
        fuzz_edit(&file, 0, &input);
        if (hash_fits)
                make_hash_fit(&file);
        fuzz_write("set", &file);
        r = working_set_open(fuzz_path("set"), fuzz_image(), fuzz_digest, &set);
        REQUIRE(r == 0 || r == -EBADMSG || r == -ESTALE);
        REQUIRE(r == 0 || size > 1);
        if (r == 0) {
                check_set(&set);
                working_set_close(&set);
        }
        return 0;
}
