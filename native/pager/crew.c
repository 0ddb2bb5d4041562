#define _GNU_SOURCE
#include "crew.h"

#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "deadline.h"
#include "fdutil.h"

#define LOOK_OUT_NS 50000 /* machines often come together */

unsigned crew_size(void)
{
        cpu_set_t allowed;
        int n = sched_getaffinity(0, sizeof(allowed), &allowed) == 0 ? CPU_COUNT(&allowed) : 1;

        return n - 1 < CREW_MAX ? (unsigned)(n - 1) : CREW_MAX;
}

/* -- under the mutex ------------------------------------------------------------------------------- */

static void put_last(struct crew_work **at, struct crew_work *work)
{
        while (*at)
                at = &(*at)->next;
        work->next = NULL;
        __atomic_store_n(at, work, __ATOMIC_RELAXED);
}

static void take_out(struct crew_work **at, const struct crew_work *work)
{
        while (*at && *at != work)
                at = &(*at)->next;
        if (*at)
                __atomic_store_n(at, work->next, __ATOMIC_RELAXED);
}

static void withdraw(struct crew *crew, struct crew_work *work)
{
        if (work->is_offered)
                take_out(&crew->offered, work);
        work->is_offered = false;
}

static void withdraw_if_all_begun(struct crew *crew, struct crew_work *work)
{
        if (work->first == work->end)
                withdraw(crew, work);
}

static void ring(int fd)
{
        uint64_t one = 1;

        while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
                ;
}

static void returned(struct crew *crew, struct crew_work *work)
{
        if (--work->under_way > 0)
                return;
        pthread_cond_signal(&crew->returned);
        if (!work->is_awaited)
                return;
        work->is_awaited = false;
        put_last(&crew->finished, work);
        ring(crew->source.fd);
}

static void do_last(struct crew *crew, struct crew_work *work)
{
        size_t i = --work->end;

        work->under_way++;
        withdraw_if_all_begun(crew, work);
        pthread_mutex_unlock(&crew->mutex);
        work->piece(work, i);
        pthread_mutex_lock(&crew->mutex);
        returned(crew, work);
}

/* -- in a thread of the crew ----------------------------------------------------------------------- */

/* A wake-up costs as much as many pages. */
static void look_out(const struct crew *crew)
{
        int64_t until = now_ns() + LOOK_OUT_NS;

        while (!__atomic_load_n(&crew->offered, __ATOMIC_RELAXED) && now_ns() < until)
                __builtin_ia32_pause();
}

static void await_offer(struct crew *crew)
{
        pthread_mutex_unlock(&crew->mutex);
        look_out(crew);
        pthread_mutex_lock(&crew->mutex);
        while (!crew->offered && !crew->is_over)
                pthread_cond_wait(&crew->wanted, &crew->mutex);
}

static void *help(void *data)
{
        struct crew *crew = data;

        pthread_mutex_lock(&crew->mutex);
        while (!crew->is_over) {
                if (crew->offered)
                        do_last(crew, crew->offered);
                else
                        await_offer(crew);
        }
        pthread_mutex_unlock(&crew->mutex);
        return NULL;
}

/* -- in the loop ----------------------------------------------------------------------------------- */

static struct crew_work *take_finished(struct crew *crew)
{
        struct crew_work *work;

        pthread_mutex_lock(&crew->mutex);
        work = crew->finished;
        if (work)
                crew->finished = work->next;
        pthread_mutex_unlock(&crew->mutex);
        return work;
}

static void rung(struct source *source, uint32_t events)
{
        struct crew *crew = container_of(source, struct crew, source);
        struct crew_work *work;
        uint64_t count;

        (void)events;
        if (read(source->fd, &count, sizeof(count)) < 0)
                return;
        /* One at a time: what it does may take back others. */
        while ((work = take_finished(crew)))
                work->done(work);
}

int crew_open(struct crew *crew, struct loop *loop, unsigned n_threads)
{
        int r;

        *crew = (struct crew){.source = {.ready = rung, .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)}};
        if (crew->source.fd < 0)
                return -errno;
        crew->loop = loop;
        pthread_mutex_init(&crew->mutex, NULL);
        pthread_cond_init(&crew->wanted, NULL);
        pthread_cond_init(&crew->returned, NULL);
        r = loop_add(loop, &crew->source, EPOLLIN);
        for (; !r && crew->n_threads < n_threads; crew->n_threads += !r)
                r = -pthread_create(&crew->threads[crew->n_threads], NULL, help, crew);
        if (r)
                crew_close(crew);
        return r;
}

void crew_close(struct crew *crew)
{
        if (!crew->loop)
                return;
        pthread_mutex_lock(&crew->mutex);
        crew->is_over = true;
        pthread_cond_broadcast(&crew->wanted);
        pthread_mutex_unlock(&crew->mutex);
        for (; crew->n_threads > 0; crew->n_threads--)
                pthread_join(crew->threads[crew->n_threads - 1], NULL);
        loop_remove(crew->loop, &crew->source);
        crew->source.fd = close_fd(crew->source.fd);
        pthread_cond_destroy(&crew->wanted);
        pthread_cond_destroy(&crew->returned);
        pthread_mutex_destroy(&crew->mutex);
        crew->loop = NULL;
}

void crew_offer(struct crew *crew, struct crew_work *work)
{
        if (!crew_helps(crew) || work->first == work->end)
                return;
        pthread_mutex_lock(&crew->mutex);
        work->is_offered = true;
        put_last(&crew->offered, work);
        pthread_cond_broadcast(&crew->wanted);
        pthread_mutex_unlock(&crew->mutex);
}

enum crew_taken crew_take(struct crew *crew, struct crew_work *work, size_t *ret_i)
{
        enum crew_taken taken = CREW_PIECE;

        pthread_mutex_lock(&crew->mutex);
        if (work->first < work->end) {
                *ret_i = work->first++;
                withdraw_if_all_begun(crew, work);
        } else {
                work->is_awaited = work->under_way > 0;
                taken = work->is_awaited ? CREW_AWAITED : CREW_DONE;
        }
        pthread_mutex_unlock(&crew->mutex);
        return taken;
}

void crew_take_back(struct crew *crew, struct crew_work *work)
{
        pthread_mutex_lock(&crew->mutex);
        withdraw(crew, work);
        work->is_awaited = false;
        while (work->under_way > 0)
                pthread_cond_wait(&crew->returned, &crew->mutex);
        take_out(&crew->finished, work);
        pthread_mutex_unlock(&crew->mutex);
}
