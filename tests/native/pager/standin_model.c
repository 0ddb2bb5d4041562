#define _GNU_SOURCE
#include "standin_model.h"

#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#include "standin_die.h"

#define TOLD_MAX 20

static void mark_zero(struct model *model, off_t from, off_t to)
{
        for (off_t at = from; at < to; at += PATTERN_PAGE_BYTES)
                model->pages[at / PATTERN_PAGE_BYTES].is_zero = true;
}

/* Mark the image's holes. Returns the first byte of data, or @end if there is none. */
static off_t find_zeros(struct model *model, off_t end)
{
        off_t first = end, at = 0;

        while (at < end) {
                off_t data = lseek(model->guest->image_fd, at, SEEK_DATA), hole;

                if (data < 0 && errno != ENXIO)
                        DIE("SEEK_DATA");
                data = data < 0 || data > end ? end : data;
                mark_zero(model, at, data);
                if (data == end)
                        break;
                first = first < data ? first : data;
                hole = lseek(model->guest->image_fd, data, SEEK_HOLE);
                if (hole < 0)
                        DIE("SEEK_HOLE");
                at = hole;
        }
        return first;
}

/* Leaves the page cache as it was, but for one page: what is measured cold has to be. */
static void find_seed(struct model *model, off_t data)
{
        uint64_t words[2];
        uint64_t page = (uint64_t)data / PATTERN_PAGE_BYTES;

        posix_fadvise(model->guest->image_fd, 0, 0, POSIX_FADV_RANDOM);
        if (pread(model->guest->image_fd, words, sizeof(words), data) != sizeof(words))
                DIE("reading the image");
        posix_fadvise(model->guest->image_fd, 0, 0, POSIX_FADV_NORMAL);
        model->image_seed = pattern_seed(page, words[0]);
        errno = EINVAL;
        if (words[1] != pattern_word(model->image_seed, page, 1))
                DIE("the image is none of standin_image's");
}

void model_open(struct model *model, const struct guest *guest, uint64_t machine_seed)
{
        off_t end = (off_t)(guest->n_pages * PATTERN_PAGE_BYTES), data;

        model->guest = guest;
        model->machine_seed = splitmix64(machine_seed);
        model->pages = calloc(guest->n_pages, sizeof(*model->pages));
        if (!model->pages)
                DIE("model");
        data = find_zeros(model, end);
        if (data < end)
                find_seed(model, data);
}

void model_close(struct model *model)
{
        free(model->pages);
        model->pages = NULL;
}

bool model_try_lock(struct model *model, uint64_t page, uint64_t pages)
{
        for (uint64_t i = 0; i < pages; i++) {
                if (!atomic_exchange(&model->pages[page + i].is_locked, true))
                        continue;
                model_unlock(model, page, i);
                return false;
        }
        return true;
}

void model_unlock(struct model *model, uint64_t page, uint64_t pages)
{
        for (uint64_t i = 0; i < pages; i++)
                atomic_store(&model->pages[page + i].is_locked, false);
}

unsigned model_written_word(const struct model *model, uint64_t page)
{
        return splitmix64(model->machine_seed ^ page) % PATTERN_PAGE_WORDS;
}

uint64_t model_word(const struct model *model, uint64_t page, unsigned word)
{
        const struct model_page *state = &model->pages[page];

        if (state->version && word == model_written_word(model, page))
                return splitmix64(model->machine_seed ^ (page << 32 | state->version));
        return state->is_zero ? 0 : pattern_word(model->image_seed, page, word);
}

uint64_t model_write(struct model *model, uint64_t page)
{
        model->pages[page].version++;
        return model_word(model, page, model_written_word(model, page));
}

void model_remove(struct model *model, uint64_t page, uint64_t pages)
{
        for (uint64_t i = 0; i < pages; i++) {
                model->pages[page + i].is_zero = true;
                model->pages[page + i].version = 0;
        }
}

void model_check(struct model *model, uint64_t page, unsigned word, uint64_t got, uint64_t want, const char *when)
{
        if (got == want)
                return;
        atomic_fetch_add(&model->wrong_bytes, sizeof(got));
        if (atomic_fetch_add(&model->n_told, 1) < TOLD_MAX)
                fprintf(stderr,
                        "standin_vm: page %" PRIu64 " word %u %s: is %#" PRIx64 ", not %#" PRIx64 " (%s, version %u)%s\n",
                        page, word, when, got, want, model->pages[page].is_zero ? "given back" : "of the image",
                        model->pages[page].version,
                        got == pattern_word(model->image_seed, page, word) ? "; that is the image" : "");
}

void model_check_page(struct model *model, uint64_t page, const char *when)
{
        const volatile uint64_t *words = (const volatile uint64_t *)guest_page(model->guest, page);

        for (unsigned word = 0; word < PATTERN_PAGE_WORDS; word++)
                model_check(model, page, word, words[word], model_word(model, page, word), when);
}
