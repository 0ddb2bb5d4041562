#define _GNU_SOURCE
#include "vm_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "deadline.h"

#define INSTALL_PAGES 64 /* between two looks at who waits */
#define FILL_PAGES 32 /* at most in one go, so that threads finish together */
#define FILLS_MAX 256
#define PLAN_RUNS 16 /* at least; a wake-up takes as long as a dozen pages */
#define SOON_PAGES 256 /* read and installed in the time that one page takes which is asked for by itself */
#define RETRY_NS INT64_C(1000000)

void vm_make_ready(struct vm *vm)
{
        if (vm->is_ready || vm->is_stopping)
                return;
        vm->is_ready = true;
        vm->host->ready(vm->host, vm);
}

/* Runs of the working set that are installed alike and follow each other in the image, as one. */
struct span {
        size_t n_runs;
        uint64_t page, pages; /* of the image */
        bool is_zero, is_write;
        const uint8_t *source;
};

/* Whether what is written and what is read is installed in different ways. */
static bool tells_writes(const struct vm *vm, const struct run *run)
{
        return vm_is_sharing(vm) || run->flags & TOUCH_ZERO;
}

static bool continues(const struct vm *vm, const struct run *run, const struct run *next)
{
        if ((uint64_t)run->page + run->pages != next->page || (run->flags ^ next->flags) & TOUCH_ZERO)
                return false;
        return !tells_writes(vm, run) || !((run->flags ^ next->flags) & TOUCH_WRITTEN);
}

/* Returns what is installed from run @first on, of runs before @limit. */
static struct span next_span(const struct vm *vm, size_t first, size_t limit)
{
        const struct template *template = vm->template;
        const struct run *run = &template->set.runs[first];
        struct span span = {
                .n_runs = 1,
                .page = run->page,
                .pages = run->pages,
                .is_zero = run->flags & TOUCH_ZERO,
                .is_write = run->flags & TOUCH_WRITTEN,
                .source = vm_head(vm)->from_data
                                  ? template->set.data + (uint64_t)template->data_at[first] * IMAGE_PAGE_BYTES
                                  : vm_source(vm, run->page),
        };

        while (first + span.n_runs < limit && span.pages < INSTALL_PAGES && continues(vm, run, run + 1)) {
                run++;
                span.n_runs++;
                span.pages += run->pages;
        }
        return span;
}

/* How many pages from the @at-th of @span on can be installed in one go. 0: this one cannot. */
static uint64_t stretch(const struct vm *vm, const struct span *span, uint64_t at, struct place *ret_place)
{
        struct place place;
        uint64_t n = 0;

        if (!vm_find_image_page(vm, span->page + at, ret_place))
                return 0;
        for (place = *ret_place; at + n < span->pages; n++, place.page++, place.address += IMAGE_PAGE_BYTES)
                if (place.address - place.region->address >= place.region->size_bytes ||
                    journal_has(vm->journal.installed, place.page) || vm_is_removed(vm, &place))
                        break;
        return n;
}

/* Runs of the working set to install, as fills. */
struct batch {
        struct vm *vm;
        size_t n_runs; /* that are done with it */
        uint64_t pages;
        size_t n_fills, capacity;
        struct fill *fills;
};

/* Add what is missing of @span. Returns false if there is no room for all of it; the rest comes with a later batch,
 * for which what is installed by then is not missing. */
static bool add_span(struct batch *batch, const struct span *span)
{
        for (uint64_t at = 0, n; at < span->pages; at += n ? n : 1) {
                struct fill *fill = &batch->fills[batch->n_fills];

                if (batch->n_fills == batch->capacity)
                        return false;
                n = stretch(batch->vm, span, at, &fill->place);
                if (n == 0)
                        continue;
                n = n < FILL_PAGES ? n : FILL_PAGES;
                fill->source = span->source + at * IMAGE_PAGE_BYTES;
                fill->pages = n;
                fill->content = span->is_zero ? CONTENT_ZERO : CONTENT_DATA;
                fill->is_write = span->is_write;
                batch->n_fills++;
        }
        batch->n_runs += span->n_runs;
        batch->pages += span->pages;
        return true;
}

