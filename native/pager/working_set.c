#define _GNU_SOURCE
#include "working_set.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "fdutil.h"
#include "working_set_file.h"

#define PAGE ((uint64_t)IMAGE_PAGE_BYTES)
#define KNOWN_FLAGS (TOUCH_WRITTEN | TOUCH_ZERO)
#define ASK_PAGES 32 /* the kernel cuts what is asked for at once to the device's own read-ahead: 128 KiB or more */
#define SAMPLE_RUNS 64
#define SAMPLE_SPOTS 16
#define SPOT_PAGES 64
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* Returns whether the counts can be those of a file of this length, so that they can be reckoned with. */
static bool is_plausible(const struct working_set_header *header, uint64_t file_bytes, const struct image *image)
{
        if (image->pages > UINT32_MAX || header->n_pages > image->pages || header->n_runs > header->n_pages ||
            header->n_data_pages > header->n_pages)
                return false;
        if (header->recall > RECALL_SCALE && header->recall != RECALL_UNKNOWN)
                return false;
        return file_bytes == working_set_head_bytes(header) + header->n_data_pages * PAGE;
}

/* Map all of the file: what comes before the content as a copy, so that whoever writes to the file changes
 * nothing that was checked, and whoever cuts it kills nobody. */
static int map(struct working_set *set, size_t head_bytes)
{
        size_t data_bytes = set->mapping_bytes - head_bytes;
        void *mapping = mmap(NULL, set->mapping_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                             0);

        if (mapping == MAP_FAILED)
                return -errno;
        set->mapping = mapping;
        set->data = (uint8_t *)mapping + head_bytes;
        if (data_bytes > 0 && mmap((void *)set->data, data_bytes, PROT_READ, MAP_SHARED | MAP_FIXED, set->fd,
                                   (off_t)head_bytes) == MAP_FAILED)
                return -errno;
        return file_read(set->fd, mapping, head_bytes, 0);
}

/* Take over the counts of @header, which is part of what was mapped. */
static int take_head(struct working_set *set, const struct working_set_header *header, size_t head_bytes)
{
        const struct working_set_header *mapped = set->mapping;

        if (memcmp(mapped, header, sizeof(*header)) || header->hash != head_hash(mapped, head_bytes, sizeof(*header)))
                return -EBADMSG;
        set->runs = (const struct run *)(mapped + 1);
        set->n_runs = header->n_runs;
        set->hashes = (const uint64_t *)(set->runs + header->n_runs);
        set->n_pages = header->n_pages;
        set->n_data_pages = header->n_data_pages;
        set->recall = header->recall == RECALL_UNKNOWN ? -1 : (double)header->recall / RECALL_SCALE;
        return 0;
}

/* Returns whether @run names pages of the image that no run named before, and calls its holes zero. */
static bool is_sound(const struct run *run, const struct image *image, uint64_t *seen)
{
        if (run->pages == 0 || run->pages > WORKING_SET_RUN_MAX_PAGES || run->flags & ~KNOWN_FLAGS)
                return false;
        if (run->page >= image->pages || run->pages > image->pages - run->page)
                return false;
        for (uint64_t page = run->page; page < (uint64_t)run->page + run->pages; page++) {
                uint64_t bit = UINT64_C(1) << (page % 64);

                if (seen[page / 64] & bit || (image_is_zero(image, page) && !(run->flags & TOUCH_ZERO)))
                        return false;
                seen[page / 64] |= bit;
        }
        return true;
}

static int check_runs(const struct working_set *set, const struct image *image)
{
        uint64_t *seen = calloc(image->pages / 64 + 1, sizeof(*seen));
        uint64_t n_pages = 0, n_data_pages = 0;
        bool are_sound = true;

        if (!seen)
                return -ENOMEM;
        for (size_t i = 0; i < set->n_runs && are_sound; i++) {
                are_sound = is_sound(&set->runs[i], image, seen);
                n_pages += set->runs[i].pages;
                n_data_pages += set->runs[i].flags & TOUCH_ZERO ? 0 : set->runs[i].pages;
        }
        free(seen);
        return are_sound && n_pages == set->n_pages && n_data_pages == set->n_data_pages ? 0 : -EBADMSG;
}

static int read_head(struct working_set *set, const struct image *image, const uint8_t *digest)
{
        struct file_tie expected = file_tie(WORKING_SET_MAGIC, image, digest);
        struct working_set_header header;
        size_t head_bytes;
        int r = file_read(set->fd, &header, sizeof(header), 0);

        r = r ? r : file_tie_check(&header.tie, &expected);
        if (r)
                return r;
        if (!is_plausible(&header, set->identity.size_bytes, image))
                return -EBADMSG;
        head_bytes = working_set_head_bytes(&header);
        set->mapping_bytes = set->identity.size_bytes;
        r = map(set, head_bytes);
        return r ? r : take_head(set, &header, head_bytes);
}

