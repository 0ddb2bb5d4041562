/* Who touches a page locks it in the model, so what it has to hold is exact; vCPUs and the balloon meet
 * in the kernel and in the page server all the same, because they are at different pages of the same
 * userfaultfd.
 *
 * The exception are racers: vCPUs that read pages while they are being given back, without a lock. Until
 * the balloon's madvise(2) returns they may see what was there before or zero, but never anything but
 * zero once they have seen zero, nor once it has returned. The balloon updates the model and unlocks only
 * when the last racer has left, so that nobody writes meanwhile. */
#define _GNU_SOURCE
#include "standin_random.h"

#include <pthread.h>
#include <unistd.h>

#include "standin_die.h"

#define VCPUS_MAX 16
#define TOUCHES_PER_REMOVAL 24
#define RACE_IN 2 /* one in so many walks races with the balloon instead, while it is at work */
#define RACE_READS 64
#define WAIT_US 50

/* What the balloon gives back just now. */
struct removal {
        uint64_t page, pages;
        atomic_bool is_open; /* racers may come in */
        atomic_bool is_done; /* madvise returned */
        atomic_uint racers;
};

struct crowd {
        struct model *model;
        struct removal removal;
        atomic_ullong touched;
        atomic_uint running; /* vCPUs */
};

struct vcpu {
        struct crowd *crowd;
        uint64_t state, touches;
        struct random_result result;
};

static uint64_t draw(uint64_t *state, uint64_t below)
{
        *state += UINT64_C(0x9E3779B97F4A7C15);
        return splitmix64(*state) % below;
}

/* -- racers ---------------------------------------------------------------------------------------- */

static bool enter(struct removal *removal)
{
        atomic_fetch_add(&removal->racers, 1);
        if (atomic_load(&removal->is_open))
                return true;
        atomic_fetch_sub(&removal->racers, 1);
        return false;
}

static void leave(struct removal *removal)
{
        atomic_fetch_sub(&removal->racers, 1);
}

static void race(struct model *model, struct removal *removal, uint64_t page, unsigned word)
{
        uint64_t before = model_word(model, page, word);
        bool was_zero = false;

        for (int i = 0; i < RACE_READS; i++) {
                bool is_owed = was_zero || atomic_load(&removal->is_done);
                uint64_t got = touch_read(model, page, word);

                if (is_owed || got != before)
                        model_check(model, page, word, got, 0, is_owed ? "owed as zero" : "while given back");
                was_zero = got == 0;
                if (is_owed)
                        return;
        }
}

static bool race_with_balloon(struct vcpu *vcpu)
{
        struct removal *removal = &vcpu->crowd->removal;
        uint64_t start_ns = clock_ns();

        if (!enter(removal))
                return false;
        race(vcpu->crowd->model, removal, removal->page + draw(&vcpu->state, removal->pages),
             (unsigned)draw(&vcpu->state, PATTERN_PAGE_WORDS));
        leave(removal);
        keep_max(&vcpu->result.stay.max_touch_ns, clock_ns() - start_ns);
        vcpu->result.races++;
        return true;
}

/* -- vCPUs ----------------------------------------------------------------------------------------- */

static void touch(struct vcpu *vcpu, uint64_t page)
{
        struct model *model = vcpu->crowd->model;
        bool is_write = draw(&vcpu->state, 3) == 0;
        unsigned word = (unsigned)draw(&vcpu->state, PATTERN_PAGE_WORDS);
        uint64_t start_ns = clock_ns();

        if (is_write)
                touch_write(model, page);
        else
                model_check(model, page, word, touch_read(model, page, word), model_word(model, page, word), "read");
        keep_max(&vcpu->result.stay.max_touch_ns, clock_ns() - start_ns);
        model_check_page(model, page, is_write ? "after a write" : "after a read");
        vcpu->result.touches++;
        vcpu->result.writes += is_write;
        atomic_fetch_add(&vcpu->crowd->touched, 1);
}

/* A guest's touches come in short walks. */
static void walk(struct vcpu *vcpu)
{
        struct model *model = vcpu->crowd->model;
        uint64_t page = draw(&vcpu->state, model->guest->n_pages), length = 1 + draw(&vcpu->state, 8);

        for (; length > 0 && page < model->guest->n_pages && vcpu->result.touches < vcpu->touches; length--, page++) {
                uint64_t unit = guest_unit_pages(model->guest, page), first = page - page % unit;

                if (!model_try_lock(model, first, unit))
                        continue;
                touch(vcpu, page);
                model_unlock(model, first, unit);
        }
}

