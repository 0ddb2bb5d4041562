/* A monitor gets a machine: from the files it was saved in to the last page it asks for. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "offload_ahead.h"
#include "offload_faults.h"
#include "offload_greet.h"
#include "offload_memory.h"
#include "offload_session.h"
#include "offload_text.h"

struct restore {
        struct offload base;
        const struct image *image; /* borrowed */
        const struct working_set *set; /* borrowed */
        uint8_t digest[WORKING_SET_DIGEST_BYTES];
        char *record; /* path; owned; NULL: none */
        struct offload_text texts[OFFLOAD_TEXTS];
        struct offload_memory memory;
        struct offload_faults faults;
        struct offload_ahead ahead;
        struct offload_greet greet;
        bool is_prepared; /* there is memory */
        struct job job; /* the first prepares, a later one writes the record */
        int result; /* of the job */
        const char *why; /* static text: what went wrong in the job */
        bool is_recorded; /* the record was asked for */
        uint64_t n_touches, n_written; /* of the record, when it is written */
};

static struct restore *restore_of(const struct offload *offload)
{
        return (struct restore *)offload;
}

static void stop(struct offload *offload)
{
        struct restore *restore = restore_of(offload);

        if (!restore->faults.is_closed)
                offload_greet_kill(&restore->greet);
        offload_greet_stop(&restore->greet);
        offload_faults_stop(&restore->faults);
}

static void release(struct offload *offload)
{
        struct restore *restore = restore_of(offload);

        offload_ahead_close(&restore->ahead);
        offload_faults_close(&restore->faults);
        offload_memory_close(&restore->memory);
        offload_texts_close(restore->texts);
        free(restore->record);
        free(restore);
}

static void get_stats(const struct offload *offload, struct offload_stats *ret_stats)
{
        struct restore *restore = restore_of(offload);
        const struct offload_faults *faults = &restore->faults;

        *ret_stats = (struct offload_stats){
                .pid = restore->greet.pid,
                .is_serving = restore->greet.stage == GREET_DONE && !offload->is_over,
                .has_all = faults->has_all,
                .pages = restore->image->pages,
                .faults = faults->n_faults,
                .covered = faults->n_covered,
                .background = faults->n_background,
                .prefetched = restore->ahead.n_installed,
                .stalls = faults->n_stalls,
                .max_stall_us = faults->max_stall_us,
                .touches = restore->n_touches,
                .written = restore->n_touches ? restore->n_written : 0,
        };
        if (restore->is_prepared)
                offload_memory_count(&restore->memory, &ret_stats->copied, &ret_stats->zeroed);
}

static void kept(struct offload *offload, int error)
{
        offload_greet_kept(&restore_of(offload)->greet, error);
}

static const char *late(struct offload *offload)
{
        return offload_greet_late(&restore_of(offload)->greet);
}

static void write_record(struct job *job)
{
        struct restore *restore = container_of(job, struct restore, job);

        restore->result = offload_touches_write(&restore->faults.touches, &restore->memory, restore->image,
                                                restore->digest, restore->record, &restore->n_written, &restore->why);
}

static void record_written(struct job *job)
{
        struct restore *restore = container_of(job, struct restore, job);

        if (!offload_job_done(&restore->base))
                return;
        restore->n_touches = restore->faults.touches.n;
        offload_tell(&restore->base, OFFLOAD_RECORDED, restore->result < 0 ? restore->why : NULL);
}

static int end_recording(struct offload *offload)
{
        struct restore *restore = restore_of(offload);

        if (!restore->record || restore->greet.stage != GREET_DONE || restore->is_recorded)
                return -ENODATA;
        restore->is_recorded = true;
        restore->faults.touches.is_recording = false;
        restore->job = (struct job){ .work = write_record, .done = record_written };
        offload_submit(offload, &restore->job);
        return 0;
}

static const struct offload_kind kind = {
        .stop = stop,
        .release = release,
        .get_stats = get_stats,
        .end_recording = end_recording,
        .kept = kept,
        .late = late,
};

/* Returns 0 or a negative errno with restore->why. */
static int read_layout(struct restore *restore, struct offload_layout *ret_layout)
{
        const struct offload_text *config = &restore->texts[OFFLOAD_TEXT_CONFIG];
        int r = offload_layout_parse(config->bytes, config->length, ret_layout, &restore->why);

        if (r)
                return r;
        if (ret_layout->size_bytes == restore->image->identity.size_bytes)
                return 0;
        restore->why = "the image is not as long as the memory of the configuration";
        return -EINVAL;
}

/* In a thread. */
static void prepare(struct job *job)
{
        struct restore *restore = container_of(job, struct restore, job);
        struct offload_layout layout;
        int r = offload_texts_read(restore->texts, &restore->why);

        r = r ? r : read_layout(restore, &layout);
        if (r == 0) {
                restore->why = "there is no memory for the machine";
                r = offload_memory_open(&restore->memory, &layout);
        }
        restore->result = r;
}

static void greeted(struct offload_greet *greet)
{
        struct restore *restore = restore_of(greet->session);

        offload_texts_close(restore->texts);
        offload_tell(greet->session, OFFLOAD_SERVING, NULL);
}

/* Returns 0 or -ENOMEM. */
static int begin(struct restore *restore)
{
        int r = offload_faults_open(&restore->faults, &restore->base, &restore->memory, restore->image);

        restore->faults.touches.is_recording = restore->record != NULL;
        if (r == 0 && restore->set)
                r = offload_ahead_begin(&restore->ahead, &restore->base, &restore->memory, restore->set);
        return r;
}

static void prepared(struct job *job)
{
        struct restore *restore = container_of(job, struct restore, job);

        if (!offload_job_done(&restore->base) || restore->base.is_over)
                return;
        if (restore->result < 0) {
                offload_end(&restore->base, OFFLOAD_FAILED, restore->why);
                return;
        }
        restore->is_prepared = true;
        if (begin(restore) < 0)
                offload_end(&restore->base, OFFLOAD_FAILED, "there is no memory to serve the machine with");
        else
                offload_greet_begin(&restore->greet);
}

static int take_order(struct restore *restore, const struct offload_restore_order *order)
{
        restore->image = order->image;
        restore->set = order->set;
        restore->greet = (struct offload_greet){
                .session = &restore->base,
                .texts = restore->texts,
                .memory = &restore->memory,
                .faults = &restore->faults,
                .demand_only = order->demand_only,
                .resume = order->resume,
                .keep = order->keep,
                .done = greeted,
        };
        if (order->digest)
                memcpy(restore->digest, order->digest, sizeof(restore->digest));
        if (order->record && !(restore->record = strdup(order->record)))
                return -ENOMEM;
        return offload_texts_name(restore->texts, order->config, order->state);
}

int offload_restore_open(struct loop *loop, struct reader *reader, const struct offload_restore_order *order,
                         struct offload **ret_offload)
{
        struct restore *restore;
        int r;

        if (order->record && (!order->demand_only || order->set || !order->digest))
                return -EINVAL;
        restore = calloc(1, sizeof(*restore));
        if (!restore)
                return -ENOMEM;
        r = offload_begin(&restore->base, &kind, loop, reader, &order->peer);
        r = r ? r : take_order(restore, order);
        if (r) {
                offload_give_up(&restore->base);
                return r;
        }
        restore->job = (struct job){ .work = prepare, .done = prepared };
        offload_hurry(&restore->base);
        offload_submit(&restore->base, &restore->job);
        *ret_offload = &restore->base;
        return 0;
}