static void release(struct working_set *set)
{
        if (set->mapping)
                munmap(set->mapping, set->mapping_bytes);
        close_fd(set->fd);
}

int working_set_open(const char *path, const struct image *image, const uint8_t *digest, struct working_set *ret_set)
{
        struct working_set set = { .fd = FD_NONE };
        int r = file_open(path, &set.fd, &set.identity);

        r = r ? r : read_head(&set, image, digest);
        r = r ? r : check_runs(&set, image);
        if (r)
                release(&set);
        else
                *ret_set = set;
        return r;
}

void working_set_close(struct working_set *set)
{
        if (set->mapping) /* else its descriptor is none either, but for the zero of zeroed memory */
                release(set);
        *set = (struct working_set){ .fd = FD_NONE };
}

static uint64_t chunk_bytes(const struct working_set *set, uint64_t chunk)
{
        uint64_t left = set->n_data_pages - chunk * WORKING_SET_CHUNK_PAGES;

        return (left < WORKING_SET_CHUNK_PAGES ? left : WORKING_SET_CHUNK_PAGES) * PAGE;
}

/* Through a buffer, not through the mapping: a file that was cut is an error then, and no signal. */
static int check_chunk(const struct working_set *set, uint64_t chunk, uint8_t *buffer)
{
        uint64_t n_bytes = chunk_bytes(set, chunk);
        uint64_t at = chunk * WORKING_SET_CHUNK_PAGES * PAGE;
        uint64_t data_offset = set->mapping_bytes - set->n_data_pages * PAGE;
        int r = file_read(set->fd, buffer, n_bytes, data_offset + at);

        if (r)
                return r;
        if (chunk_hash(buffer, n_bytes) != set->hashes[chunk])
                return -EBADMSG;
        while (madvise((void *)(set->data + at), n_bytes, MADV_POPULATE_READ) < 0)
                if (errno != EINTR && errno != EAGAIN)
                        return errno == EFAULT ? -EBADMSG : -errno;
        return 0;
}

/* Ask for all of it, so that the disk works on the rest while the beginning is checked. */
static void ask(const struct working_set *set, uint64_t page, uint64_t end)
{
        for (; page < end; page += ASK_PAGES) {
                uint64_t pages = end - page < ASK_PAGES ? end - page : ASK_PAGES;

                madvise((void *)(set->data + page * PAGE), pages * PAGE, MADV_WILLNEED);
        }
}

int working_set_populate(const struct working_set *set, uint64_t page, uint64_t pages)
{
        uint64_t left = page < set->n_data_pages ? set->n_data_pages - page : 0;
        uint64_t end = page + (pages < left ? pages : left);
        uint64_t chunk = page / WORKING_SET_CHUNK_PAGES;
        uint8_t *buffer;
        int r = 0;

        if (page >= end)
                return 0;
        buffer = malloc(WORKING_SET_CHUNK_PAGES * PAGE);
        if (!buffer)
                return -ENOMEM;
        ask(set, page, end);
        for (; r == 0 && chunk < working_set_chunks(end); chunk++)
                r = check_chunk(set, chunk, buffer);
        free(buffer);
        return r;
}

int working_set_check(const struct working_set *set)
{
        struct image_identity now;
        struct stat st;

        if (fstat(set->fd, &st) < 0)
                return -errno;
        now = file_identity(&st);
        return memcmp(&now, &set->identity, sizeof(now)) ? -ESTALE : 0;
}

static uint64_t count_resident(const uint8_t *at, uint64_t pages)
{
        unsigned char there[SPOT_PAGES];
        uint64_t n = 0;

        if (mincore((void *)at, pages * PAGE, there) < 0)
                return 0;
        for (uint64_t i = 0; i < pages; i++)
                n += there[i] & 1;
        return n;
}

double working_set_data_resident(const struct working_set *set)
{
        uint64_t looked_at = 0, resident = 0, step = set->n_data_pages / SAMPLE_SPOTS;

        step = step > SPOT_PAGES ? step : SPOT_PAGES;
        for (uint64_t page = 0; page < set->n_data_pages; page += step) {
                uint64_t left = set->n_data_pages - page, pages = left < SPOT_PAGES ? left : SPOT_PAGES;

                resident += count_resident(set->data + page * PAGE, pages);
                looked_at += pages;
        }
        return looked_at ? (double)resident / (double)looked_at : 1;
}

double working_set_image_resident(const struct working_set *set, const struct image *image)
{
        uint64_t looked_at = 0, resident = 0;
        size_t step = set->n_runs / SAMPLE_RUNS + 1;

        for (size_t i = 0; i < set->n_runs; i += step) {
                const struct run *run = &set->runs[i];

                if (run->flags & TOUCH_ZERO)
                        continue;
                looked_at += run->pages;
                resident += image_is_resident(image, run->page, run->pages) ? run->pages : 0;
        }
        return looked_at ? (double)resident / (double)looked_at : 1;
}
