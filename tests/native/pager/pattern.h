/* What the pages of a test image hold: computable, so that every byte a machine reads can be checked.
 *
 * Word k of page p of an image with seed s is splitmix64(s ^ (p * 512 + k)), or the page is zero: a hole
 * of the file. Zero pages come in clusters, as in a guest's memory. */
#ifndef SNAPSTART_PATTERN_H
#define SNAPSTART_PATTERN_H

#include <stdbool.h>
#include <stdint.h>

#define PATTERN_PAGE_BYTES 4096
#define PATTERN_PAGE_WORDS 512
#define PATTERN_CLUSTER_PAGES 8

static inline uint64_t splitmix64(uint64_t x)
{
        x += UINT64_C(0x9E3779B97F4A7C15);
        x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
        x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
        return x ^ (x >> 31);
}

/* Returns the x of which splitmix64() made @y: every step of it can be undone. */
static inline uint64_t splitmix64_undo(uint64_t y)
{
        y = (y ^ (y >> 31) ^ (y >> 62)) * UINT64_C(0x319642B2D24D8EC3);
        y = (y ^ (y >> 27) ^ (y >> 54)) * UINT64_C(0x96DE1B173F119089);
        return (y ^ (y >> 30) ^ (y >> 60)) - UINT64_C(0x9E3779B97F4A7C15);
}

static inline uint64_t pattern_word(uint64_t seed, uint64_t page, unsigned word)
{
        return splitmix64(seed ^ (page * PATTERN_PAGE_WORDS + word));
}

/* Returns the seed of an image whose page @page begins with @word_0. */
static inline uint64_t pattern_seed(uint64_t page, uint64_t word_0)
{
        return splitmix64_undo(word_0) ^ (page * PATTERN_PAGE_WORDS);
}

/* Returns whether page @page is a hole in an image of which the share @zero_share is. */
static inline bool pattern_is_zero(uint64_t seed, uint64_t page, double zero_share)
{
        uint64_t draw = splitmix64(splitmix64(seed) + page / PATTERN_CLUSTER_PAGES);

        return (double)(draw >> 11) * 0x1p-53 < zero_share;
}

static inline void pattern_fill(uint64_t seed, uint64_t page, uint64_t *ret_words)
{
        for (unsigned word = 0; word < PATTERN_PAGE_WORDS; word++)
                ret_words[word] = pattern_word(seed, page, word);
}

#endif
