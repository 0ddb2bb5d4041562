/* The memory a machine is restored into: one memfd for each slot, empty at first, filled page by page.
 *
 * What is filled ahead, and what is filled because it was asked for, may meet at one page. A page is written
 * once: after that it is the guest's. A bit for each page says whether it was, and one lock covers the bit
 * and the write. It is held for a few pages at a time, never while a disk is waited for.
 *
 * A monitor maps a page by UFFDIO_CONTINUE once it was told that the page is there (newer than v53.0), which
 * fails for a page the memfd does not have: so pages of zeros are allocated too when they are asked for, and
 * no earlier. v53.0 registers no minor faults and only wakes who waits: there, a page is visible as soon
 * as the memfd has it. So a page's bytes come out of memory that is locked, which the kernel copies into a page
 * it shows to nobody before it is full. (A memfd must not get huge pages there: docs/memory.md.)
 *
 * A guest that gives pages back (a balloon) makes holes where pages were installed. They read as zeros from
 * then on, and are allocated anew when they are asked for. Thread-safe. */
#ifndef SNAPSTART_OFFLOAD_MEMORY_H
#define SNAPSTART_OFFLOAD_MEMORY_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "offload_layout.h"

#define OFFLOAD_PIECE_PAGES 16 /* installed at a time, under the lock */

struct offload_memory {
        struct offload_layout layout;
        int fds[OFFLOAD_MAX_SLOTS]; /* in the layout's order; owned */
        pthread_mutex_t mutex;
        uint64_t *installed; /* one bit for each page of the image; owned */
        uint64_t copied, zeroed; /* pages */
        bool is_open;
};

/* Returns 0 or a negative errno. */
int offload_memory_open(struct offload_memory *memory, const struct offload_layout *layout);

/* Zeroed memory is fine. */
void offload_memory_close(struct offload_memory *memory);

/* Returns whether all @pages pages from @page on were installed before. */
bool offload_memory_has(struct offload_memory *memory, uint64_t page, uint64_t pages);

/* Install of @pages pages, at most OFFLOAD_PIECE_PAGES, from @page on those that were not installed before.
 * @bytes: their content, in locked memory; NULL: zeros, which are allocated.
 * Returns how many were installed, or a negative errno. */
int64_t offload_memory_install(struct offload_memory *memory, uint64_t page, uint64_t pages, const uint8_t *bytes);

/* Allocate of @pages pages, that were installed, those the guest gave back. Returns 0 or a negative errno. */
int offload_memory_keep(struct offload_memory *memory, uint64_t page, uint64_t pages);

/* Read what is now in a page. Returns 0 or a negative errno. */
int offload_memory_read(const struct offload_memory *memory, uint64_t page, uint8_t *bytes);

void offload_memory_count(struct offload_memory *memory, uint64_t *ret_copied, uint64_t *ret_zeroed);

/* Returns locked memory of @n bytes, to be given back with offload_free_locked(), or NULL. */
void *offload_alloc_locked(size_t n);
void offload_free_locked(void *bytes, size_t n);

#endif