/* Collect about @pages pages, of runs before @limit. */
static void gather(struct batch *batch, uint64_t pages, size_t limit)
{
        size_t first = vm_head(batch->vm)->next_run;

        while (first + batch->n_runs < limit && batch->pages < pages) {
                struct span span = next_span(batch->vm, first + batch->n_runs, limit);

                if (!add_span(batch, &span))
                        return;
        }
}

/* Returns how many pages came, or the first error. */
static int64_t count_fills(const struct batch *batch)
{
        int64_t installed = 0, error = 0;

        for (size_t i = 0; i < batch->n_fills; i++) {
                int64_t r = vm_count(batch->vm, &batch->fills[i]);

                error = error ? error : (r < 0 ? r : 0);
                installed += (int64_t)batch->fills[i].filled;
        }
        vm_head(batch->vm)->counters.prefetched += (uint64_t)installed;
        return error ? error : installed;
}

bool vm_is_installing(const struct vm *vm)
{
        return vm_head(vm)->method != METHOD_DEMAND && vm_head(vm)->next_run < vm->template->set.n_runs;
}

/* Whether the next run's content is in memory. Asks to be told if it is not. */
static bool has_content(struct vm *vm)
{
        bool from_data = vm_head(vm)->from_data;
        struct warming *warming = template_warming(vm->template, from_data);

        if (vm_head(vm)->next_run < warming->ready_runs)
                return true;
        if (warming->error) {
                /* What is left comes when it is asked for; if the image is at fault it shows then. */
                vm_head(vm)->next_run = vm->template->set.n_runs;
                vm_make_ready(vm);
                return false;
        }
        template_wait(vm->template, from_data, &vm->warm);
        template_warm(vm->template, from_data);
        return false;
}

/* Returns whether there is more to install just now. @r: of count_fills(). */
static bool installed(struct vm *vm, int64_t r)
{
        if (r == -EAGAIN) {
                loop_set(vm->host->loop, &vm->retry, now_ns() + RETRY_NS);
                return false;
        }
        if (vm_classify(vm, r) < 0)
                return false;
        vm_check_image(vm);
        if (vm_is_installing(vm))
                return !vm->is_stopping;
        vm_make_ready(vm);
        return false;
}

/* -- with the crew, before the guest runs ---------------------------------------------------------- */

/* What is missing and has its content in memory, planned at once: the guest does not run yet, so its processors are
 * free. */
struct plan {
        struct crew_work work; /* a piece for each fill */
        struct batch batch;
        struct fill fills[];
};

static void fill_one(struct crew_work *work, size_t i)
{
        struct plan *plan = container_of(work, struct plan, work);

        vm_fill_pages(plan->batch.vm, &plan->fills[i]);
}

static void plan_done(struct crew_work *work);

static struct plan *make_plan(struct vm *vm, size_t ready_runs)
{
        const struct working_set *set = &vm->template->set;
        size_t capacity = ready_runs - vm_head(vm)->next_run + set->n_pages / FILL_PAGES + 1;
        struct plan *plan = calloc(1, sizeof(*plan) + capacity * sizeof(*plan->fills));

        if (!plan)
                return NULL;
        plan->batch = (struct batch){.vm = vm, .capacity = capacity, .fills = plan->fills};
        gather(&plan->batch, UINT64_MAX, ready_runs);
        plan->work = (struct crew_work){.piece = fill_one, .done = plan_done, .end = plan->batch.n_fills};
        return plan;
}

/* Plan where somebody can help, and there is enough to share out. */
static void begin_plan(struct vm *vm)
{
        size_t next = vm_head(vm)->next_run,
               ready = template_warming(vm->template, vm_head(vm)->from_data)->ready_runs;

        if (vm->is_ready || vm->is_alone || !crew_helps(vm->host->crew) || ready < next + PLAN_RUNS)
                return;
        vm->plan = make_plan(vm, ready);
        if (vm->plan)
                crew_offer(vm->host->crew, &vm->plan->work);
}

