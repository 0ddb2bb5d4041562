#define _GNU_SOURCE
#include "loop.h"

#include <errno.h>

#include "deadline.h"
#include "fdutil.h"

#define LOOKOUT_NS 120000 /* most faults of a guest that just resumed are nearer to each other */
#define LOOKOUT_DOUBT_MAX 8 /* one in 256 is tried then */
#define LOOKOUT_VAIN 2 /* as many successes are needed for each look-out in vain */
#define NS_PER_MS INT64_C(1000000)

int loop_open(struct loop *ret_loop)
{
        int fd = epoll_create1(EPOLL_CLOEXEC);

        if (fd < 0)
                return -errno;
        *ret_loop = (struct loop){.epoll_fd = fd};
        return 0;
}

static void bury(struct loop *loop)
{
        while (loop->graves) {
                struct grave *grave = loop->graves;

                loop->graves = grave->next;
                grave->release(grave);
        }
}

void loop_close(struct loop *loop)
{
        bury(loop);
        loop->epoll_fd = close_fd(loop->epoll_fd);
}

static int control(struct loop *loop, int operation, struct source *source, uint32_t events)
{
        struct epoll_event event = {.events = events, .data.ptr = source};

        return epoll_ctl(loop->epoll_fd, operation, source->fd, &event) < 0 ? -errno : 0;
}

int loop_add(struct loop *loop, struct source *source, uint32_t events)
{
        return control(loop, EPOLL_CTL_ADD, source, events);
}

int loop_change(struct loop *loop, struct source *source, uint32_t events)
{
        return control(loop, EPOLL_CTL_MOD, source, events);
}

/* What this round has still to say of @source must not be said: its owner may be gone by then. */
static void silence(struct loop *loop, struct source *source)
{
        for (int i = 0; i < loop->n_round; i++)
                if (loop->round[i].data.ptr == source)
                        loop->round[i].data.ptr = NULL;
}

void loop_remove(struct loop *loop, struct source *source)
{
        if (source->fd < 0)
                return;
        control(loop, EPOLL_CTL_DEL, source, 0);
        silence(loop, source);
}

void loop_busy(struct loop *loop, struct idler *idler)
{
        struct idler **at = &loop->idlers;

        if (idler->is_waiting)
                return;
        while (*at)
                at = &(*at)->next;
        idler->next = NULL;
        idler->is_waiting = true;
        *at = idler;
}

void loop_idle(struct loop *loop, struct idler *idler)
{
        struct idler **at = &loop->idlers;

        while (*at && *at != idler)
                at = &(*at)->next;
        if (*at)
                *at = idler->next;
        idler->is_waiting = false;
}

void loop_set(struct loop *loop, struct timer *timer, int64_t at_ns)
{
        struct timer **at = &loop->timers;

        loop_unset(loop, timer);
        while (*at && (*at)->at_ns <= at_ns)
                at = &(*at)->next;
        timer->at_ns = at_ns;
        timer->next = *at;
        *at = timer;
}

void loop_unset(struct loop *loop, struct timer *timer)
{
        struct timer **at = &loop->timers;

        while (*at && *at != timer)
                at = &(*at)->next;
        if (*at)
                *at = timer->next;
}

void loop_later(struct loop *loop, struct grave *grave)
{
        grave->next = loop->graves;
        loop->graves = grave;
}

/* Returns for how many milliseconds nothing has to be done; -1 for ever. */
static int quiet_ms(const struct loop *loop)
{
        int64_t left;

        if (loop->idlers)
                return 0;
        if (!loop->timers)
                return -1;
        left = loop->timers->at_ns - now_ns();
        return left <= 0 ? 0 : (int)((left + NS_PER_MS - 1) / NS_PER_MS);
}

static void fire(struct loop *loop)
{
        int64_t now = loop->timers ? now_ns() : 0;

        while (loop->timers && loop->timers->at_ns <= now) {
                struct timer *timer = loop->timers;

                loop->timers = timer->next;
                timer->due(timer);
        }
}

/* Let the first one that waits do a little: whoever came first is finished first. */
static void step(struct loop *loop)
{
        struct idler *first = loop->idlers;

        if (first && !first->step(first))
                loop_idle(loop, first);
}

static void tell(struct loop *loop)
{
        for (int i = 0; i < loop->n_round; i++) {
                struct source *source = loop->round[i].data.ptr;

                if (source)
                        source->ready(source, loop->round[i].events);
        }
        loop->n_round = 0;
}

/* Returns for whom it is worth the processor's time to look out now, or NULL. */
static struct lookout *take_lookout(struct loop *loop)
{
        struct lookout *lookout = loop->idlers ? NULL : loop->lookout;

        loop->lookout = NULL;
        if (!lookout || lookout->skips == 0)
                return lookout;
        lookout->skips--;
        return NULL;
}

static void learn(struct lookout *lookout, bool was_in_vain)
{
        if (was_in_vain)
                lookout->doubt += LOOKOUT_VAIN;
        else if (lookout->doubt > 0)
                lookout->doubt--;
        if (lookout->doubt > LOOKOUT_DOUBT_MAX)
                lookout->doubt = LOOKOUT_DOUBT_MAX;
        lookout->skips = (1U << lookout->doubt) - 1;
}

/* Returns as epoll_wait(2): 0 if nothing came soon. What is there already says nothing of the worth of looking out: on
 * one processor the guest has asked before we were back. */
static int look_out(struct loop *loop, struct lookout *lookout)
{
        int64_t until = now_ns() + LOOKOUT_NS;
        int n = epoll_wait(loop->epoll_fd, loop->round, LOOP_ROUND, 0);

        if (n)
                return n;
        do {
                n = epoll_wait(loop->epoll_fd, loop->round, LOOP_ROUND, 0);
        } while (n == 0 && now_ns() < until);
        learn(lookout, n == 0);
        return n;
}

static int await(struct loop *loop)
{
        struct lookout *lookout = take_lookout(loop);
        int n = lookout ? look_out(loop, lookout) : 0;

        return n ? n : epoll_wait(loop->epoll_fd, loop->round, LOOP_ROUND, quiet_ms(loop));
}

int loop_run(struct loop *loop)
{
        while (!loop->is_over) {
                int n = await(loop);

                if (n < 0 && errno != EINTR)
                        return -errno;
                loop->n_round = n < 0 ? 0 : n;
                tell(loop);
                fire(loop);
                step(loop);
                bury(loop);
        }
        return 0;
}
