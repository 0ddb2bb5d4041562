/* What a machine does to its memory: the same for every way it got there. */
#define _GNU_SOURCE
#include "vm.h"

#include <inttypes.h>

/* Some work on a page that was asked for: about 0.75 us, and a sum that depends on every word and on the
 * order of the pages. */
static uint64_t digest_page(uint64_t sum, const uint8_t *page)
{
        const uint64_t factor = UINT64_C(0x9e3779b97f4a7c15);
        const uint64_t *words = (const uint64_t *)page;
        uint64_t even = sum, odd = ~sum;

        for (size_t i = 0; i < PAGE / sizeof(*words); i += 2) {
                even = (even ^ words[i]) * factor;
                odd = (odd ^ words[i + 1]) * factor;
        }
        return even ^ (odd << 1 | odd >> 63);
}

static void write_page(uint8_t *page, const struct touch *touch)
{
        ((volatile uint64_t *)page)[7] = UINT64_C(0x5eed0000) + touch->page;
}

/* Read a page, then write to it if the touch does. Returns the sum. */
static uint64_t touch_page(uint64_t sum, uint8_t *page, const struct touch *touch)
{
        sum = digest_page(sum, page);
        if (touch->is_write)
                write_page(page, touch);
        return sum;
}

/* As touch_page(), but a page is written to before it is read, and that access alone is timed. */
static uint64_t touch_page_timed(uint64_t sum, uint8_t *page, const struct touch *touch,
                                 uint64_t *ret_ns)
{
        int64_t begun = now_ns();

        if (touch->is_write)
                write_page(page, touch);
        else
                (void)*(volatile uint64_t *)page;
        *ret_ns = now_ns() - begun;
        return digest_page(sum, page);
}

uint64_t vm_run_trace(struct vm *vm, uint64_t *latencies, int64_t *ret_first)
{
        uint64_t sum = 0;

        for (size_t i = 0; i < vm->trace.n; i++) {
                const struct touch *touch = &vm->trace.touches[i];
                uint8_t *page = vm->memory + touch->page * PAGE;

                sum = latencies ? touch_page_timed(sum, page, touch, &latencies[i])
                                : touch_page(sum, page, touch);
                if (i == 0)
                        *ret_first = now_ns();
        }
        return sum;
}

uint64_t vm_digest(const struct vm *vm)
{
        uint64_t sum = 0;

        for (size_t i = 0; i < vm->trace.n; i++)
                sum = digest_page(sum, vm->memory + vm->trace.touches[i].page * PAGE);
        return sum;
}

/* What a churn saw: the longest of its operations, and when that one began. */
struct churn {
        const uint8_t *image;
        uint64_t touches, passes, wrong;
        int64_t longest, longest_at;
};

static void churn_note(struct churn *churn, int64_t begun)
{
        int64_t took = now_ns() - begun;

        if (took > churn->longest) {
                churn->longest = took;
                churn->longest_at = begun;
        }
}

/* Read a page that is not there, then compare it: with the image, or with zeros once it was removed. */
static void churn_touch(struct churn *churn, const uint8_t *page, size_t number)
{
        static const uint8_t zeros[4096];
        const uint8_t *expected = churn->passes ? zeros : churn->image + number * PAGE;
        int64_t begun = now_ns();

        (void)*(const volatile uint64_t *)page;
        churn_note(churn, begun);
        churn->touches++;
        if (memcmp(page, expected, PAGE) != 0)
                churn->wrong++;
}

void vm_churn(struct vm *vm, double seconds, size_t pages)
{
        int fd = open(vm->image, O_RDONLY | O_CLOEXEC);
        struct churn churn = {0};
        int64_t begun = now_ns(), until = begun + (int64_t)(seconds * 1e9), removing;
        const size_t step = 512 * PAGE;

        churn.image = mmap(NULL, vm->size, PROT_READ, MAP_SHARED, fd, 0);
        if (churn.image == MAP_FAILED || pages > vm->size / PAGE)
                fail("cannot map %s", vm->image);
        while (now_ns() < until) {
                /* 4051 is prime: every page once, if it does not divide their number. */
                for (size_t i = 0; i < pages && now_ns() < until; i++) {
                        size_t number = i * 4051 % pages;
                        churn_touch(&churn, vm->memory + number * PAGE, number);
                }
                if (now_ns() >= until)
                        break;
                for (size_t at = 0; at < pages * PAGE; at += step) {
                        removing = now_ns();
                        if (madvise(vm->memory + at, step, MADV_DONTNEED) != 0)
                                fail("cannot remove pages");
                        churn_note(&churn, removing);
                }
                churn.passes++;
        }
        printf("{\"touches\":%" PRIu64 ",\"passes\":%" PRIu64 ",\"wrong\":%" PRIu64
               ",\"longest_ns\":%" PRId64 ",\"longest_at_ns\":%" PRId64 ",\"begun_ns\":%" PRId64
               ",\"ended_ns\":%" PRId64 "}\n",
               churn.touches, churn.passes, churn.wrong, churn.longest, churn.longest_at, begun,
               now_ns());
        munmap((void *)churn.image, vm->size);
        close(fd);
}
