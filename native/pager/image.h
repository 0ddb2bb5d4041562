/* A template's memory image: what guest pages are filled from.
 *
 * The file is mapped whole, shared, read-only. Its holes are known from the start, so that a page of
 * zeros costs no read and no memory. It must not change while machines run on it: a sealed memfd
 * cannot, of a file the identity is compared after everything that was taken from it. */
#ifndef SNAPSTART_IMAGE_H
#define SNAPSTART_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMAGE_PAGE_BYTES 4096
#define IMAGE_MAX_BYTES (UINT64_C(1) << 40) /* of a larger one the journal alone would take much memory */

/* What tells one state of one file from every other (stat(2)). */
struct image_identity {
        uint64_t device, inode, size_bytes;
        int64_t modified_s, modified_ns;
};

struct image {
        int fd; /* owned */
        bool is_sealed; /* a memfd nobody can write to or shrink: never checked again */
        struct image_identity identity;
        const uint8_t *memory; /* size_bytes of it, mapped shared; owned */
        uint64_t pages; /* of IMAGE_PAGE_BYTES; a last partial page counts */
        uint64_t *zeros; /* one bit for each page: it is in a hole; owned */
};

/* Take over @fd, a regular file or a memfd, as an image that is not mapped yet: fd, identity, is_sealed and pages
 * are known. @fd: owned by the image from here on, closed on failure too.
 * Returns 0, -EINVAL if it is no such file or is empty, -EFBIG if it is too large, or another negative errno. */
int image_take_fd(int fd, struct image *ret_image);

/* As image_take_fd(), of the file at @path. */
int image_take(const char *path, struct image *ret_image);

/* Map it and find its holes. Returns 0 or a negative errno; the image is to be closed either way. */
int image_map(struct image *image);

/* Take over @fd as an image and map it. @fd: owned by the image from here on, closed
 * on failure too.
 * Returns 0, -EINVAL if it is no such file or is empty, or another negative errno. */
int image_open_fd(int fd, struct image *ret_image);

/* As image_open_fd(), of the file at @path. Links are followed: Kuasar names them. */
int image_open(const char *path, struct image *ret_image);

/* Release everything. Closing it twice is harmless. */
void image_close(struct image *image);

/* Returns 0 if the file still is what was opened, -ESTALE if it was changed or cut, or another
 * negative errno. */
int image_check(const struct image *image);

/* Returns whether page @page holds nothing but zeros, as far as the file system knows. */
static inline bool image_is_zero(const struct image *image, uint64_t page)
{
        return (image->zeros[page / 64] >> (page % 64)) & 1;
}

/* Returns whether @pages pages from @page on are in the page cache (mincore(2)): reading them will
 * not wait for a disk. At most 512 are looked at. Where the kernel does not tell, they are not: a reader
 * waits for them then. */
bool image_is_resident(const struct image *image, uint64_t page, uint64_t pages);

/* Returns 1 if page @page holds nothing but zeros, in a hole or not; 0 if not; or a negative errno if it cannot
 * be read. Blocks. */
int image_holds_zeros(const struct image *image, uint64_t page);

/* Map @pages pages from @page on into this process, reading what is not in memory. Blocks.
 * Returns 0, -EFAULT if the file ends before, -EIO if it cannot be read, or another negative errno. */
int image_populate(const struct image *image, uint64_t page, uint64_t pages);

#endif
