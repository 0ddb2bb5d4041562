#define _GNU_SOURCE
#include "vm_internal.h"

#include <errno.h>

#include "deadline.h"

#define INSTALL_PAGES 64 /* of each thread, between two looks at who waits */
#define FILL_PAGES 32 /* at most in one go, so that threads finish together */
#define FILLS_MAX 256
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

/* What is installed between two looks at who waits. */
struct batch {
        struct vm *vm;
        size_t n_runs; /* that are done with it */
        uint64_t pages;
        size_t n_fills;
        struct fill fills[FILLS_MAX];
};

/* Add what is missing of @span. Returns false if there is no room for all of it; the rest comes with a later batch,
 * for which what is installed by then is not missing. */
static bool add_span(struct batch *batch, const struct span *span)
{
        for (uint64_t at = 0, n; at < span->pages; at += n ? n : 1) {
                struct fill *fill = &batch->fills[batch->n_fills];

                if (batch->n_fills == FILLS_MAX)
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

static void fill_one(void *data, size_t i)
{
        struct batch *batch = data;

        vm_fill_pages(batch->vm, &batch->fills[i]);
}

/* Returns how many pages came, or the first error; then the runs count as missing still. */
static int64_t install(struct batch *batch, struct crew *crew)
{
        struct crew_work work = {.piece = fill_one, .data = batch, .count = batch->n_fills};
        int64_t installed = 0, error = 0;

        crew_do(crew, &work);
        for (size_t i = 0; i < batch->n_fills; i++) {
                int64_t r = vm_count(batch->vm, &batch->fills[i]);

                error = error ? error : (r < 0 ? r : 0);
                installed += (int64_t)batch->fills[i].filled;
        }
        vm_head(batch->vm)->counters.prefetched += (uint64_t)installed;
        if (error)
                return error;
        vm_head(batch->vm)->next_run += batch->n_runs;
        return installed;
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

/* The guest does not run yet: its processors are free. */
static struct crew *helpers(const struct vm *vm)
{
        return vm->is_ready ? NULL : vm->host->crew;
}

bool vm_install_some(struct idler *idler)
{
        struct vm *vm = container_of(idler, struct vm, installer);
        struct crew *crew = helpers(vm);
        struct batch batch = {.vm = vm};
        int64_t r;

        if (vm_is_installing(vm) && !has_content(vm))
                return false;
        gather(&batch, INSTALL_PAGES * (1 + crew_helpers(crew)),
               template_warming(vm->template, vm_head(vm)->from_data)->ready_runs);
        r = install(&batch, crew);
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
