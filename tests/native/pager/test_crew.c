/* The crew: every piece is done once, with any number of threads; nobody waits for a late one but to have its work
 * back. */
#define _GNU_SOURCE
#include <stdint.h>
#include <time.h>

#include "check.h"
#include "crew.h"
#include "journal.h"

#define PIECES 300

struct job {
        struct crew_work work;
        unsigned done[PIECES];
        uint64_t bits[PIECES * 3 / 64 + 2];
        pthread_t caller;
        unsigned by_others, told;
        bool is_held; /* others do not get on with their pieces */
};

static struct loop loop;

static void pause_a_moment(void)
{
        struct timespec moment = {.tv_nsec = 1000000};

        nanosleep(&moment, NULL);
}

static void piece(struct crew_work *work, size_t i)
{
        struct job *job = container_of(work, struct job, work);

        __atomic_fetch_add(&job->done[i], 1, __ATOMIC_RELAXED);
        journal_mark_together(job->bits, 3 * i, 3 * i + 3);
        if (pthread_equal(pthread_self(), job->caller))
                return;
        __atomic_fetch_add(&job->by_others, 1, __ATOMIC_RELAXED);
        while (__atomic_load_n(&job->is_held, __ATOMIC_RELAXED))
                pause_a_moment();
}

static void done(struct crew_work *work)
{
        container_of(work, struct job, work)->told++;
        loop.is_over = true;
}

static struct job make_job(size_t count)
{
        return (struct job){.work = {.piece = piece, .done = done, .end = count}, .caller = pthread_self()};
}

/* Do what nobody else has begun. */
static enum crew_taken do_mine(struct crew *crew, struct job *job)
{
        enum crew_taken taken;
        size_t i;

        while ((taken = crew_take(crew, &job->work, &i)) == CREW_PIECE)
                piece(&job->work, i);
        return taken;
}

static void await_done(void)
{
        loop.is_over = false;
        CHECK_EQ(loop_run(&loop), 0);
}

static void do_all(struct crew *crew, struct job *job)
{
        crew_offer(crew, &job->work);
        if (do_mine(crew, job) == CREW_AWAITED)
                await_done();
}

static void check_once(const struct job *job, size_t count)
{
        for (size_t i = 0; i < PIECES; i++)
                CHECK_EQ(job->done[i], i < count);
        for (size_t page = 0; page < 3 * PIECES; page++)
                CHECK_EQ(journal_has(job->bits, page), page < 3 * count);
}

static void test_every_piece_is_done_once(unsigned n_threads)
{
        static const size_t counts[] = {0, 1, 2, 3, 64, PIECES};
        struct crew crew;

        CHECK_EQ(crew_open(&crew, &loop, n_threads), 0);
        for (int turn = 0; turn < 200; turn++)
                for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
                        struct job job = make_job(counts[i]);

                        do_all(&crew, &job);
                        check_once(&job, counts[i]);
                        CHECK(job.told <= 1);
                }
        crew_close(&crew);
}

static void test_no_crew_leaves_all_to_the_caller(void)
{
        struct job job = make_job(PIECES);
        struct crew crew;

        CHECK_EQ(crew_open(&crew, &loop, 0), 0);
        crew_offer(&crew, &job.work);
        CHECK_EQ(do_mine(&crew, &job), CREW_DONE);
        check_once(&job, PIECES);
        crew_close(&crew);
}

/* Let the crew's one thread begin a piece, and hold it there. */
static void offer_held(struct crew *crew, struct job *job)
{
        job->is_held = true;
        crew_offer(crew, &job->work);
        while (__atomic_load_n(&job->by_others, __ATOMIC_RELAXED) == 0)
                pause_a_moment();
}

static void let_go(struct job *job)
{
        __atomic_store_n(&job->is_held, false, __ATOMIC_RELAXED);
}

static void test_a_late_piece_holds_up_no_other_and_is_told_of(void)
{
        struct job late = make_job(10), other = make_job(PIECES);
        struct crew crew;

        CHECK_EQ(crew_open(&crew, &loop, 1), 0);
        offer_held(&crew, &late);
        CHECK_EQ(do_mine(&crew, &late), CREW_AWAITED);
        crew_offer(&crew, &other.work);
        CHECK_EQ(do_mine(&crew, &other), CREW_DONE);
        check_once(&other, PIECES);
        CHECK_EQ(late.told, 0);
        let_go(&late);
        await_done();
        CHECK_EQ(late.told, 1);
        check_once(&late, 10);
        crew_close(&crew);
}

static void test_what_is_taken_back_was_done_or_not_begun(void)
{
        struct job job = make_job(PIECES);
        struct crew crew;

        CHECK_EQ(crew_open(&crew, &loop, CREW_MAX), 0);
        crew_take_back(&crew, &job.work);
        for (int turn = 0; turn < 20; turn++) {
                size_t i;

                crew_offer(&crew, &job.work);
                if (crew_take(&crew, &job.work, &i) == CREW_PIECE)
                        piece(&job.work, i);
                crew_take_back(&crew, &job.work);
                for (size_t at = 0; at < PIECES; at++)
                        CHECK_EQ(job.done[at], at < job.work.first || at >= job.work.end);
        }
        do_all(&crew, &job);
        check_once(&job, PIECES);
        crew_close(&crew);
}

static void test_what_is_taken_back_is_not_told_of(void)
{
        struct job job = make_job(2), next = make_job(2);
        struct crew crew;

        CHECK_EQ(crew_open(&crew, &loop, 1), 0);
        offer_held(&crew, &job);
        CHECK_EQ(do_mine(&crew, &job), CREW_AWAITED);
        let_go(&job);
        crew_take_back(&crew, &job.work);
        check_once(&job, 2);
        offer_held(&crew, &next);
        CHECK_EQ(do_mine(&crew, &next), CREW_AWAITED);
        let_go(&next);
        await_done();
        CHECK_EQ(next.told, 1);
        CHECK_EQ(job.told, 0);
        crew_close(&crew);
}

static void test_closing_one_that_sleeps_or_looks_out_ends_its_threads(void)
{
        for (int turn = 0; turn < 50; turn++) {
                struct job job = make_job(PIECES);
                struct crew crew;

                CHECK_EQ(crew_open(&crew, &loop, CREW_MAX), 0);
                if (turn % 2)
                        do_all(&crew, &job);
                crew_close(&crew);
                CHECK_EQ(crew.n_threads, 0);
                crew_close(&crew);
        }
}

int main(void)
{
        CHECK_EQ(loop_open(&loop), 0);
        CHECK(crew_size() <= CREW_MAX);
        for (unsigned n = 0; n <= CREW_MAX; n++)
                test_every_piece_is_done_once(n);
        test_no_crew_leaves_all_to_the_caller();
        test_a_late_piece_holds_up_no_other_and_is_told_of();
        test_what_is_taken_back_was_done_or_not_begun();
        test_what_is_taken_back_is_not_told_of();
        test_closing_one_that_sleeps_or_looks_out_ends_its_threads();
        loop_close(&loop);
        return 0;
}
