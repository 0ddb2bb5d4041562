/* Whatever a record's file holds: what is read of it names pages of the image, each once.
 * Input: whether the hash is made to fit, then edits of a valid file. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>

#include "fuzz.h"
#include "fuzz_image.h"
#include "working_set_file.h"

#define TOUCHES 9

static void read_valid(struct fuzz_file *ret_file)
{
        static struct fuzz_file valid;

        if (valid.length == 0) {
                struct touch touches[TOUCHES];

                for (uint32_t i = 0; i < TOUCHES; i++)
                        touches[i] = (struct touch){ (i * 211) % FUZZ_IMAGE_PAGES, i % 2 ? TOUCH_WRITTEN : 0 };
                REQUIRE(record_write(fuzz_path("record"), fuzz_image(), fuzz_digest, touches, TOUCHES) == 0);
                fuzz_read("record", &valid);
        }
        *ret_file = valid;
}

static void make_hash_fit(struct fuzz_file *file)
{
        struct record_header header;

        if (file->length < sizeof(header))
                return;
        memcpy(&header, file->bytes, sizeof(header));
        header.hash = head_hash(file->bytes, file->length, sizeof(header));
        memcpy(file->bytes, &header, sizeof(header));
}

static void check_record(const struct record *record)
{
        bool seen[FUZZ_IMAGE_PAGES] = { false };

        for (size_t i = 0; i < record->n; i++) {
                const struct touch *touch = &record->touches[i];

                REQUIRE(touch->page < FUZZ_IMAGE_PAGES && !seen[touch->page]);
                REQUIRE(!(touch->flags & ~(uint32_t)(TOUCH_WRITTEN | TOUCH_ZERO)));
                seen[touch->page] = true;
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static struct fuzz_file file;
        struct fuzz_input input = { data, size };
        bool hash_fits = fuzz_take(&input, 1) % 4 > 0;
        struct record record;
        int r;

        read_valid(&file);
        fuzz_edit(&file, 0, &input);
        if (hash_fits)
                make_hash_fit(&file);
        fuzz_write("record", &file);
        r = record_read(fuzz_path("record"), fuzz_image(), fuzz_digest, &record);
        REQUIRE(r == 0 || r == -EBADMSG || r == -ESTALE);
        REQUIRE(r == 0 || size > 1);
        if (r == 0) {
                check_record(&record);
                record_release(&record);
        }
        return 0;
}