static void *run_vcpu(void *argument)
{
        struct vcpu *vcpu = argument;

        while (vcpu->result.touches < vcpu->touches)
                if (draw(&vcpu->state, RACE_IN) != 0 || !race_with_balloon(vcpu))
                        walk(vcpu);
        atomic_fetch_sub(&vcpu->crowd->running, 1);
        return NULL;
}

/* -- the balloon ----------------------------------------------------------------------------------- */

static void remove_locked(struct vcpu *balloon, uint64_t page, uint64_t pages)
{
        struct model *model = balloon->crowd->model;
        struct removal *removal = &balloon->crowd->removal;
        uint64_t start_ns = clock_ns();

        removal->page = page;
        removal->pages = pages;
        atomic_store(&removal->is_done, false);
        atomic_store(&removal->is_open, true);
        guest_remove(model->guest, page, pages);
        atomic_store(&removal->is_done, true);
        atomic_store(&removal->is_open, false);
        keep_max(&balloon->result.stay.max_remove_ns, clock_ns() - start_ns);
        while (atomic_load(&removal->racers) > 0)
                usleep(WAIT_US);
        model_remove(model, page, pages);
        balloon->result.removals++;
        balloon->result.removed_pages += pages;
}

/* Returns how many pages from @page on could be locked, at most @wanted, in one region. */
static uint64_t lock_some(struct model *model, uint64_t page, uint64_t wanted)
{
        const struct guest_region *region = guest_region_of(model->guest, page);
        uint64_t unit = region->page_bytes / PATTERN_PAGE_BYTES;
        uint64_t end = (region->offset + region->bytes) / PATTERN_PAGE_BYTES, locked = 0;

        while (locked < wanted && page + locked < end && model_try_lock(model, page + locked, unit))
                locked += unit;
        return locked;
}

/* Mostly a few pages, now and then many. */
static void deflate(struct vcpu *balloon)
{
        struct model *model = balloon->crowd->model;
        uint64_t page = draw(&balloon->state, model->guest->n_pages);
        uint64_t most = draw(&balloon->state, 16) ? 8 : 256;
        uint64_t unit = guest_unit_pages(model->guest, page), locked;

        page -= page % unit;
        locked = lock_some(model, page, unit * (1 + draw(&balloon->state, unit > 1 ? 1 : most)));
        if (locked)
                remove_locked(balloon, page, locked);
        model_unlock(model, page, locked);
}

static void *run_balloon(void *argument)
{
        struct vcpu *balloon = argument;
        struct crowd *crowd = balloon->crowd;

        for (uint64_t due = 0; atomic_load(&crowd->running) > 0;) {
                if (atomic_load(&crowd->touched) < due) {
                        usleep(WAIT_US);
                        continue;
                }
                deflate(balloon);
                due += TOUCHES_PER_REMOVAL;
        }
        return NULL;
}

/* -- all together ---------------------------------------------------------------------------------- */

static void start(pthread_t *thread, void *(*run)(void *), struct vcpu *vcpu)
{
        errno = pthread_create(thread, NULL, run, vcpu);
        if (errno)
                DIE("pthread_create");
}

static void add(struct random_result *sum, const struct random_result *part)
{
        sum->touches += part->touches;
        sum->writes += part->writes;
        sum->races += part->races;
        sum->removals += part->removals;
        sum->removed_pages += part->removed_pages;
        keep_max(&sum->stay.max_touch_ns, part->stay.max_touch_ns);
        keep_max(&sum->stay.max_remove_ns, part->stay.max_remove_ns);
}

struct random_result random_run(struct model *model, const struct random_order *order)
{
        struct crowd crowd = {.model = model, .running = order->vcpus};
        struct vcpu workers[VCPUS_MAX + 1] = {0}; /* the last is the balloon */
        pthread_t threads[VCPUS_MAX + 1];
        struct random_result sum = {0};

        errno = EINVAL;
        if (order->vcpus < 1 || order->vcpus > VCPUS_MAX)
                DIE("number of vCPUs");
        for (unsigned i = 0; i <= order->vcpus; i++)
                workers[i] = (struct vcpu){
                        .crowd = &crowd,
                        .state = splitmix64(order->seed + i),
                        .touches = order->touches / order->vcpus + (i < order->touches % order->vcpus),
                };
        for (unsigned i = 0; i <= order->vcpus; i++)
                start(&threads[i], i < order->vcpus ? run_vcpu : run_balloon, &workers[i]);
        for (unsigned i = 0; i <= order->vcpus; i++) {
                pthread_join(threads[i], NULL);
                add(&sum, &workers[i].result);
        }
        return sum;
}
