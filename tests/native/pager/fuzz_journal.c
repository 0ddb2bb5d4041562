/* Whatever a machine's journal file holds: what is taken over is sound, and all within the mapping.
 * Input: edits of a valid file. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>

#include "fuzz.h"
#include "fdutil.h"
#include "journal.h"

#define FILE_NAME "machine-1" JOURNAL_SUFFIX

static const struct journal_head facts = {
        .vm = "machine-1",
        .pid = 1,
        .protocol = HANDSHAKE_FIRECRACKER,
        .start_ticks = 7,
        .uffd_number = 9,
        .memfd_number = -1,
        .kept_by = KEPT_BY_VMM,
        .fault_around_pages = 1,
        .why = "because",
        .image_path = "/image",
        .n_pages = 514,
        .n_regions = 2,
        .regions = { { 1 << 20, 2 << 20, 0, 4096 }, { 1 << 30, 4 << 20, 2 << 20, 2 << 20 } },
};

/* A valid file, made once. */
static void read_valid(int directory_fd, struct fuzz_file *ret_file)
{
        static struct fuzz_file valid;
        struct journal journal;

        if (valid.length == 0) {
                REQUIRE(journal_create(directory_fd, &facts, &journal) == 0);
                journal_close(&journal);
                fuzz_read(FILE_NAME, &valid);
        }
        *ret_file = valid;
}

static void check_text(const char *text, size_t capacity)
{
        REQUIRE(memchr(text, '\0', capacity));
}

static void check_taken_over(struct journal *journal)
{
        const struct journal_head *head = journal->head;
        uint64_t pages = 0;

        REQUIRE(strcmp(head->vm, "machine-1") == 0 && head->pid > 0);
        check_text(head->image_path, sizeof(head->image_path));
        check_text(head->working_set_path, sizeof(head->working_set_path));
        check_text(head->why, sizeof(head->why));
        REQUIRE(head->n_regions >= 1 && head->n_regions <= HANDSHAKE_MAX_REGIONS);
        for (size_t i = 0; i < head->n_regions; i++) {
                const struct region *region = &head->regions[i];

                REQUIRE(__builtin_popcountll(region->page_bytes) == 1 && region->page_bytes >= 4096 && region->page_bytes <= 1 << 30);
                REQUIRE(region->size_bytes > 0 && region->address + region->size_bytes > region->address);
                REQUIRE(region->offset + region->size_bytes > region->offset);
                pages += region->size_bytes / region->page_bytes;
        }
        REQUIRE(pages == head->n_pages);
        for (uint64_t page = 0; page < pages; page++) {
                journal_mark(journal->removed, page);
                REQUIRE(!journal_has(journal->installed, page) || journal_has(journal->removed, page));
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static struct fuzz_file file;
        struct fuzz_input input = { data, size };
        struct journal journal;
        _cleanup_close_ int directory_fd = open(fuzz_directory(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        int r;

        REQUIRE(directory_fd >= 0);
        read_valid(directory_fd, &file);
        fuzz_edit(&file, offsetof(struct journal_head, n_pages), &input);
        fuzz_write(FILE_NAME, &file);
        r = journal_open(directory_fd, FILE_NAME, &journal);
        REQUIRE(r == 0 || r == -ENODATA || r == -EPROTONOSUPPORT || r == -EBADMSG);
        REQUIRE(r == 0 || size > 0);
        if (r == 0) {
                check_taken_over(&journal);
                journal_close(&journal);
        }
        return 0;
}
