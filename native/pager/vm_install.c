#define _GNU_SOURCE
#include "vm_internal.h"

#include <errno.h>

#include "deadline.h"

#define INSTALL_PAGES 64 /* between two looks at who waits */
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

/* Returns what is installed next, of at most @limit runs. */
static struct span next_span(const struct vm *vm, size_t limit)
{
        const struct template *template = vm->template;
        size_t first = vm_head(vm)->next_run;
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

static int64_t install(struct vm *vm, const struct span *span)
{
        int64_t installed = 0;

        for (uint64_t at = 0, n; at < span->pages; at += n ? n : 1) {
                struct place place;
                int64_t r;

                n = stretch(vm, span, at, &place);
                if (n == 0)
                        continue;
                r = vm_fill(vm, place, span->source + at * IMAGE_PAGE_BYTES, span->is_zero ? CONTENT_ZERO : CONTENT_DATA,
                         n, span->is_write);
                if (r < 0)
                        return r;
                installed += r;
        }
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

bool vm_install_some(struct idler *idler)
{
        struct vm *vm = container_of(idler, struct vm, installer);
        int64_t pages = 0;

        while (vm_is_installing(vm) && pages < INSTALL_PAGES) {
                struct span span;
                int64_t r;

                if (!has_content(vm))
                        return false;
                span = next_span(vm, template_warming(vm->template, vm_head(vm)->from_data)->ready_runs);
                r = install(vm, &span);
                if (r == -EAGAIN) {
                        loop_set(vm->host->loop, &vm->retry, now_ns() + RETRY_NS);
                        return false;
                }
                if (vm_classify(vm, r) < 0)
                        return false;
                vm_head(vm)->counters.prefetched += (uint64_t)r;
                vm_head(vm)->next_run += span.n_runs;
                pages += r;
        }
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
