#define _GNU_SOURCE
#include "kuasar_images.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kuasar_log.h"

struct kuasar_image {
        struct kuasar_image *next;
        uint8_t digest[WORKING_SET_DIGEST_BYTES];
        uint32_t written, under_way; /* one bit for each record */
        bool is_given_up;
        char path[]; /* without links */
};

/* -- the list -------------------------------------------------------------------------------------- */

static struct kuasar_image *find(const struct kuasar_images *images, const uint8_t *digest)
{
        struct kuasar_image *one = images->first;

        while (one && memcmp(one->digest, digest, sizeof(one->digest)) != 0)
                one = one->next;
        return one;
}

static void forget(struct kuasar_images *images, struct kuasar_image *image)
{
        struct kuasar_image **at = &images->first;

        while (*at != image)
                at = &(*at)->next;
        *at = image->next;
        free(image);
}

static bool is_complete(const struct kuasar_images *images, const struct kuasar_image *image)
{
        return image->written == (UINT32_C(1) << images->n_records) - 1;
}

/* Nothing more is recorded of it, until the next page server perhaps. */
static void give_up(struct kuasar_image *image, int error, const char *said)
{
        if (!image || image->is_given_up)
                return;
        image->is_given_up = true;
        kuasar_say_failed("image", image->path, error, said);
}

/* Those that were removed because they are gone need not be known any more. */
static void forget_gone(struct kuasar_images *images)
{
        struct kuasar_image *image, *next;
        char path[JOURNAL_PATH_BYTES];

        for (image = images->first; image; image = next) {
                next = image->next;
                if (image->under_way || image->is_given_up || is_complete(images, image))
                        continue;
                kuasar_file(images->directory, image->digest, KUASAR_PATH, path);
                if (access(path, F_OK) < 0)
                        forget(images, image);
        }
}

/* -- errands --------------------------------------------------------------------------------------- */

static void was_noted(const struct kuasar_done *done)
{
        struct kuasar_images *images = done->context;

        if (done->error)
                give_up(find(images, done->digest), done->error, "");
        forget_gone(images);
}

static void was_merged(const struct kuasar_done *done)
{
        struct kuasar_images *images = done->context;
        struct kuasar_image *image = find(images, done->digest);

        if (done->error) {
                give_up(image, done->error, done->said);
                return;
        }
        kuasar_say_made(done->image_path, done->said);
        forget(images, image);
}

static void send(struct kuasar_images *images, struct kuasar_image *image, enum kuasar_order order,
                 void (*done)(const struct kuasar_done *done))
{
        struct kuasar_errand errand = {
                .order = order, .digest = image->digest, .image_path = image->path, .context = images, .done = done};
        int r = kuasar_clerk_send(&images->clerk, &errand);

        if (r)
                give_up(image, r, "");
}

static void merge_if_complete(struct kuasar_images *images, struct kuasar_image *image)
{
        if (is_complete(images, image) && !image->is_given_up)
                send(images, image, KUASAR_MERGE, was_merged);
}

/* What a former page server wrote counts. */
static uint32_t find_records(const struct kuasar_images *images, const uint8_t *digest)
{
        char path[JOURNAL_PATH_BYTES];
        uint32_t found = 0;

        for (unsigned i = 0; i < images->n_records; i++) {
                kuasar_record(images->directory, digest, i, path);
                if (access(path, F_OK) == 0)
                        found |= UINT32_C(1) << i;
        }
        return found;
}

static struct kuasar_image *add(struct kuasar_images *images, const uint8_t *digest, const char *path)
{
        struct kuasar_image *image = calloc(1, sizeof(*image) + strlen(path) + 1);

        if (!image)
                return NULL;
        memcpy(image->digest, digest, sizeof(image->digest));
        strcpy(image->path, path);
        image->written = find_records(images, digest);
        image->next = images->first;
        images->first = image;
        send(images, image, KUASAR_NOTE, was_noted);
        merge_if_complete(images, image);
        return image;
}

/* -- choosing -------------------------------------------------------------------------------------- */

