#include "kuasar_clerk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* An errand on its way. */
struct trip {
        struct job job;
        struct kuasar_clerk *clerk;
        struct kuasar_errand errand;
        uint8_t digest[WORKING_SET_DIGEST_BYTES];
        int error;
        char said[KUASAR_MERGE_SAID_BYTES];
        char image_path[];
};

static int note(const struct trip *trip)
{
        int r = kuasar_files_note(trip->clerk->directory, trip->digest, trip->image_path);

        /* What cannot be removed now is tried again with the next image. */
        kuasar_files_sweep(trip->clerk->directory);
        return r;
}

static int merge(struct trip *trip)
{
        struct kuasar_merge merge = {
                .directory = trip->clerk->directory,
                .image_path = trip->image_path,
                .n_records = trip->clerk->n_records,
                .budget_pages = trip->clerk->budget_pages,
        };

        memcpy(merge.digest, trip->digest, sizeof(merge.digest));
        return kuasar_merge(&merge, trip->said);
}

static int drop(const struct trip *trip)
{
        char path[JOURNAL_PATH_BYTES];

        kuasar_file(trip->clerk->directory, trip->digest, KUASAR_SPOILT, path);
        return unlink(path) < 0 ? -errno : 0;
}

static int run(struct trip *trip)
{
        switch (trip->errand.order) {
        case KUASAR_TIDY:
                return kuasar_files_tidy(trip->clerk->directory);
        case KUASAR_NOTE:
                return note(trip);
        case KUASAR_MERGE:
                return merge(trip);
        case KUASAR_DROP:
                return drop(trip);
        }
        return -EINVAL;
}

/* By the clerk. */
static void go(struct job *job)
{
        struct trip *trip = container_of(job, struct trip, job);

        trip->error = run(trip);
}

static void come_back(struct job *job)
{
        struct trip *trip = container_of(job, struct trip, job);
        struct kuasar_done done = {
                .context = trip->errand.context,
                .digest = trip->digest,
                .image_path = trip->image_path,
                .said = trip->said,
                .error = trip->error,
        };

        trip->clerk->n_errands--;
        if (trip->errand.done)
                trip->errand.done(&done);
        free(trip);
}

int kuasar_clerk_open(struct kuasar_clerk *clerk, struct loop *loop)
{
        return reader_open(&clerk->reader, loop, 1);
}

int kuasar_clerk_send(struct kuasar_clerk *clerk, const struct kuasar_errand *errand)
{
        size_t length = errand->image_path ? strlen(errand->image_path) : 0;
        struct trip *trip = calloc(1, sizeof(*trip) + length + 1);

        if (!trip)
                return -ENOMEM;
        trip->job = (struct job){.work = go, .done = come_back};
        trip->clerk = clerk;
        trip->errand = *errand;
        if (errand->digest)
                memcpy(trip->digest, errand->digest, sizeof(trip->digest));
        if (errand->image_path)
                memcpy(trip->image_path, errand->image_path, length);
        clerk->n_errands++;
        reader_submit(&clerk->reader, &trip->job);
        return 0;
}

bool kuasar_clerk_close(struct kuasar_clerk *clerk)
{
        if (clerk->n_errands > 0)
                return false;
        reader_close(&clerk->reader);
        return true;
}
