#define _GNU_SOURCE
#include "offload_touches.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIRST_CAPACITY 1024

int offload_touches_open(struct offload_touches *touches, const struct image *image)
{
        *touches = (struct offload_touches){
                .asked = calloc(image->pages / 64 + 1, sizeof(*touches->asked)),
                .has_sweep = true,
        };
        return touches->asked ? 0 : -ENOMEM;
}

void offload_touches_close(struct offload_touches *touches)
{
        free(touches->asked);
        free(touches->list);
        *touches = (struct offload_touches){ 0 };
}

static bool was_asked(const struct offload_touches *touches, uint64_t page)
{
        return (touches->asked[page / 64] >> (page % 64)) & 1;
}

static bool begins_slot(const struct offload_layout *layout, uint64_t page, struct offload_sweep *ret_sweep)
{
        const struct offload_slot *slot = &layout->slots[offload_layout_at(layout, page * IMAGE_PAGE_BYTES)];

        *ret_sweep = (struct offload_sweep){
                .next = slot->offset / IMAGE_PAGE_BYTES,
                .end = (slot->offset + slot->size_bytes) / IMAGE_PAGE_BYTES,
        };
        return page == ret_sweep->next;
}

static bool is_sweep(struct offload_touches *touches, const struct offload_layout *layout, uint64_t page)
{
        struct offload_sweep *sweep = &touches->sweep, slot;

        while (sweep->next < sweep->end && was_asked(touches, sweep->next))
                sweep->next++;
        if (sweep->next < sweep->end)
                return page == sweep->next;
        /* In which order it takes the slots is its own affair. */
        if (was_asked(touches, page) || !begins_slot(layout, page, &slot))
                return false;
        *sweep = slot;
        return true;
}

static int grow(struct offload_touches *touches)
{
        size_t capacity = touches->capacity ? touches->capacity * 2 : FIRST_CAPACITY;
        struct touch *list = realloc(touches->list, capacity * sizeof(*list));

        if (!list)
                return -ENOMEM;
        touches->list = list;
        touches->capacity = capacity;
        return 0;
}

static void record(struct offload_touches *touches, const struct image *image, uint64_t page)
{
        if (touches->error == 0 && touches->n == touches->capacity)
                touches->error = grow(touches);
        if (touches->error == 0)
                touches->list[touches->n++] =
                        (struct touch){ (uint32_t)page, image_is_zero(image, page) ? TOUCH_ZERO : 0 };
}

struct offload_asked offload_touches_note(struct offload_touches *touches, const struct offload_layout *layout,
                                          const struct image *image, uint64_t page, uint64_t pages)
{
        struct offload_asked asked = {
                .is_sweep = touches->has_sweep && is_sweep(touches, layout, page),
                .is_new = true,
        };

        for (uint64_t i = page; i < page + pages; i++) {
                if (was_asked(touches, i)) {
                        asked.is_new = false;
                        continue;
                }
                touches->asked[i / 64] |= UINT64_C(1) << (i % 64);
                if (touches->is_recording && !asked.is_sweep)
                        record(touches, image, i);
        }
        return asked;
}

static bool has_slot(const struct offload_touches *touches, const struct offload_slot *slot)
{
        uint64_t page = slot->offset / IMAGE_PAGE_BYTES, end = page + slot->size_bytes / IMAGE_PAGE_BYTES;

        while (page < end && was_asked(touches, page))
                page++;
        return page == end;
}

bool offload_touches_has_all(const struct offload_touches *touches, const struct offload_layout *layout)
{
        for (size_t i = 0; i < layout->n_slots; i++)
                if (!layout->slots[i].is_plugged && !has_slot(touches, &layout->slots[i]))
                        return false;
        return true;
}

/* Compare what was touched with what it was. The guest may run. */
static int find_written(struct offload_touches *touches, const struct offload_memory *memory,
                        const struct image *image, uint64_t *ret_written)
{
        uint8_t now[IMAGE_PAGE_BYTES], then[IMAGE_PAGE_BYTES];
        uint64_t written = 0;

        for (size_t i = 0; i < touches->n; i++) {
                struct touch *touch = &touches->list[i];
                int r = offload_memory_read(memory, touch->page, now);

                if (r)
                        return r;
                if (pread(image->fd, then, sizeof(then), (off_t)touch->page * IMAGE_PAGE_BYTES) != sizeof(then))
                        return -ESTALE;
                if (memcmp(now, then, sizeof(now)) == 0)
                        continue;
                touch->flags |= TOUCH_WRITTEN;
                written++;
        }
        *ret_written = written;
        return image_check(image);
}

int offload_touches_write(struct offload_touches *touches, const struct offload_memory *memory,
                          const struct image *image, const uint8_t *digest, const char *path,
                          uint64_t *ret_written, const char **ret_why)
{
        uint64_t written = 0;
        int r = touches->error ? touches->error : find_written(touches, memory, image, &written);

        if (r) {
                *ret_why = r == -ESTALE ? "the image was changed while the machine was recorded"
                                        : "what the machine touched could not be compared with the image";
                return r;
        }
        r = record_write(path, image, digest, touches->list, touches->n);
        if (r)
                *ret_why = "the record could not be written";
        else
                *ret_written = written;
        return r;
}
