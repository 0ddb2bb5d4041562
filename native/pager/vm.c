#define _GNU_SOURCE
#include "vm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "deadline.h"
#include "fdutil.h"
#include "kill_point.h"
#include "process.h"
#include "uffd.h"

#define READS_PER_TURN 4 /* rings full of events, then others have their turn */
#define INSTALL_PAGES 64 /* between two looks at who waits */
#define AROUND_SHARE 16 /* of its memory, a guest may get this part that it never asked for */
#define CHECK_NS INT64_C(1000000) /* how long an image may have changed unnoticed while it is read */
#define PARKED_MAX 4096 /* each is a thread of the monitor that waits */
#define JOBS_MAX 4096
#define RETRY_NS INT64_C(1000000)
#define STALL_US 10000
#define HUGE_MAX_BYTES (UINT64_C(1) << 30)

/* A page of a machine. */
struct place {
        const struct region *region;
        uint64_t page; /* among all of the machine */
        uint64_t address;
        uint64_t image_page;
};

enum content { CONTENT_ZERO, CONTENT_DATA };

/* A fault whose page is being read from a disk. */
struct cold_fault {
        struct job job;
        struct vm *vm;
        struct parked fault;
        uint64_t image_page, pages;
        int error;
};

static struct journal_head *head_of(const struct vm *vm)
{
        return vm->journal.head;
}

/* -- places ---------------------------------------------------------------------------------------- */

static int64_t region_at(const struct journal_head *head, uint64_t address)
{
        uint64_t low = 0, high = head->n_regions;

        while (high - low > 1) {
                uint64_t middle = low + (high - low) / 2;

                if (head->regions[middle].address <= address)
                        low = middle;
                else
                        high = middle;
        }
        return address - head->regions[low].address < head->regions[low].size_bytes ? (int64_t)low : -1;
}

static bool find_place(const struct vm *vm, uint64_t address, struct place *ret_place)
{
        int64_t i = region_at(head_of(vm), address);
        const struct region *region;
        uint64_t in_region;

        if (i < 0)
                return false;
        region = &head_of(vm)->regions[i];
        in_region = (address - region->address) & ~(region->page_bytes - 1);
        *ret_place = (struct place){
                .region = region,
                .page = vm->first_page[i] + in_region / region->page_bytes,
                .address = region->address + in_region,
                .image_page = (region->offset + in_region) / IMAGE_PAGE_BYTES,
        };
        return true;
}

/* Where page @image_page of the image is in the machine, in regions of small pages. */
static bool find_image_page(const struct vm *vm, uint64_t image_page, struct place *ret_place)
{
        const struct journal_head *head = head_of(vm);
        uint64_t offset = image_page * IMAGE_PAGE_BYTES;

        for (uint64_t i = 0; i < head->n_regions; i++) {
                const struct region *region = &head->regions[i];

                if (offset - region->offset < region->size_bytes && region->page_bytes == IMAGE_PAGE_BYTES)
                        return find_place(vm, region->address + (offset - region->offset), ret_place);
        }
        return false;
}

static bool has_removals(const struct vm *vm)
{
        return head_of(vm)->features & UFFD_FEATURE_EVENT_REMOVE;
}

/* Returns whether the guest gave the page back: it is owed as zeros. */
static bool is_removed(const struct vm *vm, const struct place *place)
{
        if (journal_has(vm->journal.removed, place->page))
                return true;
        return !has_removals(vm) && journal_has(vm->journal.installed, place->page);
}

static enum content content_of(const struct vm *vm, const struct place *place)
{
        if (is_removed(vm, place))
                return CONTENT_ZERO;
        if (place->region->page_bytes > IMAGE_PAGE_BYTES)
                return CONTENT_DATA;
        return image_is_zero(&vm->template->image, place->image_page) ? CONTENT_ZERO : CONTENT_DATA;
}

/* -- filling --------------------------------------------------------------------------------------- */

static bool is_sharing(const struct vm *vm)
{
        return head_of(vm)->protocol == HANDSHAKE_MEMFD;
}

