#define _GNU_SOURCE
#include "offload_fill.h"

#include <errno.h>
#include <sys/uio.h>

int offload_fill_open(struct offload_fill *fill, struct offload_memory *memory, const struct image *image)
{
        *fill = (struct offload_fill){
                .memory = memory,
                .image = image,
                .buffer = offload_alloc_locked(OFFLOAD_BUFFER_BYTES),
        };
        return fill->buffer ? 0 : -ENOMEM;
}

void offload_fill_close(struct offload_fill *fill)
{
        offload_free_locked(fill->buffer, OFFLOAD_BUFFER_BYTES);
        fill->buffer = NULL;
}

/* Read out of the page cache, or from where the image is. A file system that cannot tell the two apart is
 * one that may wait. */
static int read_image(struct offload_fill *fill, uint64_t page, uint64_t pages, bool may_wait)
{
        size_t n = pages * IMAGE_PAGE_BYTES, got = 0;

        while (got < n) {
                struct iovec bytes = { fill->buffer + got, n - got };
                off_t offset = (off_t)(page * IMAGE_PAGE_BYTES + got);
                ssize_t r = preadv2(fill->image->fd, &bytes, 1, offset, may_wait ? 0 : RWF_NOWAIT);

                if (r < 0 && errno == EINTR)
                        continue;
                if (r < 0)
                        return errno == EOPNOTSUPP ? -EAGAIN : -errno;
                if (r == 0)
                        return -ESTALE;
                got += (size_t)r;
        }
        return image_check(fill->image);
}

static bool is_zero(const struct image *image, uint64_t page, uint64_t pages)
{
        for (uint64_t i = page; i < page + pages; i++)
                if (!image_is_zero(image, i))
                        return false;
        return true;
}

/* At most OFFLOAD_PIECE_PAGES pages. */
static int fill_piece(struct offload_fill *fill, uint64_t page, uint64_t pages, bool may_wait)
{
        bool zeros = is_zero(fill->image, page, pages);
        int64_t installed;
        int r;

        if (offload_memory_has(fill->memory, page, pages))
                return offload_memory_keep(fill->memory, page, pages);
        r = zeros ? 0 : read_image(fill, page, pages, may_wait);
        if (r)
                return r;
        installed = offload_memory_install(fill->memory, page, pages, zeros ? NULL : fill->buffer);
        if (installed < 0)
                return (int)installed;
        return (uint64_t)installed < pages ? offload_memory_keep(fill->memory, page, pages) : 0;
}

int offload_fill_pages(struct offload_fill *fill, uint64_t page, uint64_t pages, bool may_wait)
{
        uint64_t end = page + pages, n;
        int r = 0;

        for (; page < end && r == 0; page += n) {
                n = end - page < OFFLOAD_PIECE_PAGES ? end - page : OFFLOAD_PIECE_PAGES;
                r = fill_piece(fill, page, n, may_wait);
        }
        return r;
}
