/* The crew: every piece is done once, all of them before the caller goes on, with any number of threads. */
#define _GNU_SOURCE
#include <stdint.h>
#include <time.h>

#include "check.h"
#include "crew.h"
#include "journal.h"

#define PIECES 300

struct job {
        unsigned done[PIECES];
        uint64_t bits[PIECES * 3 / 64 + 2];
        pthread_t caller;
        unsigned by_others;
        long caller_ns, others_ns; /* how long a piece takes them */
};

static void piece(void *data, size_t i)
{
        struct job *job = data;
        bool is_caller = pthread_equal(pthread_self(), job->caller);
        struct timespec pause = {.tv_nsec = is_caller ? job->caller_ns : job->others_ns};

        __atomic_fetch_add(&job->done[i], 1, __ATOMIC_RELAXED);
        journal_mark_together(job->bits, 3 * i, 3 * i + 3);
        if (!is_caller)
                __atomic_fetch_add(&job->by_others, 1, __ATOMIC_RELAXED);
        if (pause.tv_nsec)
                nanosleep(&pause, NULL);
}

static void do_all(struct crew *crew, struct job *job, size_t count)
{
        struct crew_work work = {.piece = piece, .data = job, .count = count};

        crew_do(crew, &work);
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

        CHECK_EQ(crew_open(&crew, n_threads), 0);
        for (int turn = 0; turn < 200; turn++)
                for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
                        struct job job = {.caller = pthread_self()};

                        do_all(&crew, &job, counts[i]);
                        check_once(&job, counts[i]);
                }
        crew_close(&crew);
}

static void test_no_crew_does_it_alone(void)
{
        struct job job = {.caller = pthread_self()};

        do_all(NULL, &job, PIECES);
        check_once(&job, PIECES);
        CHECK_EQ(job.by_others, 0);
        CHECK_EQ(crew_helpers(NULL), 0);
}

static void test_others_help(void)
{
        struct crew crew;
        unsigned helped = 0;

        CHECK_EQ(crew_open(&crew, 2), 0);
        for (int turn = 0; turn < 50 && !helped; turn++) {
                struct job job = {.caller = pthread_self(), .caller_ns = 1000000};

                do_all(&crew, &job, 10);
                helped = job.by_others;
        }
        CHECK(helped > 0);
        crew_close(&crew);
}

/* Pieces that others hold up are not shared for a while, and then tried again. */
static void test_who_comes_late_is_asked_less(void)
{
        struct crew crew;
        unsigned alone = 0, asked_again = 0;

        CHECK_EQ(crew_open(&crew, 1), 0);
        for (int turn = 0; turn < 300; turn++) {
                struct job job = {.caller = pthread_self(), .caller_ns = 100000, .others_ns = 1000000};

                if (crew_helpers(&crew) == 0)
                        alone++;
                else if (alone)
                        asked_again++;
                do_all(&crew, &job, 2);
                check_once(&job, 2);
        }
        CHECK(alone > 0);
        CHECK(asked_again > 0);
        crew_close(&crew);
}

static void test_closing_one_that_sleeps_or_looks_out_ends_its_threads(void)
{
        for (int turn = 0; turn < 50; turn++) {
                struct crew crew;
                struct job job = {.caller = pthread_self()};

                CHECK_EQ(crew_open(&crew, CREW_MAX), 0);
                if (turn % 2)
                        do_all(&crew, &job, PIECES);
                crew_close(&crew);
                CHECK_EQ(crew.n_threads, 0);
        }
}

int main(void)
{
        CHECK(crew_size() <= CREW_MAX);
        for (unsigned n = 0; n <= CREW_MAX; n++)
                test_every_piece_is_done_once(n);
        test_no_crew_does_it_alone();
        test_others_help();
        test_who_comes_late_is_asked_less();
        test_closing_one_that_sleeps_or_looks_out_ends_its_threads();
        return 0;
}
