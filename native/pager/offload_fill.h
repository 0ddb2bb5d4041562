/* Make pages of a machine's memory be there, with the image's content unless they were installed before. */
#ifndef SNAPSTART_OFFLOAD_FILL_H
#define SNAPSTART_OFFLOAD_FILL_H

#include "image.h"
#include "offload_memory.h"

#define OFFLOAD_BUFFER_BYTES (OFFLOAD_PIECE_PAGES * IMAGE_PAGE_BYTES)

struct offload_fill {
        struct offload_memory *memory; /* borrowed */
        const struct image *image; /* borrowed; as long as the memory */
        uint8_t *buffer; /* locked; owned */
};

/* Returns 0 or -ENOMEM. */
int offload_fill_open(struct offload_fill *fill, struct offload_memory *memory, const struct image *image);

/* Release everything. Zeroed memory is fine. */
void offload_fill_close(struct offload_fill *fill);

/* Make @pages pages from @page on be there. @may_wait: for a disk.
 * Returns 0, -EAGAIN if it would have to wait, -ESTALE if the image is not what it was, or another negative
 * errno. */
int offload_fill_pages(struct offload_fill *fill, uint64_t page, uint64_t pages, bool may_wait);

#endif
