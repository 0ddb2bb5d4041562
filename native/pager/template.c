#define _GNU_SOURCE
#include "template.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "deadline.h"
#include "journal.h"

#define FIRST_CHUNK_PAGES 32 /* the guest waits for the beginning */
#define CHUNK_PAGES 256
#define ASK_BYTES (128 * 1024)
#define MAPPED_PAGES 512 /* at once */
#define KEPT_NS (60 * NS_PER_S) /* without users */

static struct template *template_of(struct warming *warming)
{
        return warming->from_data ? container_of(warming, struct template, data_warming)
                                  : container_of(warming, struct template, image_warming);
}

/* Bring run @first into memory, with those before @limit that go on where it ends. Returns the run after them, or a
 * negative errno. */
static int64_t populate_runs(const struct template *template, size_t first, size_t limit)
{
        const struct run *runs = template->set.runs;
        uint64_t page = runs[first].page, pages = runs[first].pages;
        size_t next = first + 1;
        int r;

        if (runs[first].flags & TOUCH_ZERO)
                return (int64_t)next;
        for (; next < limit && runs[next].page == page + pages && !(runs[next].flags & TOUCH_ZERO); next++)
                pages += runs[next].pages;
        r = image_populate(&template->image, page, pages);
        return r ? r : (int64_t)next;
}

/* Let the disk work on all of it while the beginning is installed. In pieces, because the kernel cuts a call to
 * what the device reads ahead. */
static void ask_for_all(const struct working_set *set)
{
        for (size_t at = 0; at < set->mapping_bytes; at += ASK_BYTES)
                readahead(set->fd, (off_t)at, ASK_BYTES);
}

/* In a reader thread. */
static void warm_some(struct job *job)
{
        struct warming *warming = container_of(job, struct warming, job);
        const struct template *template = template_of(warming);
        uint32_t from = template->data_at[warming->ready_runs], to = template->data_at[warming->next_runs];

        if (warming->from_data) {
                if (warming->ready_runs == 0)
                        ask_for_all(&template->set);
                warming->job_error = working_set_populate(&template->set, from, to - from);
                return;
        }
        for (size_t run = warming->ready_runs; run < warming->next_runs;) {
                int64_t next = populate_runs(template, run, warming->next_runs);

                if (next < 0) {
                        warming->job_error = (int)next;
                        return;
                }
                run = (size_t)next;
        }
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
        free(template->populated);
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
        if (!warming->error && warming->ready_runs < template->set.n_runs)
                submit(warming);
        tell_waiters(warming);
        template_release(template->templates, template);
}

static int index_runs(struct template *template)
{
        const struct working_set *set = &template->set;
        uint32_t at = 0;

        template->in_set = calloc(template->image.pages / 64 + 1, sizeof(*template->in_set));
        template->data_at = calloc(set->n_runs + 1, sizeof(*template->data_at)); /* the last: where they end */
        if (!template->in_set || !template->data_at)
                return -ENOMEM;
        for (size_t i = 0; i < set->n_runs; i++) {
                const struct run *run = &set->runs[i];

                template->data_at[i] = at;
                at += run->flags & TOUCH_ZERO ? 0 : run->pages;
                for (uint64_t page = run->page; page < (uint64_t)run->page + run->pages; page++)
                        template->in_set[page / 64] |= UINT64_C(1) << (page % 64);
        }
        template->data_at[set->n_runs] = at;
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
        /* A memfd is in memory, but for what was swapped out. */
        if (template->image.is_sealed && working_set_image_resident(&template->set, &template->image) >= 1)
                template->image_warming.ready_runs = template->set.n_runs;
        return index_runs(template);
}

static void init_warming(struct warming *warming, struct reader *reader, bool from_data)
{
        *warming = (struct warming){
                .job = {.work = warm_some, .done = warmed_some}, .reader = reader, .from_data = from_data};
}