int kuasar_choose_record(const struct kuasar_facts *facts)
{
        if (!facts->is_tidy || !facts->is_linked || facts->is_used_up || !facts->has_small_pages || facts->is_given_up)
                return -1;
        for (unsigned i = 0; i < facts->wanted; i++)
                if (!((facts->taken >> i) & 1))
                        return (int)i;
        return -1;
}

static bool is_link(const char *path)
{
        struct stat st;

        return lstat(path, &st) == 0 && S_ISLNK(st.st_mode);
}

static bool is_used_up(const char *path)
{
        char mark[JOURNAL_PATH_BYTES];

        return kuasar_used_up_mark(path, mark) && access(mark, F_OK) == 0;
}

static bool has_small_pages(const struct handshake *said)
{
        for (size_t i = 0; i < said->n_regions; i++)
                if (said->regions[i].page_bytes != IMAGE_PAGE_BYTES)
                        return false;
        return true;
}

/* Where an image is, without links. */
static bool find_path(const struct image *image, char *ret_path)
{
        char link[64];
        ssize_t n;

        snprintf(link, sizeof(link), "/proc/self/fd/%d", image->fd);
        n = readlink(link, ret_path, JOURNAL_PATH_BYTES);
        if (n <= 0 || n == JOURNAL_PATH_BYTES || ret_path[0] != '/')
                return false;
        ret_path[n] = '\0';
        return true;
}

static int choose(const struct kuasar_images *images, const struct handshake *said, const char *path,
                  const struct kuasar_image *image)
{
        struct kuasar_facts facts = {
                .is_tidy = images->is_tidy,
                .is_linked = is_link(said->image_path),
                .is_used_up = is_used_up(path),
                .has_small_pages = has_small_pages(said),
                .is_given_up = image && image->is_given_up,
                .taken = image ? image->written | image->under_way : 0,
                .wanted = images->n_records,
        };

        return kuasar_choose_record(&facts);
}

int kuasar_images_reserve(struct kuasar_images *images, const struct handshake *said, const struct image *image,
                          const uint8_t *digest)
{
        struct kuasar_image *known = find(images, digest);
        char path[JOURNAL_PATH_BYTES];
        int index;

        if (!find_path(image, path) || choose(images, said, path, known) < 0)
                return -1;
        known = known ? known : add(images, digest, path);
        index = known ? choose(images, said, path, known) : -1;
        if (index >= 0)
                known->under_way |= UINT32_C(1) << index;
        return index;
}

void kuasar_images_settle(struct kuasar_images *images, const uint8_t *digest, unsigned index, int error)
{
        struct kuasar_image *image = find(images, digest);

        if (!image || images->is_stopped)
                return;
        image->under_way &= ~(UINT32_C(1) << index);
        if (error && error != -ENODATA)
                give_up(image, error, "");
        if (error)
                return;
        image->written |= UINT32_C(1) << index;
        merge_if_complete(images, image);
}

/* -- life ------------------------------------------------------------------------------------------ */

static void was_tidied(const struct kuasar_done *done)
{
        struct kuasar_images *images = done->context;

        images->is_tidy = done->error == 0;
        if (done->error)
                kuasar_say_failed("directory", images->directory, done->error, "");
        else
                kuasar_say_ready(images->directory);
}

int kuasar_images_open(struct kuasar_images *images, const struct kuasar_settings *settings, struct loop *loop)
{
        struct kuasar_errand errand = {.order = KUASAR_TIDY, .context = images, .done = was_tidied};
        int r = kuasar_files_open(settings->sets);

        *images = (struct kuasar_images){.directory = settings->sets, .n_records = settings->records};
        images->clerk.directory = settings->sets;
        images->clerk.n_records = settings->records;
        images->clerk.budget_pages = settings->set_pages;
        r = r ? r : kuasar_clerk_open(&images->clerk, loop);
        if (r)
                return r;
        r = kuasar_clerk_send(&images->clerk, &errand);
        if (r)
                kuasar_clerk_close(&images->clerk);
        return r;
}

bool kuasar_images_close(struct kuasar_images *images)
{
        if (!kuasar_clerk_close(&images->clerk))
                return false;
        while (images->first)
                forget(images, images->first);
        return true;
}
