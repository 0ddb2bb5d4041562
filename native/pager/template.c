#define _GNU_SOURCE
#include "template.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define FIRST_CHUNK_PAGES 32 /* the guest waits for the beginning */
#define CHUNK_PAGES 256
#define SAMPLES 64 /* runs looked at to see whether a set is in memory */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

static struct template *template_of(struct warming *warming)
{
        return warming->from_data ? container_of(warming, struct template, data_warming)
                                  : container_of(warming, struct template, image_warming);
}

static int populate_data(const struct template *template, size_t run)
{
        void *at = (void *)(template->set.data + (uint64_t)template->data_at[run] * IMAGE_PAGE_BYTES);
        size_t bytes = (size_t)template->set.runs[run].pages * IMAGE_PAGE_BYTES;

        while (madvise(at, bytes, MADV_POPULATE_READ) < 0)
                if (errno != EINTR && errno != EAGAIN)
                        return -errno;
        return 0;
}

static int populate_run(const struct template *template, bool from_data, size_t run)
{
        const struct run *one = &template->set.runs[run];

        if (one->flags & TOUCH_ZERO)
                return 0;
        return from_data ? populate_data(template, run) : image_populate(&template->image, one->page, one->pages);
}

/* In a reader thread. */
static void warm_some(struct job *job)
{
        struct warming *warming = container_of(job, struct warming, job);
        const struct template *template = template_of(warming);

        if (warming->from_data && warming->ready_runs == 0)
                readahead(template->set.fd, 0, template->set.mapping_bytes);
        for (size_t run = warming->ready_runs; run < warming->next_runs && !warming->job_error; run++)
                warming->job_error = populate_run(template, warming->from_data, run);
}

static void submit(struct warming *warming)
{
        const struct working_set *set = &template_of(warming)->set;
        uint64_t pages = 0, limit = warming->ready_runs ? CHUNK_PAGES : FIRST_CHUNK_PAGES;

        warming->next_runs = warming->ready_runs;
        while (warming->next_runs < set->n_runs && pages < limit)
                pages += set->runs[warming->next_runs++].pages;
        warming->is_running = true;
        template_of(warming)->users++;
        reader_submit(warming->reader, &warming->job);
}

static void tell_waiters(struct warming *warming)
{
        struct warm_waiter *waiter = warming->waiters, *next;

        warming->waiters = NULL;
        for (; waiter; waiter = next) {
                next = waiter->next;
                waiter->is_waiting = false;
                waiter->warmed(waiter);
        }
}

static void destroy(struct template *template)
{
        working_set_close(&template->set);
        image_close(&template->image);
        free(template->set_path);
        free(template->in_set);
        free(template->data_at);
        free(template);
}

static void warmed_some(struct job *job)
{
        struct warming *warming = container_of(job, struct warming, job);
        struct template *template = template_of(warming);

        warming->is_running = false;
        warming->error = warming->job_error;
        if (!warming->error)
                warming->ready_runs = warming->next_runs;
        if (--template->users == 0) {
                destroy(template);
                return;
        }
        if (!warming->error && warming->ready_runs < template->set.n_runs)
                submit(warming);
        tell_waiters(warming);
}

static int index_runs(struct template *template)
{
        const struct working_set *set = &template->set;
        uint32_t at = 0;

        template->in_set = calloc(template->image.pages / 64 + 1, sizeof(*template->in_set));
        template->data_at = calloc(set->n_runs + 1, sizeof(*template->data_at));
        if (!template->in_set || !template->data_at)
                return -ENOMEM;
        for (size_t i = 0; i < set->n_runs; i++) {
                const struct run *run = &set->runs[i];

                template->data_at[i] = at;
                at += run->flags & TOUCH_ZERO ? 0 : run->pages;
                for (uint64_t page = run->page; page < (uint64_t)run->page + run->pages; page++)
                        template->in_set[page / 64] |= UINT64_C(1) << (page % 64);
        }
        return 0;
}

static const char *problem_of(int error)
{
        switch (error) {
        case -ENOENT:
                return "no working set was recorded yet";
        case -ESTALE:
                return "the working set belongs to another image";
        case -EBADMSG:
                return "the working set is damaged";
        default:
                return "the working set cannot be read";
        }
}

static int open_set(struct template *template)
{
        int r;

        if (!template->set_path[0])
                return 0;
        r = working_set_open(template->set_path, &template->image, template->digest, &template->set);
        if (r) {
                template->set_problem = problem_of(r);
                return 0;
        }
        template->has_set = true;
        return index_runs(template);
}

