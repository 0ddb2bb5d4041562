/* What machines of one template share: its image, its working set, what of both is in memory already. */
#ifndef SNAPSTART_TEMPLATE_H
#define SNAPSTART_TEMPLATE_H

#include <stdbool.h>

#include "choose.h"
#include "image.h"
#include "reader.h"
#include "working_set.h"

/* Asked to be told when more of a template is in memory; embedded. */
struct warm_waiter {
        void (*warmed)(struct warm_waiter *waiter);
        struct warm_waiter *next;
        bool is_waiting;
};

/* Bringing the content of the working set's runs into memory, in order, by a reader thread. */
struct warming {
        struct job job;
        struct reader *reader;
        bool is_running;
        bool from_data; /* from the working set's own file, else from the image */
        size_t ready_runs; /* in memory, and in this process's page table */
        size_t next_runs; /* what the job under way will make it */
        int job_error; /* the reader's while a job is under way */
        int error; /* 0 or a negative errno: nothing more will come */
        struct warm_waiter *waiters;
};

/* Bringing all of the image that is in memory into this process's page table, by a reader thread: for machines that
 * ask for each page. A page that is not costs its first fault a third more. */
struct mapping {
        struct job job;
        bool is_begun;
        uint64_t page, pages; /* under way */
        bool is_mapped; /* it was in memory */
};

struct template {
        struct template *next;
        struct templates *templates;
        struct timer timer; /* until when it is kept without users */
        unsigned users;
        uint64_t *populated; /* one bit for each page of the image that was mapped here once; owned */
        struct image image;
        uint8_t digest[WORKING_SET_DIGEST_BYTES];
        char *set_path; /* owned */
        bool has_set;
        const char *set_problem; /* why there is none though one was named; static */
        struct working_set set;
        uint64_t *in_set; /* one bit for each page of the image; owned */
        uint32_t *data_at; /* for each run: its first page in set.data; owned */
        struct warming image_warming, data_warming;
        struct mapping mapping;
};

/* All templates that machines run on, one for each image and working set. */
struct templates {
        struct template *first;
        struct reader *reader; /* borrowed */
        struct loop *loop; /* borrowed */
};

/* Find the template of @image, or map it. @image: taken, not mapped; owned by the template, or closed, from here
 * on, on failure too.
 * @set_path: of the working set, or "". One that cannot be used leaves the template without, and
 * set_problem says why.
 * Returns 0 with a template to be given back by template_release(), or a negative errno. */
int template_acquire(struct templates *templates, struct image *image, const uint8_t *digest,
                     const char *set_path, struct template **ret_template);

/* Without users it is kept for a while, because the next machine of a template often comes soon. NULL is fine. */
void template_release(struct templates *templates, struct template *template);

/* As template_release(), but nobody is expected: whoever named it was refused. */
void template_drop(struct templates *templates, struct template *template);

/* Let go of all that have no users. */
void templates_close(struct templates *templates);

static inline bool template_has(const struct template *template, uint64_t page)
{
        return template->in_set && ((template->in_set[page / 64] >> (page % 64)) & 1);
}

/* See how much of the working set is in memory. Fills in the facts about images and sets. */
void template_look(const struct template *template, struct choose_facts *facts);

/* Begin to bring what a machine will most likely be given into memory. @is_recorded: it asks for each page. */
void template_prepare(struct template *template, bool is_recorded);

/* Begin to bring the runs into memory, if nobody has. */
void template_warm(struct template *template, bool from_data);

/* Ask to be told once, when @from_data's ready_runs or error changed. */
void template_wait(struct template *template, bool from_data, struct warm_waiter *waiter);
void template_unwait(struct template *template, struct warm_waiter *waiter);

static inline struct warming *template_warming(struct template *template, bool from_data)
{
        return from_data ? &template->data_warming : &template->image_warming;
}

#endif