static const void *zeros(uint64_t bytes)
{
        static const uint8_t page[IMAGE_PAGE_BYTES];
        void *memory;

        if (bytes <= IMAGE_PAGE_BYTES)
                return page;
        /* Of a huge page: mapped once for all, never written, so it costs one page of zeros. */
        memory = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        return memory == MAP_FAILED ? NULL : memory;
}

static int64_t fill_zeros(const struct vm *vm, const struct place *place, uint64_t bytes, bool is_write)
{
        uint64_t page_bytes = place->region->page_bytes;
        const void *source;
        int64_t r;

        /* The page of zeros everybody shares would be copied at the write that waits already. */
        if (page_bytes == IMAGE_PAGE_BYTES && !is_write)
                return uffd_zero(vm->uffd.fd, place->address, bytes);
        source = zeros(page_bytes);
        if (!source)
                return -ENOMEM;
        r = uffd_copy(vm->uffd.fd, place->address, source, page_bytes);
        if (page_bytes > IMAGE_PAGE_BYTES)
                munmap((void *)source, page_bytes);
        return r;
}

static int64_t fill_once(const struct vm *vm, const struct place *place, const void *source, enum content content,
                         uint64_t bytes, bool is_write)
{
        if (content == CONTENT_ZERO)
                return fill_zeros(vm, place, bytes, is_write);
        if (is_sharing(vm) && !is_write)
                return uffd_continue(vm->uffd.fd, place->address, bytes);
        return uffd_copy(vm->uffd.fd, place->address, source, bytes);
}

static void count(struct vm *vm, enum content content, bool is_write, uint64_t pages)
{
        struct journal_counters *counters = &head_of(vm)->counters;

        if (content == CONTENT_ZERO)
                counters->zeroed += pages;
        else if (is_sharing(vm) && !is_write)
                counters->shared += pages;
        else
                counters->copied += pages;
}

static void mark_installed(struct vm *vm, uint64_t page, uint64_t pages)
{
        for (uint64_t i = 0; i < pages; i++)
                journal_mark(vm->journal.installed, page + i);
}

/* Fill @pages pages of one content that follow each other, from @place on. @source: what they hold.
 * Pages that are there already are skipped.
 * Returns how many were filled here, or a negative errno of uffd_copy(). */
static int64_t fill(struct vm *vm, struct place place, const uint8_t *source, enum content content,
                    uint64_t pages, bool is_write)
{
        uint64_t page_bytes = place.region->page_bytes, left = pages;
        int64_t filled = 0;

        while (left > 0) {
                int64_t r, done;

                kill_point(KILL_COPY);
                r = fill_once(vm, &place, source, content, left * page_bytes, is_write);
                if (r < 0)
                        return r;
                if (r == 0)
                        kill_point(KILL_WAKE);
                done = r ? r / (int64_t)page_bytes : 1;
                mark_installed(vm, place.page, (uint64_t)done);
                count(vm, content, is_write, r ? (uint64_t)done : 0);
                filled += r ? done : 0;
                left -= (uint64_t)done;
                place.page += (uint64_t)done;
                place.address += (uint64_t)done * page_bytes;
                source += (uint64_t)done * page_bytes;
        }
        return filled;
}

static const uint8_t *source_of(const struct vm *vm, uint64_t image_page)
{
        return vm->template->image.memory + image_page * IMAGE_PAGE_BYTES;
}

/* -- ending ---------------------------------------------------------------------------------------- */

void vm_stop(struct vm *vm, const char *reason)
{
        if (vm->is_stopping || vm->is_over)
                return;
        vm->is_stopping = true;
        snprintf(vm->reason, sizeof(vm->reason), "%s", reason);
        loop_remove(vm->host->loop, &vm->uffd);
        loop_idle(vm->host->loop, &vm->installer);
        loop_unset(vm->host->loop, &vm->retry);
        loop_unset(vm->host->loop, &vm->check);
        kill_process(vm->process.fd);
}

