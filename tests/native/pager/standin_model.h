/* What every page of a stand-in machine has to hold, whatever happened to it and to its page server.
 *
 * A page holds the image's content, or zeros once it was given back; one word of it, at a place of the
 * page's own, may have been written since. Whoever touches or gives back a page holds its lock, so that
 * what is right is always exact; standin_random.c has the one exception. */
#ifndef SNAPSTART_STANDIN_MODEL_H
#define SNAPSTART_STANDIN_MODEL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "standin_guest.h"

struct model_page {
        atomic_bool is_locked;
        bool is_zero; /* without what was written */
        uint32_t version; /* of the written word; 0: none was written */
};

struct model {
        const struct guest *guest;
        uint64_t image_seed;
        uint64_t machine_seed; /* what is written differs from machine to machine */
        struct model_page *pages; /* owned */
        atomic_ullong wrong_bytes;
        atomic_uint n_told; /* the first of them are described on stderr */
};

/* Expect the content of the guest's image, which standin_image wrote (the seed is found in it). Only one
 * page of the file is read. */
void model_open(struct model *model, const struct guest *guest, uint64_t machine_seed);
void model_close(struct model *model);

/* All or nothing, never waiting: false if somebody has one of the pages. */
bool model_try_lock(struct model *model, uint64_t page, uint64_t pages);
void model_unlock(struct model *model, uint64_t page, uint64_t pages);

/* Returns the index of the word of the page that is written. */
unsigned model_written_word(const struct model *model, uint64_t page);

/* Returns what word @word of page @page has to be. */
uint64_t model_word(const struct model *model, uint64_t page, unsigned word);

/* Returns what has to be written next. The page is locked. */
uint64_t model_write(struct model *model, uint64_t page);

/* The pages were given back. They are locked. */
void model_remove(struct model *model, uint64_t page, uint64_t pages);

/* Count @got as wrong if it is not @want. @when: for people. */
void model_check(struct model *model, uint64_t page, unsigned word, uint64_t got, uint64_t want, const char *when);

/* Check all words of a locked page that is present. */
void model_check_page(struct model *model, uint64_t page, const char *when);

#endif