/* Nobody works on it any more. Returns as count_fills(). */
static int64_t end_plan(struct vm *vm)
{
        struct plan *plan = vm->plan;
        bool is_done = plan->work.first == plan->work.end;
        int64_t r = count_fills(&plan->batch); /* those that nobody began filled nothing */

        if (r >= 0 && is_done)
                vm_head(vm)->next_run += plan->batch.n_runs;
        vm->plan = NULL;
        free(plan);
        return r;
}

/* The last pieces were others'. */
static void plan_done(struct crew_work *work)
{
        struct vm *vm = container_of(work, struct plan, work)->batch.vm;

        if (installed(vm, end_plan(vm)))
                vm_install_more(vm);
}

static bool do_some_of_plan(struct vm *vm)
{
        struct plan *plan = vm->plan;

        for (uint64_t pages = 0; pages < INSTALL_PAGES;) {
                size_t i;

                switch (crew_take(vm->host->crew, &plan->work, &i)) {
                case CREW_PIECE:
                        fill_one(&plan->work, i);
                        pages += plan->fills[i].pages;
                        break;
                case CREW_AWAITED:
                        loop_linger(vm->host->loop, &vm->host->crew->lookout);
                        return false;
                case CREW_DONE:
                        return installed(vm, end_plan(vm));
                }
        }
        vm_check_image(vm);
        return !vm->is_stopping;
}

void vm_pause_plan(struct vm *vm)
{
        if (vm->plan)
                crew_take_back(vm->host->crew, &vm->plan->work);
}

void vm_resume_plan(struct vm *vm)
{
        if (!vm->plan || vm->is_stopping)
                return;
        crew_offer(vm->host->crew, &vm->plan->work);
        vm_install_more(vm);
}

void vm_drop_plan(struct vm *vm)
{
        if (!vm->plan)
                return;
        vm_pause_plan(vm);
        end_plan(vm);
        vm->is_alone = true;
        vm_install_more(vm);
}

/* -- alone ----------------------------------------------------------------------------------------- */

static bool install_alone(struct vm *vm)
{
        struct fill fills[FILLS_MAX];
        struct batch batch = {.vm = vm, .capacity = FILLS_MAX, .fills = fills};
        int64_t r;

        gather(&batch, INSTALL_PAGES, template_warming(vm->template, vm_head(vm)->from_data)->ready_runs);
        for (size_t i = 0; i < batch.n_fills; i++)
                vm_fill_pages(vm, &fills[i]);
        r = count_fills(&batch);
        if (r >= 0)
                vm_head(vm)->next_run += batch.n_runs;
        return installed(vm, r);
}

bool vm_install_some(struct idler *idler)
{
        struct vm *vm = container_of(idler, struct vm, installer);

        if (vm_is_installing(vm) && !has_content(vm))
                return false;
        if (!vm->plan)
                begin_plan(vm);
        return vm->plan ? do_some_of_plan(vm) : install_alone(vm);
}

bool vm_comes_soon(const struct vm *vm, uint64_t image_page)
{
        const struct working_set *set = &vm->template->set;
        uint64_t pages = 0;

        if (!vm_is_installing(vm) || !template_has(vm->template, image_page))
                return false;
        for (size_t i = vm_head(vm)->next_run; i < set->n_runs && pages < SOON_PAGES; i++) {
                const struct run *run = &set->runs[i];

                if (image_page - run->page < run->pages)
                        return true;
                pages += run->pages;
        }
        return false;
}

void vm_install_more(struct vm *vm)
{
        if (!vm->is_stopping && vm_is_installing(vm))
                loop_busy(vm->host->loop, &vm->installer);
}

void vm_warmed(struct warm_waiter *waiter)
{
        vm_install_more(container_of(waiter, struct vm, warm));
}

void vm_retry_due(struct timer *timer)
{
        struct vm *vm = container_of(timer, struct vm, retry);

        vm_retry_parked(vm);
        vm_install_more(vm);
}