static void stop_with(struct vm *vm, const char *what, int error)
{
        char reason[VM_REASON_BYTES];

        snprintf(reason, sizeof(reason), "%s: %s", what, strerror(-error));
        vm_stop(vm, reason);
}

static void process_ended(struct source *source, uint32_t events)
{
        struct vm *vm = container_of(source, struct vm, process);

        (void)events;
        vm->is_over = true;
        vm->host->over(vm->host, vm);
}

/* What a call on its userfaultfd said: 0 to go on, 1 to try again later, -1 if that was its end. */
static int classify(struct vm *vm, int64_t result)
{
        if (result >= 0)
                return 0;
        if (result == -EAGAIN)
                return 1;
        if (result == -ESRCH)
                return -1; /* its process is ending, and will say so */
        if (result == -EFAULT)
                vm_stop(vm, "the image cannot be read where the guest needs it");
        else
                stop_with(vm, result == -ENOENT ? "its memory is not mapped any more" : "filling its memory",
                          (int)result);
        return -1;
}

/* -- recording ------------------------------------------------------------------------------------- */

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

static void record(struct vm *vm, const struct place *place, bool is_write)
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
        vm->touches = NULL;
        vm->n_touches = vm->touches_capacity = 0;
        return n;
}

/* -- demand ---------------------------------------------------------------------------------------- */

/* Returns whether a page beside one that was asked for may come with it. */
static bool may_come_along(const struct vm *vm, const struct place *place)
{
        return !journal_has(vm->journal.installed, place->page) && !is_removed(vm, place) &&
               !template_has(vm->template, place->image_page);
}

static bool is_next_to(const struct vm *vm, const struct place *place, int64_t by, enum content content)
{
        struct place other;

        return find_place(vm, place->address + (uint64_t)(by * IMAGE_PAGE_BYTES), &other) &&
               other.region == place->region && may_come_along(vm, &other) && content_of(vm, &other) == content;
}

/* Pages around one that was asked for, with content of the same kind, in the aligned window that holds it. */
static void find_window(const struct vm *vm, const struct place *place, enum content content, uint64_t *ret_before,
                        uint64_t *ret_after)
{
        uint64_t window = head_of(vm)->fault_around_pages, at = place->image_page % window;
        uint64_t before = 0, after = 0;

        *ret_before = *ret_after = 0;
        if (window <= 1 || vm->touched || place->region->page_bytes != IMAGE_PAGE_BYTES ||
            template_has(vm->template, place->image_page))
                return;
        while (before < at && is_next_to(vm, place, -(int64_t)before - 1, content))
                before++;
        while (after < window - 1 - at && is_next_to(vm, place, (int64_t)after + 1, content))
                after++;
        *ret_before = before;
        *ret_after = after;
}

/* Whether @pages pages come along: not if a disk had to be waited for, and only up to a bound, because
 * the guest may never look at them. */
static bool may_fill_around(struct vm *vm, uint64_t image_page, uint64_t pages, enum content content)
{
        if (content == CONTENT_ZERO)
                return true;
        if (!vm->template->image.is_sealed && !image_is_resident(&vm->template->image, image_page, pages))
                return false;
        if (is_sharing(vm))
                return true;
        if (vm->around_left < pages)
                return false;
        vm->around_left -= pages - 1;
        return true;
}

/* Fill the page and what comes along; the page itself first. @is_write: whoever asked wants to write. */
static int64_t fill_around(struct vm *vm, const struct place *place, enum content content, bool is_write)
{
        const uint8_t *source = source_of(vm, place->image_page);
        uint64_t before, after;
        struct place side = *place;
        int64_t r = fill(vm, *place, source, content, 1, is_write);

        if (r < 0)
                return r;
        find_window(vm, place, content, &before, &after);
        if (!may_fill_around(vm, place->image_page - before, before + after + 1, content))
                return r;
        side.address += IMAGE_PAGE_BYTES;
        side.page++;
        r = fill(vm, side, source + IMAGE_PAGE_BYTES, content, after, false);
        side.address = place->address - before * IMAGE_PAGE_BYTES;
        side.page = place->page - before;
        return r < 0 ? r : fill(vm, side, source - before * IMAGE_PAGE_BYTES, content, before, false);
}

