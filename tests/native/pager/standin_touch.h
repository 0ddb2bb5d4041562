/* One touch of guest memory, timed: what a vCPU would do. The page's lock is held. */
#ifndef SNAPSTART_STANDIN_TOUCH_H
#define SNAPSTART_STANDIN_TOUCH_H

#include <stdint.h>
#include <time.h>

#include "standin_model.h"

struct stay {
        uint64_t max_touch_ns, max_remove_ns;
};

static inline uint64_t clock_ns(void)
{
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void keep_max(uint64_t *max, uint64_t value)
{
        if (value > *max)
                *max = value;
}

/* Read one word. Returns it. */
static inline uint64_t touch_read(const struct model *model, uint64_t page, unsigned word)
{
        return ((const volatile uint64_t *)guest_page(model->guest, page))[word];
}

/* Write the next version of the page's word. */
static inline void touch_write(struct model *model, uint64_t page)
{
        unsigned word = model_written_word(model, page);
        uint64_t value = model_write(model, page);

        ((volatile uint64_t *)guest_page(model->guest, page))[word] = value;
}

/* Give pages back; the model knows it when it is done. */
static inline void touch_remove(struct model *model, uint64_t page, uint64_t pages)
{
        guest_remove(model->guest, page, pages);
        model_remove(model, page, pages);
}

#endif