static void init_warming(struct warming *warming, struct reader *reader, bool from_data)
{
        *warming = (struct warming){
                .job = {.work = warm_some, .done = warmed_some}, .reader = reader, .from_data = from_data};
}

static int make(struct templates *templates, struct image *image, const uint8_t *digest, const char *set_path,
                struct template **ret_template)
{
        struct template *template = calloc(1, sizeof(*template));
        int r;

        if (!template) {
                image_close(image);
                return -ENOMEM;
        }
        template->image = *image;
        template->users = 1;
        memcpy(template->digest, digest, sizeof(template->digest));
        template->set_path = strdup(set_path);
        init_warming(&template->image_warming, templates->reader, false);
        init_warming(&template->data_warming, templates->reader, true);
        r = template->set_path ? open_set(template) : -ENOMEM;
        if (r) {
                destroy(template);
                return r;
        }
        template->next = templates->first;
        templates->first = template;
        *ret_template = template;
        return 0;
}

static bool is_same(const struct template *template, const struct image *image, const uint8_t *digest,
                    const char *set_path)
{
        const struct image_identity *a = &template->image.identity, *b = &image->identity;

        /* One that had no usable working set may find one now. */
        return template->has_set == (set_path[0] != '\0') && a->device == b->device && a->inode == b->inode &&
               a->size_bytes == b->size_bytes && a->modified_s == b->modified_s &&
               a->modified_ns == b->modified_ns && memcmp(template->digest, digest, sizeof(template->digest)) == 0 &&
               strcmp(template->set_path, set_path) == 0;
}

int template_acquire(struct templates *templates, struct image *image, const uint8_t *digest,
                     const char *set_path, struct template **ret_template)
{
        for (struct template *one = templates->first; one; one = one->next) {
                if (!is_same(one, image, digest, set_path))
                        continue;
                image_close(image);
                one->users++;
                *ret_template = one;
                return 0;
        }
        return make(templates, image, digest, set_path, ret_template);
}

void template_release(struct templates *templates, struct template *template)
{
        struct template **at = &templates->first;
        unsigned jobs;

        if (!template)
                return;
        jobs = template->image_warming.is_running + template->data_warming.is_running;
        if (--template->users > jobs)
                return;
        while (*at && *at != template)
                at = &(*at)->next;
        if (*at)
                *at = template->next;
        if (jobs == 0)
                destroy(template);
        /* Otherwise the last job does: the reader still reads from it. */
}

static double resident_share(const struct template *template, bool from_data)
{
        const struct working_set *set = &template->set;
        size_t step = set->n_runs / SAMPLES + 1, looked = 0, there = 0;
        unsigned char page;

        for (size_t i = 0; i < set->n_runs; i += step) {
                const uint8_t *at = set->data + (uint64_t)template->data_at[i] * IMAGE_PAGE_BYTES;

                if (set->runs[i].flags & TOUCH_ZERO)
                        continue;
                looked++;
                there += from_data ? mincore((void *)at, IMAGE_PAGE_BYTES, &page) == 0 && (page & 1)
                                   : image_is_resident(&template->image, set->runs[i].page, 1);
        }
        return looked ? (double)there / (double)looked : 1.0;
}

void template_look(const struct template *template, struct choose_facts *facts)
{
        facts->has_working_set = template->has_set;
        facts->recall = -1;
        if (!template->has_set)
                return;
        facts->working_set_pages = template->set.n_pages;
        facts->recall = template->set.recall;
        facts->image_resident = template->image.is_sealed ? 1.0 : resident_share(template, false);
        facts->data_resident = resident_share(template, true);
}

void template_warm(struct template *template, bool from_data)
{
        struct warming *warming = template_warming(template, from_data);

        if (!warming->is_running && !warming->error && warming->ready_runs < template->set.n_runs)
                submit(warming);
}

void template_wait(struct template *template, bool from_data, struct warm_waiter *waiter)
{
        struct warming *warming = template_warming(template, from_data);
        struct warm_waiter **at = &warming->waiters;

        if (waiter->is_waiting)
                return;
        while (*at)
                at = &(*at)->next;
        waiter->next = NULL;
        waiter->is_waiting = true;
        *at = waiter;
}

static void unwait(struct warming *warming, struct warm_waiter *waiter)
{
        struct warm_waiter **at = &warming->waiters;

        while (*at && *at != waiter)
                at = &(*at)->next;
        if (*at)
                *at = waiter->next;
}

void template_unwait(struct template *template, struct warm_waiter *waiter)
{
        unwait(&template->image_warming, waiter);
        unwait(&template->data_warming, waiter);
        waiter->is_waiting = false;
}