static void served(struct vm *vm, const struct parked *fault)
{
        int64_t late_us = (now_ns() - fault->read_ns) / 1000;
        struct journal_counters *counters = &head_of(vm)->counters;

        if (late_us > (int64_t)counters->max_stall_us)
                counters->max_stall_us = (uint64_t)late_us;
        counters->stalls += late_us > STALL_US;
}

static void park(struct vm *vm, const struct parked *fault);
static void serve(struct vm *vm, const struct parked *fault, bool may_be_cold);

static void cold_done(struct job *job)
{
        struct cold_fault *cold = container_of(job, struct cold_fault, job);
        struct vm *vm = cold->vm;

        if (--vm->n_jobs == 0 && vm->is_free)
                loop_later(vm->host->loop, &vm->grave);
        if (cold->error && !vm->is_stopping)
                stop_with(vm, "the image cannot be read where the guest needs it", cold->error);
        else if (!vm->is_stopping)
                serve(vm, &cold->fault, false);
        free(cold);
}

static void cold_work(struct job *job)
{
        struct cold_fault *cold = container_of(job, struct cold_fault, job);

        cold->error = image_populate(&cold->vm->template->image, cold->image_page, cold->pages);
}

/* What is read for a page that is not in memory: all that may be filled with it. */
static void find_reading(const struct vm *vm, const struct place *place, uint64_t *ret_page, uint64_t *ret_pages)
{
        uint64_t before, after;

        find_window(vm, place, CONTENT_DATA, &before, &after);
        *ret_page = place->image_page - before;
        *ret_pages = before + after + place->region->page_bytes / IMAGE_PAGE_BYTES;
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
        find_reading(vm, place, &cold->image_page, &cold->pages);
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

/* Serve one fault. @may_be_cold: false when a reader has just brought the page. */
static void serve(struct vm *vm, const struct parked *fault, bool may_be_cold)
{
        bool is_write = fault->flags & (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP);
        enum content content;
        struct place place;
        int verdict;

        if (!find_place(vm, fault->address, &place)) {
                vm_stop(vm, "it asked for memory that it did not hand over");
                return;
        }
        content = content_of(vm, &place);
        if (content == CONTENT_DATA && may_be_cold && is_cold(vm, &place)) {
                read_first(vm, &place, fault);
                return;
        }
        verdict = classify(vm, fill_around(vm, &place, content, is_write));
        if (verdict > 0)
                park(vm, fault);
        else if (verdict == 0) {
                record(vm, &place, is_write);
                served(vm, fault);
        }
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
}

/* Try those again that the kernel refused while the address space was changing. */
static void retry_parked(struct vm *vm)
{
        struct parked *faults = vm->parked;
        size_t n = vm->n_parked;

        /* Those that are refused again park themselves again. */
        vm->parked = NULL;
        vm->n_parked = vm->parked_capacity = 0;
        for (size_t i = 0; i < n && !vm->is_stopping; i++)
                serve(vm, &faults[i], true);
        free(faults);
        if (vm->n_parked && !vm->is_stopping)
                loop_set(vm->host->loop, &vm->retry, now_ns() + RETRY_NS);
}

/* -- events ---------------------------------------------------------------------------------------- */

/* Record that pages were given back: from here on they are zeros. */
static void note_removal(struct vm *vm, uint64_t start, uint64_t end)
{
        const struct journal_head *head = head_of(vm);

        for (uint64_t i = 0; i < head->n_regions; i++) {
                const struct region *region = &head->regions[i];
                uint64_t from = start > region->address ? start - region->address : 0, to;

                if (end <= region->address || from >= region->size_bytes)
                        continue;
                to = end - region->address < region->size_bytes ? end - region->address : region->size_bytes;
                for (uint64_t page = from / region->page_bytes; page * region->page_bytes < to; page++)
                        journal_mark(vm->journal.removed, vm->first_page[i] + page);
                head_of(vm)->counters.removed += (to - from) / region->page_bytes;
        }
}

/* First of all the removals, whatever their place among the events. Returns false if the machine did what
 * cannot be followed. */
static bool note_removals(struct vm *vm)
{
        bool has_any = false, is_sound = true;

        for (int i = 0; i < JOURNAL_RING; i++) {
                const struct uffd_msg *event = &head_of(vm)->ring[i];

                if (!event->event)
                        break;
                if (event->event == UFFD_EVENT_REMOVE && !has_any) {
                        has_any = true;
                        kill_point(KILL_REMOVE_READ);
                }
                if (event->event == UFFD_EVENT_REMOVE)
                        note_removal(vm, event->arg.remove.start, event->arg.remove.end);
                else if (event->event == UFFD_EVENT_FORK || event->event == UFFD_EVENT_REMAP)
                        is_sound = false;
        }
        journal_order();
        if (has_any)
                kill_point(KILL_REMOVE_RECORDED);
        return is_sound;
}

static void clear_ring(struct vm *vm)
{
        journal_order();
        for (int i = 0; i < JOURNAL_RING && head_of(vm)->ring[i].event; i++)
                memset((void *)&head_of(vm)->ring[i], 0, sizeof(struct uffd_msg));
        journal_order();
}

static void serve_faults(struct vm *vm, int64_t read_ns)
{
        for (int i = 0; i < JOURNAL_RING && !vm->is_stopping; i++) {
                const struct uffd_msg *event = &head_of(vm)->ring[i];
                struct parked fault = {
                        .address = event->arg.pagefault.address,
                        .flags = event->arg.pagefault.flags,
                        .read_ns = read_ns,
                };

                if (!event->event)
                        return;
                if (event->event != UFFD_EVENT_PAGEFAULT)
                        continue;
                head_of(vm)->counters.faults++;
                serve(vm, &fault, true);
        }
}

/* Read once into the ring. Returns the number of events, 0 if there are none, -1 at its end. */
static int read_events(struct vm *vm)
{
        ssize_t n = read(vm->uffd.fd, head_of(vm)->ring, sizeof(head_of(vm)->ring));

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return 0;
        if (n < 0) {
                stop_with(vm, "reading what it asks for", -errno);
                return -1;
        }
        kill_point(KILL_RECEIVE);
        return (int)(n / (ssize_t)sizeof(struct uffd_msg));
}

static void check_now(struct vm *vm)
{
        vm->checked_ns = now_ns();
        if (vm->is_stopping)
                return;
        if (image_check(&vm->template->image))
                vm_stop(vm, "its image was changed or cut while it ran");
        else if (head_of(vm)->from_data && working_set_check(&vm->template->set))
                vm_stop(vm, "its working set was changed or cut while it was installed");
}

static void check_due(struct timer *timer)
{
        struct vm *vm = container_of(timer, struct vm, check);

        vm->is_check_set = false;
        check_now(vm);
}

/* Something was taken from the image: see that it still was what it should be, at once or soon. */
static void check_image(struct vm *vm)
{
        int64_t now = now_ns();

        if (vm->template->image.is_sealed && !head_of(vm)->from_data)
                return;
        if (now - vm->checked_ns >= CHECK_NS)
                check_now(vm);
        else if (!vm->is_check_set && !vm->is_stopping) {
                vm->is_check_set = true;
                loop_set(vm->host->loop, &vm->check, now + CHECK_NS);
        }
}

static void events_ready(struct source *source, uint32_t events)
{
        struct vm *vm = container_of(source, struct vm, uffd);
        int n = JOURNAL_RING;

        (void)events;
        for (int i = 0; i < READS_PER_TURN && n == JOURNAL_RING && !vm->is_stopping; i++) {
                n = read_events(vm);
                if (n <= 0)
                        break;
                if (!note_removals(vm)) {
                        vm_stop(vm, "its address space changed in a way that cannot be followed");
                        break;
                }
                serve_faults(vm, now_ns());
                clear_ring(vm);
        }
        if (vm->n_parked && !vm->is_stopping)
                retry_parked(vm);
        check_image(vm);
}

/* -- installing ------------------------------------------------------------------------------------ */

static void make_ready(struct vm *vm)
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
        return is_sharing(vm) || run->flags & TOUCH_ZERO;
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
        size_t first = head_of(vm)->next_run;
        const struct run *run = &template->set.runs[first];
        struct span span = {
                .n_runs = 1,
                .page = run->page,
                .pages = run->pages,
                .is_zero = run->flags & TOUCH_ZERO,
                .is_write = run->flags & TOUCH_WRITTEN,
                .source = head_of(vm)->from_data
                                  ? template->set.data + (uint64_t)template->data_at[first] * IMAGE_PAGE_BYTES
                                  : source_of(vm, run->page),
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

        if (!find_image_page(vm, span->page + at, ret_place))
                return 0;
        for (place = *ret_place; at + n < span->pages; n++, place.page++, place.address += IMAGE_PAGE_BYTES)
                if (place.address - place.region->address >= place.region->size_bytes ||
                    journal_has(vm->journal.installed, place.page) || is_removed(vm, &place))
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
                if (span->is_zero && span->is_write)
                        n = 1; /* filled by copying one page of zeros */
                r = fill(vm, place, span->source + at * IMAGE_PAGE_BYTES, span->is_zero ? CONTENT_ZERO : CONTENT_DATA,
                         n, span->is_write);
                if (r < 0)
                        return r;
                installed += r;
        }
        return installed;
}

