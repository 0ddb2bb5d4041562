/* How records and working sets lie in their files (working_set.h): what both begin with. */
#ifndef SNAPSTART_WORKING_SET_FILE_H
#define SNAPSTART_WORKING_SET_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "working_set.h"

#define WORKING_SET_MAGIC "SNAPWSET"
#define RECORD_MAGIC "SNAPRECD"
#define FILE_VERSION 1
#define MAGIC_BYTES 8
#define RECALL_SCALE 1000000
#define RECALL_UNKNOWN UINT64_MAX

/* Numbers are used as they lie in the file. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are little-endian");

/* What a file is, and of which image. */
struct file_tie {
        char magic[MAGIC_BYTES];
        uint32_t version;
        uint32_t unused; /* zero */
        uint8_t digest[WORKING_SET_DIGEST_BYTES];
        uint64_t image_bytes;
};

/* Hashes are XXH3-64: they find accidents, not forgers. */
struct working_set_header {
        struct file_tie tie;
        uint64_t n_runs, n_pages, n_data_pages;
        uint64_t recall; /* in millionths */
        uint64_t hash; /* of all that is before it, and behind it up to the content */
};

struct record_header {
        struct file_tie tie;
        uint64_t n_touches;
        uint64_t hash; /* of all that is before it, and behind it */
};

_Static_assert(sizeof(struct working_set_header) == 96 && sizeof(struct record_header) == 72, "no padding");
_Static_assert(sizeof(struct run) == 8 && sizeof(struct touch) == 8, "no padding");

/* Returns what a file of @image with @digest begins with. @magic: MAGIC_BYTES. */
struct file_tie file_tie(const char *magic, const struct image *image, const uint8_t *digest);

/* Returns 0 if @tie is that of @expected, -EBADMSG if it is of another kind or version, -ESTALE if it is
 * of another image. */
int file_tie_check(const struct file_tie *tie, const struct file_tie *expected);

/* Open a regular file that is no link. Returns 0, -EBADMSG if it is another thing, or another negative errno. */
int file_open(const char *path, int *ret_fd, struct image_identity *ret_identity);

/* Read @n bytes at @offset of @fd. Returns 0, -EBADMSG if the file ends before, or another negative errno. */
int file_read(int fd, void *bytes, size_t n, uint64_t offset);

struct stat;

/* Returns what tells a state of a file from every other. */
struct image_identity file_identity(const struct stat *st);

/* Returns the hash of @n_bytes that begin with a header of @header_bytes, but for the header's last 8. */
uint64_t head_hash(const void *head, size_t n_bytes, size_t header_bytes);

/* Returns the hash of one chunk of content. */
uint64_t chunk_hash(const void *content, size_t n_bytes);

/* Returns how many hashes @n_data_pages pages of content have. */
static inline uint64_t working_set_chunks(uint64_t n_data_pages)
{
        return (n_data_pages + WORKING_SET_CHUNK_PAGES - 1) / WORKING_SET_CHUNK_PAGES;
}

/* Returns how many bytes come before the content: whole pages. The counts are below 2^32. */
static inline uint64_t working_set_head_bytes(const struct working_set_header *header)
{
        uint64_t bytes = sizeof(*header) + header->n_runs * sizeof(struct run) +
                         working_set_chunks(header->n_data_pages) * sizeof(uint64_t);

        return (bytes + IMAGE_PAGE_BYTES - 1) / IMAGE_PAGE_BYTES * IMAGE_PAGE_BYTES;
}

#endif
