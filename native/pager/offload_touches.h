/* What a monitor asked for: which pages, which of them because its guest touched them, in which order. */
#ifndef SNAPSTART_OFFLOAD_TOUCHES_H
#define SNAPSTART_OFFLOAD_TOUCHES_H

#include "image.h"
#include "offload_layout.h"
#include "offload_memory.h"
#include "working_set.h"

/* A monitor fills its memory in order, slot after slot, past what was asked for before: where it has to ask
 * next. */
struct offload_sweep {
        uint64_t next, end; /* pages: next one, end of its slot */
};

struct offload_touches {
        uint64_t *asked; /* one bit for each page of the image; owned */
        struct offload_sweep sweep;
        bool has_sweep; /* the monitor fills its memory by itself */
        bool is_recording;
        struct touch *list; /* while recording, in order; owned */
        size_t n, capacity;
        int error; /* -ENOMEM: the list is not complete */
};

/* Returns 0 or -ENOMEM. */
int offload_touches_open(struct offload_touches *touches, const struct image *image);

/* Release everything. Zeroed memory is fine. */
void offload_touches_close(struct offload_touches *touches);

/* What one request was. */
struct offload_asked {
        bool is_sweep; /* it came exactly where the sweep has to be */
        bool is_new; /* none of its pages was asked for before */
};

/* Note a request. @page, @pages: within @layout, which has the length of @image. */
struct offload_asked offload_touches_note(struct offload_touches *touches, const struct offload_layout *layout,
                                          const struct image *image, uint64_t page, uint64_t pages);

/* Returns whether all memory was asked for that is surely in use. */
bool offload_touches_has_all(const struct offload_touches *touches, const struct offload_layout *layout);

/* Find out which touched pages the guest wrote to, comparing @memory with @image, and write the record. Blocks.
 * @ret_written: how many. @ret_why: a static text for people when it fails.
 * Returns 0 or a negative errno. */
int offload_touches_write(struct offload_touches *touches, const struct offload_memory *memory,
                          const struct image *image, const uint8_t *digest, const char *path,
                          uint64_t *ret_written, const char **ret_why);

#endif