static bool is_installing(const struct vm *vm)
{
        return head_of(vm)->method != METHOD_DEMAND && head_of(vm)->next_run < vm->template->set.n_runs;
}

/* Whether the next run's content is in memory. Asks to be told if it is not. */
static bool has_content(struct vm *vm)
{
        bool from_data = head_of(vm)->from_data;
        struct warming *warming = template_warming(vm->template, from_data);

        if (head_of(vm)->next_run < warming->ready_runs)
                return true;
        if (warming->error) {
                /* What is left comes when it is asked for; if the image is at fault it shows then. */
                head_of(vm)->next_run = vm->template->set.n_runs;
                make_ready(vm);
                return false;
        }
        template_wait(vm->template, from_data, &vm->warm);
        template_warm(vm->template, from_data);
        return false;
}

static bool install_some(struct idler *idler)
{
        struct vm *vm = container_of(idler, struct vm, installer);
        int64_t pages = 0;

        while (is_installing(vm) && pages < INSTALL_PAGES) {
                struct span span;
                int64_t r;

                if (!has_content(vm))
                        return false;
                span = next_span(vm, template_warming(vm->template, head_of(vm)->from_data)->ready_runs);
                r = install(vm, &span);
                if (r == -EAGAIN) {
                        loop_set(vm->host->loop, &vm->retry, now_ns() + RETRY_NS);
                        return false;
                }
                if (classify(vm, r) < 0)
                        return false;
                head_of(vm)->counters.prefetched += (uint64_t)r;
                head_of(vm)->next_run += span.n_runs;
                pages += r;
        }
        if (is_installing(vm)) {
                check_image(vm);
                return !vm->is_stopping;
        }
        check_now(vm);
        make_ready(vm);
        return false;
}