static void was_not_needed(struct timer *timer);

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
        template->templates = templates;
        template->timer.due = was_not_needed;
        template->users = 1;
        memcpy(template->digest, digest, sizeof(template->digest));
        template->set_path = strdup(set_path);
        init_warming(&template->image_warming, templates->reader, false);
        init_warming(&template->data_warming, templates->reader, true);
        template->populated = calloc(image->pages / 64 + 1, sizeof(*template->populated));
        r = template->set_path && template->populated ? image_map(&template->image) : -ENOMEM;
        r = r ? r : open_set(template);
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
                loop_unset(templates->loop, &one->timer);
                one->users++;
                *ret_template = one;
                return 0;
        }
        return make(templates, image, digest, set_path, ret_template);
}

void template_release(struct templates *templates, struct template *template)
{
        if (template && --template->users == 0)
                loop_set(templates->loop, &template->timer, now_ns() + KEPT_NS);
}

static void forget(struct template *template)
{
        struct template **at = &template->templates->first;

        while (*at != template)
                at = &(*at)->next;
        *at = template->next;
        loop_unset(template->templates->loop, &template->timer);
        destroy(template);
}

void template_drop(struct templates *templates, struct template *template)
{
        template_release(templates, template);
        if (template && template->users == 0)
                forget(template);
}

static void was_not_needed(struct timer *timer)
{
        forget(container_of(timer, struct template, timer));
}

void templates_close(struct templates *templates)
{
        struct template *template = templates->first, *next;

        for (; template; template = next) {
                next = template->next;
                if (template->users == 0)
                        forget(template);
        }
}

void template_look(const struct template *template, struct choose_facts *facts)
{
        facts->has_working_set = template->has_set;
        facts->recall = -1;
        if (!template->has_set)
                return;
        facts->working_set_pages = template->set.n_pages;
        facts->recall = template->set.recall;
        facts->image_resident =
                template->image.is_sealed ? 1.0 : working_set_image_resident(&template->set, &template->image);
        facts->data_resident = working_set_data_resident(&template->set);
}

/* In a reader thread. */
static void map_some(struct job *job)
{
        struct mapping *mapping = container_of(job, struct mapping, job);
        const struct image *image = &container_of(mapping, struct template, mapping)->image;

        mapping->is_mapped = image_is_resident(image, mapping->page, mapping->pages) &&
                             image_populate(image, mapping->page, mapping->pages) == 0;
}

static void submit_mapping(struct template *template)
{
        struct mapping *mapping = &template->mapping;
        uint64_t left = template->image.pages - mapping->page;

        mapping->pages = left < MAPPED_PAGES ? left : MAPPED_PAGES;
        template->users++;
        reader_submit(template->templates->reader, &mapping->job);
}

static void mapped_some(struct job *job)
{
        struct mapping *mapping = container_of(job, struct mapping, job);
        struct template *template = container_of(mapping, struct template, mapping);

        if (mapping->is_mapped)
                journal_mark_range(template->populated, mapping->page, mapping->page + mapping->pages);
        mapping->page += mapping->pages;
        /* Only as long as somebody uses it. */
        if (mapping->page < template->image.pages && template->users > 1)
                submit_mapping(template);
        else
                mapping->is_begun = mapping->page == template->image.pages;
        template_release(template->templates, template);
}

static void map_all(struct template *template)
{
        if (template->mapping.is_begun || template->image.is_sealed)
                return;
        template->mapping.is_begun = true;
        template->mapping.job = (struct job){.work = map_some, .done = mapped_some};
        submit_mapping(template);
}

void template_prepare(struct template *template, bool is_recorded)
{
        struct choose_facts facts = {.is_recording = is_recorded};
        struct choice choice;

        template_look(template, &facts);
        choice = choose_method(&facts);
        if (choice.method == METHOD_DEMAND)
                map_all(template);
        else
                template_warm(template, choice.from_data);
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
