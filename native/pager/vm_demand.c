#define _GNU_SOURCE
#include "vm_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "deadline.h"
#include "kill_point.h"
#include "uffd.h"

#define PARKED_MAX 4096 /* each is a thread of the monitor that waits */
#define JOBS_MAX 4096
#define RETRY_NS INT64_C(1000000)
#define STALL_US 10000

/* A fault whose page is being read from a disk. */
struct cold_fault {
        struct job job;
        struct vm *vm;
        struct parked fault;
        uint64_t image_page, pages;
        int error;
};

static bool grow(void **items, size_t *capacity, size_t item_bytes)
{
        size_t wanted = *capacity ? *capacity * 2 : 64;
        void *grown = reallocarray(*items, wanted, item_bytes);

        if (!grown)
                return false;
        *items = grown;
        *capacity = wanted;
        return true;
}

void vm_record(struct vm *vm, const struct place *place, bool is_write)
{
        if (!vm->touched || place->region->page_bytes != IMAGE_PAGE_BYTES ||
            journal_has(vm->touched, place->image_page))
                return;
        if (vm->n_touches == vm->touches_capacity &&
            !grow((void **)&vm->touches, &vm->touches_capacity, sizeof(*vm->touches)))
                return; /* a shorter record is one too */
        journal_mark(vm->touched, place->image_page);
        vm->touches[vm->n_touches++] =
                (struct touch){.page = (uint32_t)place->image_page, .flags = is_write ? TOUCH_WRITTEN : 0};
}

int64_t vm_end_recording(struct vm *vm, struct touch **ret_touches)
{
        int64_t n = (int64_t)vm->n_touches;

        if (!vm->touched)
                return -ENODATA;
        *ret_touches = vm->touches;
        free(vm->touched);
        vm->touched = NULL;
        vm_head(vm)->fault_around_pages = CHOOSE_AROUND_PAGES;
        vm->touches = NULL;
        vm->n_touches = vm->touches_capacity = 0;
        return n;
}

/* Returns whether a page beside one that was asked for may come with it. */
static bool may_come_along(const struct vm *vm, const struct place *place)
{
        return !journal_has(vm->journal.installed, place->page) && !vm_is_removed(vm, place) &&
               !template_has(vm->template, place->image_page);
}

/* Returns how many pages come along, those that follow: memory is handed out and read upwards, by the guest's kernel
 * too (mm/page_alloc.c, expand()), so what lies before has been asked for, or will not be. */
static uint64_t find_followers(const struct vm *vm, const struct place *place, enum content content)
{
        uint64_t window = vm_head(vm)->fault_around_pages, n = 0;
        struct place other;

        if (window <= 1 || vm->touched || place->region->page_bytes != IMAGE_PAGE_BYTES ||
            template_has(vm->template, place->image_page))
                return 0;
        while (n < window - 1 && vm_find_place(vm, place->address + (n + 1) * IMAGE_PAGE_BYTES, &other) &&
               other.region == place->region && may_come_along(vm, &other) && vm_content(vm, &other) == content)
                n++;
        return n;
}

/* Whether @pages pages come along: not if a disk had to be waited for, and only up to a bound, because
 * the guest may never look at them. */
static bool may_fill_around(struct vm *vm, uint64_t image_page, uint64_t pages, enum content content)
{
        if (content == CONTENT_ZERO)
                return true;
        if (!vm->template->image.is_sealed && !image_is_resident(&vm->template->image, image_page, pages))
                return false;
        if (vm_is_sharing(vm))
                return true;
        if (vm->around_left < pages)
                return false;
        vm->around_left -= pages - 1;
        return true;
}

/* Fill the page and what comes along; the page itself first. @is_write: whoever asked wants to write. */
static int64_t fill_around(struct vm *vm, const struct place *place, enum content content, bool is_write)
{
        struct fill fill = {.place = *place,
                            .source = vm_source(vm, place->image_page),
                            .content = content,
                            .pages = 1,
                            .is_write = is_write};
        uint64_t followers;
        int64_t r = vm_fill(vm, fill);

        if (r < 0)
                return r;
        followers = find_followers(vm, place, content);
        if (followers == 0 || !may_fill_around(vm, place->image_page, followers + 1, content))
                return r;
        fill.place.page++;
        fill.place.address += IMAGE_PAGE_BYTES;
        fill.source += IMAGE_PAGE_BYTES;
        fill.pages = followers;
        fill.is_write = false;
        return vm_fill(vm, fill);
}

