#define _GNU_SOURCE
#include "crew.h"

#include <sched.h>
#include <stdint.h>

#include "deadline.h"

#define LOOK_OUT_NS 50000 /* the next piece of the same work comes sooner than that */
#define LATE_NS 200000 /* longer than any piece: its thread has no processor */
#define DOUBT_MAX 4 /* one in 16 is shared then */

unsigned crew_size(void)
{
        cpu_set_t allowed;
        int n = sched_getaffinity(0, sizeof(allowed), &allowed) == 0 ? CPU_COUNT(&allowed) : 1;

        return n - 1 < CREW_MAX ? (unsigned)(n - 1) : CREW_MAX;
}

/* Do pieces until none is left to begin. Called and returns with the mutex locked. */
static void do_pieces(struct crew *crew)
{
        while (crew->next < crew->work.count) {
                size_t i = crew->next++;

                __atomic_store_n(&crew->under_way, crew->under_way + 1, __ATOMIC_RELAXED);
                pthread_mutex_unlock(&crew->mutex);
                crew->work.piece(crew->work.data, i);
                pthread_mutex_lock(&crew->mutex);
                __atomic_store_n(&crew->under_way, crew->under_way - 1, __ATOMIC_RELEASE);
        }
}

/* A wake-up costs as much as many pages. */
static void look_out(const struct crew *crew, unsigned long seen)
{
        int64_t until = now_ns() + LOOK_OUT_NS;

        while (__atomic_load_n(&crew->turn, __ATOMIC_RELAXED) == seen && now_ns() < until)
                __builtin_ia32_pause();
}

static void *help(void *data)
{
        struct crew *crew = data;

        pthread_mutex_lock(&crew->mutex);
        while (!crew->is_over) {
                unsigned long seen = crew->turn;

                if (crew->next < crew->work.count) {
                        do_pieces(crew);
                        pthread_cond_signal(&crew->finished);
                        pthread_mutex_unlock(&crew->mutex);
                        look_out(crew, seen);
                        pthread_mutex_lock(&crew->mutex);
                } else {
                        pthread_cond_wait(&crew->wanted, &crew->mutex);
                }
        }
        pthread_mutex_unlock(&crew->mutex);
        return NULL;
}

int crew_open(struct crew *crew, unsigned n_threads)
{
        *crew = (struct crew){0};
        pthread_mutex_init(&crew->mutex, NULL);
        pthread_cond_init(&crew->wanted, NULL);
        pthread_cond_init(&crew->finished, NULL);
        for (; crew->n_threads < n_threads; crew->n_threads++) {
                int r = pthread_create(&crew->threads[crew->n_threads], NULL, help, crew);

                if (r) {
                        crew_close(crew);
                        return -r;
                }
        }
        return 0;
}

void crew_close(struct crew *crew)
{
        pthread_mutex_lock(&crew->mutex);
        crew->is_over = true;
        __atomic_store_n(&crew->turn, crew->turn + 1, __ATOMIC_RELAXED);
        pthread_cond_broadcast(&crew->wanted);
        pthread_mutex_unlock(&crew->mutex);
        for (; crew->n_threads > 0; crew->n_threads--)
                pthread_join(crew->threads[crew->n_threads - 1], NULL);
        pthread_cond_destroy(&crew->finished);
        pthread_cond_destroy(&crew->wanted);
        pthread_mutex_destroy(&crew->mutex);
}

/* Wait for those that others began. Returns for how long, in nanoseconds. */
static int64_t wait_for_all(struct crew *crew)
{
        int64_t begun = now_ns();

        while (__atomic_load_n(&crew->under_way, __ATOMIC_ACQUIRE) && now_ns() - begun < LOOK_OUT_NS)
                __builtin_ia32_pause();
        pthread_mutex_lock(&crew->mutex);
        while (crew->under_way)
                pthread_cond_wait(&crew->finished, &crew->mutex);
        pthread_mutex_unlock(&crew->mutex);
        return now_ns() - begun;
}

static void do_together(struct crew *crew, const struct crew_work *work)
{
        pthread_mutex_lock(&crew->mutex);
        crew->work = *work;
        crew->next = 0;
        __atomic_store_n(&crew->turn, crew->turn + 1, __ATOMIC_RELAXED);
        pthread_cond_broadcast(&crew->wanted);
        do_pieces(crew);
        pthread_mutex_unlock(&crew->mutex);
        if (wait_for_all(crew) > LATE_NS)
                crew->doubt += crew->doubt < DOUBT_MAX;
        else
                crew->doubt -= crew->doubt > 0;
        crew->skips = (1U << crew->doubt) - 1;
}

unsigned crew_helpers(const struct crew *crew)
{
        return crew && crew->skips == 0 ? crew->n_threads : 0;
}

void crew_do(struct crew *crew, const struct crew_work *work)
{
        if (crew_helpers(crew) > 0 && work->count > 1) {
                do_together(crew, work);
                return;
        }
        if (crew)
                crew->skips -= crew->skips > 0;
        for (size_t i = 0; i < work->count; i++)
                work->piece(work->data, i);
}