static void install_more(struct vm *vm)
{
        if (!vm->is_stopping && is_installing(vm))
                loop_busy(vm->host->loop, &vm->installer);
}

static void warmed(struct warm_waiter *waiter)
{
        install_more(container_of(waiter, struct vm, warm));
}

static void retry_due(struct timer *timer)
{
        struct vm *vm = container_of(timer, struct vm, retry);

        retry_parked(vm);
        install_more(vm);
}

/* -- beginning ------------------------------------------------------------------------------------- */

static int number_pages(struct vm *vm)
{
        const struct journal_head *head = head_of(vm);
        uint64_t page = 0;

        vm->first_page = calloc(head->n_regions, sizeof(*vm->first_page));
        if (!vm->first_page)
                return -ENOMEM;
        for (uint64_t i = 0; i < head->n_regions; i++) {
                vm->first_page[i] = page;
                page += head->regions[i].size_bytes / head->regions[i].page_bytes;
        }
        return 0;
}

/* What the page server that ended had read is applied; faults come again once their threads are woken. */
static int succeed(struct vm *vm)
{
        const struct journal_head *head = head_of(vm);

        if (!note_removals(vm))
                return -EPROTO;
        clear_ring(vm);
        if (planted(PLANT_FORGET_REMOVE))
                memset(vm->journal.removed, 0, (head->n_pages / 64 + 1) * sizeof(uint64_t));
        kill_point(KILL_WAKE);
        for (uint64_t i = 0; i < head->n_regions; i++)
                uffd_wake(vm->uffd.fd, head->regions[i].address, head->regions[i].size_bytes);
        return 0;
}