static void served(struct vm *vm, const struct parked *fault)
{
        int64_t late_us = (now_ns() - fault->read_ns) / 1000;
        struct journal_counters *counters = &vm_head(vm)->counters;

        if (late_us > (int64_t)counters->max_stall_us)
                counters->max_stall_us = (uint64_t)late_us;
        counters->stalls += late_us > STALL_US;
}

static void cold_done(struct job *job)
{
        struct cold_fault *cold = container_of(job, struct cold_fault, job);
        struct vm *vm = cold->vm;

        if (--vm->n_jobs == 0 && vm->is_free)
                loop_later(vm->host->loop, &vm->grave);
        if (cold->error && !vm->is_stopping)
                vm_stop_with(vm, "the image cannot be read where the guest needs it", cold->error);
        else if (!vm->is_stopping)
                vm_serve(vm, &cold->fault, false);
        free(cold);
}

static void cold_work(struct job *job)
{
        struct cold_fault *cold = container_of(job, struct cold_fault, job);

        cold->error = image_populate(&cold->vm->template->image, cold->image_page, cold->pages);
}

/* Let a reader wait for the disk. */
static void read_first(struct vm *vm, const struct place *place, const struct parked *fault)
{
        struct cold_fault *cold = vm->n_jobs < JOBS_MAX ? malloc(sizeof(*cold)) : NULL;

        if (!cold) {
                vm_stop(vm, "no memory, or too many pages asked for at once");
                return;
        }
        *cold = (struct cold_fault){.job = {.work = cold_work, .done = cold_done}, .vm = vm, .fault = *fault};
        cold->image_page = place->image_page;
        cold->pages = find_followers(vm, place, CONTENT_DATA) + place->region->page_bytes / IMAGE_PAGE_BYTES;
        vm->n_jobs++;
        reader_submit(vm->host->reader, &cold->job);
}

/* What was mapped here once is taken to be there still: asking costs a tenth of a fault, and being wrong, after
 * the kernel took the page back, costs one wait. */
static bool is_cold(const struct vm *vm, const struct place *place)
{
        const struct template *template = vm->template;

        if (template->image.is_sealed || journal_has(template->populated, place->image_page))
                return false;
        if (!image_is_resident(&template->image, place->image_page, place->region->page_bytes / IMAGE_PAGE_BYTES))
                return true;
        journal_mark(template->populated, place->image_page);
        return false;
}

static void park(struct vm *vm, const struct parked *fault)
{
        if (vm->n_parked == PARKED_MAX ||
            (vm->n_parked == vm->parked_capacity &&
             !grow((void **)&vm->parked, &vm->parked_capacity, sizeof(*vm->parked)))) {
                vm_stop(vm, "no memory, or too many pages asked for at once");
                return;
        }
        vm->parked[vm->n_parked++] = *fault;
        /* Nothing more may be heard of this machine: its other threads may have said all they had to say. */
        if (vm->n_parked == 1)
                loop_set(vm->host->loop, &vm->retry, now_ns() + RETRY_NS);
}

/* Serve one fault. @may_be_cold: false when a reader has just brought the page. */
void vm_serve(struct vm *vm, const struct parked *fault, bool may_be_cold)
{
        bool is_write = fault->flags & (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP);
        enum content content;
        struct place place;
        int verdict;

        if (!vm_find_place(vm, fault->address, &place)) {
                vm_stop(vm, "it asked for memory that it did not hand over");
                return;
        }
        content = vm_content(vm, &place);
        if (content == CONTENT_DATA && journal_has(vm->journal.installed, place.page)) {
                /* It came while the fault waited to be read. Its image may be on a disk only: nothing is copied. */
                kill_point(KILL_WAKE);
                uffd_wake(vm->uffd.fd, place.address, place.region->page_bytes);
                served(vm, fault);
                return;
        }
        if (content == CONTENT_DATA && may_be_cold && is_cold(vm, &place)) {
                if (vm_comes_soon(vm, place.image_page))
                        park(vm, fault);
                else
                        read_first(vm, &place, fault);
                return;
        }
        verdict = vm_classify(vm, fill_around(vm, &place, content, is_write));
        if (verdict > 0)
                park(vm, fault);
        else if (verdict == 0) {
                vm_record(vm, &place, is_write);
                served(vm, fault);
        }
}

/* Try those again that could not be served then. */
void vm_retry_parked(struct vm *vm)
{
        struct parked *faults = vm->parked;
        size_t n = vm->n_parked;

        /* Those that are refused again park themselves again. */
        vm->parked = NULL;
        vm->n_parked = vm->parked_capacity = 0;
        for (size_t i = 0; i < n && !vm->is_stopping; i++)
                vm_serve(vm, &faults[i], true);
        free(faults);
}
