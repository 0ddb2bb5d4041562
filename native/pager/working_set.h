/* The pages that a template's forks touch first: recorded, merged, kept beside the template.
 *
 * A record is what one machine touched, in order. A working set is what several records agree on: in
 * order of first use, merged into runs, bounded by a budget, with the content of its pages behind it
 * in the same order, so that on a cold page cache one sequential read brings all of it.
 *
 * File of a working set, little-endian: struct working_set_header, runs, one hash for each
 * WORKING_SET_CHUNK_PAGES of content, zeros up to a multiple of the page size, the content of every
 * run that is not zero, page after page. A record's: struct record_header, touches. Both are written
 * whole beside their name and renamed. Nothing in them is believed before it is checked; a file of
 * another image (digest, size) is refused. */
#ifndef SNAPSTART_WORKING_SET_H
#define SNAPSTART_WORKING_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "image.h"

#define WORKING_SET_DIGEST_BYTES 32 /* SHA-256 or the like of the image, as whoever sealed it says */
#define WORKING_SET_RUN_MAX_PAGES 512
#define WORKING_SET_CHUNK_PAGES 64 /* of content that are read and checked together */

enum touch_flags {
        TOUCH_WRITTEN = 1, /* the guest wrote to the page */
        TOUCH_ZERO = 2, /* it holds zeros in the image */
};

struct touch {
        uint32_t page; /* of the image, IMAGE_PAGE_BYTES each */
        uint32_t flags;
};

/* Pages with the same flags that follow each other in the image. */
struct run {
        uint32_t page;
        uint16_t pages; /* 1 to WORKING_SET_RUN_MAX_PAGES */
        uint16_t flags;
};

struct working_set {
        const struct run *runs; /* in the order of first use; borrowed from mapping */
        size_t n_runs;
        uint64_t n_pages; /* of all runs */
        uint64_t n_data_pages; /* of those that are not zero: the content at data */
        const uint8_t *data; /* page aligned, n_data_pages; borrowed from mapping */
        double recall; /* share of a machine's touches it had, when it was made; below 0: unknown */
        int fd; /* owned */
        struct image_identity identity; /* of its file when it was opened */
        const uint64_t *hashes; /* of the content, one for each chunk; borrowed from mapping */
        void *mapping; /* a copy of what comes before the content, then the file's content; owned */
        size_t mapping_bytes;
};

/* Everything but the content is read and checked here: which pages, in which order, with which flags; that
 * what is a hole of @image is called zero, not that all else that is called so is zero: whoever wrote the file
 * had looked. The content is checked by working_set_populate().
 * Returns 0, -ENOENT if there is no such file, -ESTALE if it belongs to another image, -EBADMSG if it is
 * damaged or of another version, or another negative errno. @digest: of the image,
 * WORKING_SET_DIGEST_BYTES. */
int working_set_open(const char *path, const struct image *image, const uint8_t *digest,
                     struct working_set *ret_set);

/* Release everything. @set: zeroed or closed before is fine. */
void working_set_close(struct working_set *set);

/* Read @pages pages of the content from the @page-th on (and the rest of the chunks they lie in) in one
 * go, check them, map them into this process. For a reader thread: it blocks, and takes some 1 us for
 * each page that is in memory.
 * Returns 0, -EBADMSG if the content is not what was written, or another negative errno (-EIO). */
int working_set_populate(const struct working_set *set, uint64_t page, uint64_t pages);

/* Returns 0 if the file still is what was opened, so that what was populated still is what was checked;
 * -ESTALE if it was changed or cut; or another negative errno. */
int working_set_check(const struct working_set *set);

/* Returns which share of the content is in the page cache, 0 to 1, of a sample of about 1,024 pages; 1 if
 * there is no content. */
double working_set_data_resident(const struct working_set *set);

/* Returns as working_set_data_resident() of the same pages in @image, of a sample of 64 runs. */
double working_set_image_resident(const struct working_set *set, const struct image *image);

/* Write a record: @n touches in order, each page once. Blocks.
 * Returns 0, -EINVAL for touches that are none of @image, or another negative errno. */
int record_write(const char *path, const struct image *image, const uint8_t *digest,
                 const struct touch *touches, size_t n);

struct record {
        struct touch *touches; /* owned */
        size_t n;
};

/* Returns as working_set_open(). */
int record_read(const char *path, const struct image *image, const uint8_t *digest,
                struct record *ret_record);

void record_release(struct record *record);

/* How well a set made of the records fits one of them that was left out, on average; below 0 with a
 * single record. */
struct working_set_report {
        uint64_t pages, runs, data_bytes, dropped_pages; /* dropped: beyond the budget */
        double precision; /* of the set's pages, how many the one left out touched */
        double recall; /* of its touches, how many the set had */
};

/* Merge @n records into a working set and write it. A page belongs to it if more than half of the
 * records touched it (all of one or two); its place is its mean rank; it counts as written if any
 * of them wrote it; a few that fewer touched are taken in between (merge.h). @budget_pages: most
 * pages. Blocks. Equal input makes an equal file.
 * Returns 0, -EINVAL without records or if a record names a page twice or one that @image does not have,
 * -EFBIG if the image has more pages than a run can name, -ESTALE if the image was changed, or another
 * negative errno. */
int working_set_build(const struct record *records, size_t n, const struct image *image,
                      const uint8_t *digest, uint64_t budget_pages, const char *path,
                      struct working_set_report *ret_report);

#endif