static int watch(struct vm *vm)
{
        int r = loop_add(vm->host->loop, &vm->uffd, EPOLLIN);

        return r ? r : loop_add(vm->host->loop, &vm->process, EPOLLIN);
}

static int begin(struct vm *vm, bool is_recorded, bool is_successor)
{
        int r = number_pages(vm);

        if (!r && is_recorded) {
                vm->touched = calloc(vm->template->image.pages / 64 + 1, sizeof(*vm->touched));
                r = vm->touched ? 0 : -ENOMEM;
        }
        r = r || !is_successor ? r : succeed(vm);
        r = r ? r : watch(vm);
        return r;
}

static void release_vm(struct grave *grave)
{
        struct vm *vm = container_of(grave, struct vm, grave);

        template_release(vm->host->templates, vm->template);
        free(vm->first_page);
        free(vm->parked);
        free(vm->touches);
        free(vm->touched);
        free(vm);
}

int vm_open(struct vm_host *host, struct vm_parts *parts, bool is_recorded, bool is_successor, struct vm **ret_vm)
{
        struct vm *vm = calloc(1, sizeof(*vm));
        int r;

        if (!vm) {
                journal_close(&parts->journal);
                template_release(host->templates, parts->template);
                close_fd(parts->uffd_fd);
                close_fd(parts->pidfd);
                return -ENOMEM;
        }
        vm->host = host;
        vm->journal = parts->journal;
        vm->template = parts->template;
        vm->uffd = (struct source){.ready = events_ready, .fd = parts->uffd_fd};
        vm->process = (struct source){.ready = process_ended, .fd = parts->pidfd};
        vm->installer.step = install_some;
        vm->retry.due = retry_due;
        vm->warm.warmed = warmed;
        vm->grave.release = release_vm;
        vm->check.due = check_due;
        vm->around_left = vm->journal.head->n_pages / AROUND_SHARE;
        r = begin(vm, is_recorded, is_successor);
        if (r) {
                kill_process(vm->process.fd);
                vm_free(vm, true);
                return r;
        }
        *ret_vm = vm;
        return 0;
}

void vm_begin(struct vm *vm)
{
        if (is_installing(vm))
                install_more(vm);
        if (!is_installing(vm) || head_of(vm)->method == METHOD_INSTALL_WHILE)
                make_ready(vm);
}

void vm_free(struct vm *vm, bool is_forgotten)
{
        struct loop *loop = vm->host->loop;

        vm->is_over = vm->is_stopping = true;
        loop_remove(loop, &vm->uffd);
        loop_remove(loop, &vm->process);
        loop_idle(loop, &vm->installer);
        loop_unset(loop, &vm->retry);
        loop_unset(loop, &vm->check);
        if (vm->template)
                template_unwait(vm->template, &vm->warm);
        if (is_forgotten)
                journal_remove(vm->host->journal_fd, head_of(vm)->vm);
        journal_close(&vm->journal);
        vm->uffd.fd = close_fd(vm->uffd.fd);
        vm->process.fd = close_fd(vm->process.fd);
        vm->is_free = true;
        /* A reader may still read for it; the last of them buries it then. */
        if (vm->n_jobs == 0)
                loop_later(loop, &vm->grave);
}
