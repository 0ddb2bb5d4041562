/* Copy a memory image sparsely and hash it on the way.
 *
 * Only data is read (SEEK_DATA), through a small buffer that stays in the processor's cache: a hole
 * of a memfd is never touched, so it allocates nothing. Pages of zeroes are dropped. Each chunk's
 * hash is XXH3-64 over (page index as 8 little-endian bytes, the page) of its non-zero pages in
 * order, so it does not depend on where the file system keeps holes. An XXH3 hash finds accidents,
 * not forgers. */
#ifndef SNAPSTART_SEAL_H
#define SNAPSTART_SEAL_H

#include "deadline.h"

#define SEAL_PAGE_BYTES 4096U
#define SEAL_CHUNK_BYTES (2U * 1024 * 1024)

struct seal_result {
        uint64_t data_bytes; /* in non-zero pages */
};

/* Returns how many hashes an image of @size_bytes has. */
uint64_t seal_chunks(uint64_t size_bytes, uint64_t chunk_bytes);

/* Copy and hash the first @size_bytes of an image.
 * @src_fd: borrowed, a regular file or memfd; its offset is moved. @dst_fd: borrowed, an empty regular file or
 * memfd, which gets @size_bytes and holes for zero pages; negative to hash only.
 * @size_bytes, @chunk_bytes: multiples of SEAL_PAGE_BYTES.
 * @hashes: room for seal_chunks() of them; undefined on failure.
 * Returns 0, -EINVAL for wrong sizes, -ENOTEMPTY if @dst_fd holds data, -ENODATA if the source is
 * shorter than @size_bytes (truncated, perhaps meanwhile), -ENOSPC, -EFBIG, -ECANCELED, -ETIMEDOUT,
 * or another negative errno (-EIO: the disk). A failed destination is left half-written. */
int seal_copy(int src_fd, int dst_fd, uint64_t size_bytes, uint64_t chunk_bytes, const struct limits *lim, uint64_t *hashes,
              struct seal_result *ret_result);

#endif
