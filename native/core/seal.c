#define _GNU_SOURCE
#include "seal.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define BUFFER_BYTES (256U * 1024) /* fits the second-level cache, large enough to hide the calls */

struct seal {
        int src_fd, dst_fd;
        uint64_t data_bytes;
        uint8_t *buffer;
        XXH3_state_t *hash;
};

uint64_t seal_chunks(uint64_t size_bytes, uint64_t chunk_bytes)
{
        return size_bytes / chunk_bytes + (size_bytes % chunk_bytes != 0);
}

static bool is_zero_page(const uint8_t *page)
{
        static const uint8_t zero[SEAL_PAGE_BYTES];

        return memcmp(page, zero, SEAL_PAGE_BYTES) == 0;
}

static int read_all(int fd, uint8_t *buffer, size_t n, uint64_t offset)
{
        while (n > 0) {
                ssize_t got = pread(fd, buffer, n, (off_t)offset);

                if (got < 0 && errno == EINTR)
                        continue;
                if (got <= 0)
                        return got < 0 ? -errno : -ENODATA;
                buffer += got;
                offset += (uint64_t)got;
                n -= (size_t)got;
        }
        return 0;
}

static int write_all(int fd, const uint8_t *buffer, size_t n, uint64_t offset)
{
        while (n > 0) {
                ssize_t put = pwrite(fd, buffer, n, (off_t)offset);

                if (put < 0 && errno == EINTR)
                        continue;
                if (put <= 0)
                        return put < 0 ? -errno : -EIO;
                buffer += put;
                offset += (uint64_t)put;
                n -= (size_t)put;
        }
        return 0;
}

/* Hash the pages of one run of data and return where the run ends: at a zero page or at @end. */
static size_t hash_run(struct seal *seal, size_t start, size_t end, uint64_t offset)
{
        size_t at = start;

        for (; at < end && !is_zero_page(seal->buffer + at); at += SEAL_PAGE_BYTES) {
                uint64_t index = htole64((offset + at) / SEAL_PAGE_BYTES);

                XXH3_64bits_update(seal->hash, &index, sizeof(index));
                XXH3_64bits_update(seal->hash, seal->buffer + at, SEAL_PAGE_BYTES);
        }
        return at;
}

/* Hash and write what is in the buffer, which came from @offset. */
static int seal_buffer(struct seal *seal, size_t n, uint64_t offset)
{
        for (size_t at = 0; at < n;) {
                size_t end = hash_run(seal, at, n, offset);

                if (end == at) {
                        at += SEAL_PAGE_BYTES;
                        continue;
                }
                if (seal->dst_fd >= 0) {
                        int r = write_all(seal->dst_fd, seal->buffer + at, end - at, offset + at);
                        if (r < 0)
                                return r;
                }
                seal->data_bytes += end - at;
                at = end;
        }
        return 0;
}

/* Find the next run of data from @offset on, in whole pages, at most up to @end.
 * Returns 0, with @ret_start == @end if there is none. */
static int next_data(int fd, uint64_t offset, uint64_t end, uint64_t *ret_start, uint64_t *ret_end)
{
        off_t data = lseek(fd, (off_t)offset, SEEK_DATA), hole;

        if (data < 0) {
                if (errno != ENXIO)
                        return -errno;
                *ret_start = *ret_end = end; /* a hole up to the end of the file */
                return 0;
        }
        if ((uint64_t)data >= end) {
                *ret_start = *ret_end = end;
                return 0;
        }
        hole = lseek(fd, data, SEEK_HOLE);
        if (hole < 0)
                return errno == ENXIO ? -ENODATA : -errno;
        *ret_start = (uint64_t)data / SEAL_PAGE_BYTES * SEAL_PAGE_BYTES;
        *ret_end = ((uint64_t)hole + SEAL_PAGE_BYTES - 1) / SEAL_PAGE_BYTES * SEAL_PAGE_BYTES;
        if (*ret_end > end)
                *ret_end = end;
        return 0;
}

/* The run of data that was found last: a chunk need not ask the kernel again about a run that
 * reaches into it. */
struct run {
        uint64_t start, end;
};

static int seal_chunk(struct seal *seal, struct run *run, uint64_t offset, uint64_t end, uint64_t size)
{
        while (offset < end) {
                uint64_t stop;
                int r;

                if (offset >= run->end) {
                        r = next_data(seal->src_fd, offset, size, &run->start, &run->end);
                        if (r < 0)
                                return r;
                }
                if (offset < run->start)
                        offset = run->start;
                if (offset >= end)
                        break;
                stop = run->end < end ? run->end : end;
                if (stop - offset > BUFFER_BYTES)
                        stop = offset + BUFFER_BYTES;
                r = read_all(seal->src_fd, seal->buffer, stop - offset, offset);
                if (r == 0)
                        r = seal_buffer(seal, stop - offset, offset);
                if (r < 0)
                        return r;
                offset = stop;
        }
        return 0;
}

static int check_source(int fd, uint64_t size_bytes)
{
        struct stat st;

        if (fstat(fd, &st) < 0)
                return -errno;
        return (uint64_t)st.st_size < size_bytes ? -ENODATA : 0;
}

static int prepare_destination(int fd, uint64_t size_bytes)
{
        struct stat st;

        if (fd < 0)
                return 0;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (st.st_blocks > 0)
                return -ENOTEMPTY;
        return ftruncate(fd, (off_t)size_bytes) < 0 ? -errno : 0;
}

static int seal_all(struct seal *seal, uint64_t size_bytes, uint64_t chunk_bytes, const struct limits *lim, uint64_t *hashes)
{
        struct run run = { 0, 0 };

        for (uint64_t offset = 0; offset < size_bytes; offset += chunk_bytes) {
                uint64_t end = size_bytes - offset < chunk_bytes ? size_bytes : offset + chunk_bytes;
                int r = limits_check(lim);

                if (r < 0)
                        return r;
                XXH3_64bits_reset(seal->hash);
                r = seal_chunk(seal, &run, offset, end, size_bytes);
                if (r < 0)
                        return r;
                *hashes++ = XXH3_64bits_digest(seal->hash);
        }
        return check_source(seal->src_fd, size_bytes);
}

int seal_copy(int src_fd, int dst_fd, uint64_t size_bytes, uint64_t chunk_bytes, const struct limits *lim, uint64_t *hashes,
              struct seal_result *ret_result)
{
        struct seal seal = { .src_fd = src_fd, .dst_fd = dst_fd };
        int r;

        if (size_bytes > INT64_MAX || size_bytes % SEAL_PAGE_BYTES || chunk_bytes == 0 || chunk_bytes % SEAL_PAGE_BYTES)
                return -EINVAL;
        r = check_source(src_fd, size_bytes);
        if (r == 0)
                r = prepare_destination(dst_fd, size_bytes);
        if (r < 0)
                return r;
        seal.buffer = aligned_alloc(SEAL_PAGE_BYTES, BUFFER_BYTES);
        seal.hash = XXH3_createState();
        r = seal.buffer && seal.hash ? seal_all(&seal, size_bytes, chunk_bytes, lim, hashes) : -ENOMEM;
        free(seal.buffer);
        XXH3_freeState(seal.hash);
        if (r == 0)
                *ret_result = (struct seal_result){ .data_bytes = seal.data_bytes };
        return r;
}
