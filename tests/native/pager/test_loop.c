/* The loop and its reader threads: order, removal while events are told, nothing left behind. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "check.h"
#include "deadline.h"
#include "fdutil.h"
#include "loop.h"
#include "reader.h"

struct probe {
        struct source source;
        struct idler idler;
        struct timer timer;
        struct grave grave;
        struct loop *loop;
        struct probe *victim; /* removed when this one is told */
        int told, steps, steps_wanted, fired, buried;
        char *log; /* a letter is written at each step */
        char letter;
};

static void told(struct source *source, uint32_t events)
{
        struct probe *probe = container_of(source, struct probe, source);
        uint64_t count;

        CHECK(events & EPOLLIN);
        CHECK_EQ(read(source->fd, &count, sizeof(count)), sizeof(count));
        probe->told++;
        if (probe->victim)
                loop_remove(probe->loop, &probe->victim->source);
        probe->loop->is_over = true;
}

static bool step(struct idler *idler)
{
        struct probe *probe = container_of(idler, struct probe, idler);

        *probe->log++ = probe->letter;
        return ++probe->steps < probe->steps_wanted;
}

static void fired(struct timer *timer)
{
        struct probe *probe = container_of(timer, struct probe, timer);

        probe->fired++;
        probe->loop->is_over = true;
}

static struct probe make_probe(struct loop *loop)
{
        struct probe probe = {.loop = loop, .idler.step = step, .timer.due = fired};

        probe.source = (struct source){.ready = told, .fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK)};
        CHECK(probe.source.fd >= 0);
        return probe;
}

static void test_a_source_removed_in_the_same_round_is_told_nothing(void)
{
        struct loop loop;

        CHECK_EQ(loop_open(&loop), 0);
        struct probe one = make_probe(&loop), other = make_probe(&loop);
        one.victim = &other;
        other.victim = &one;
        CHECK_EQ(loop_add(&loop, &one.source, EPOLLIN), 0);
        CHECK_EQ(loop_add(&loop, &other.source, EPOLLIN), 0);
        CHECK_EQ(loop_run(&loop), 0);
        CHECK_EQ(one.told + other.told, 1);
        close_fd(one.source.fd);
        close_fd(other.source.fd);
        loop_close(&loop);
}

static void test_who_came_first_is_finished_first(void)
{
        char log[16] = "";
        struct loop loop;

        CHECK_EQ(loop_open(&loop), 0);
        struct probe one = make_probe(&loop), other = make_probe(&loop);
        one.steps_wanted = other.steps_wanted = 3;
        one.letter = 'a';
        other.letter = 'b';
        /* Both write behind each other: the log is shared. */
        one.log = log;
        other.log = log + 3;
        loop_busy(&loop, &one.idler);
        loop_busy(&loop, &other.idler);
        loop_busy(&loop, &one.idler);
        loop_set(&loop, &one.timer, now_ns() + 5000000);
        CHECK_EQ(loop_run(&loop), 0);
        CHECK(strcmp(log, "aaabbb") == 0);
        CHECK(!one.idler.is_waiting && !other.idler.is_waiting);
        close_fd(one.source.fd);
        close_fd(other.source.fd);
        loop_close(&loop);
}

static void test_an_idler_can_be_taken_back(void)
{
        char log[4] = "";
        struct loop loop;

        CHECK_EQ(loop_open(&loop), 0);
        struct probe one = make_probe(&loop);
        one.log = log;
        loop_busy(&loop, &one.idler);
        loop_idle(&loop, &one.idler);
        loop_idle(&loop, &one.idler);
        loop_set(&loop, &one.timer, 0);
        CHECK_EQ(loop_run(&loop), 0);
        CHECK_EQ(one.steps, 0);
        CHECK_EQ(one.fired, 1);
        close_fd(one.source.fd);
        loop_close(&loop);
}

static void test_a_timer_that_was_unset_is_not_due(void)
{
        struct loop loop;

        CHECK_EQ(loop_open(&loop), 0);
        struct probe one = make_probe(&loop), other = make_probe(&loop);
        loop_set(&loop, &one.timer, 1);
        loop_set(&loop, &other.timer, 2);
        loop_set(&loop, &other.timer, 3);
        loop_unset(&loop, &one.timer);
        loop_unset(&loop, &one.timer);
        CHECK_EQ(loop_run(&loop), 0);
        CHECK_EQ(one.fired, 0);
        CHECK_EQ(other.fired, 1);
        close_fd(one.source.fd);
        close_fd(other.source.fd);
        loop_close(&loop);
}

struct work {
        struct job job;
        struct loop *loop;
        int *left;
        int done;
        uint64_t result;
};

static void work(struct job *job)
{
        struct work *one = container_of(job, struct work, job);

        for (int i = 0; i < 1000; i++)
                one->result += (uint64_t)i;
}

static void done(struct job *job)
{
        struct work *one = container_of(job, struct work, job);

        one->done++;
        if (--*one->left == 0)
                one->loop->is_over = true;
}

#define JOBS 500

static void submit_all(struct work *works, struct reader *reader, struct loop *loop, int *left)
{
        for (int i = 0; i < JOBS; i++) {
                works[i] = (struct work){.job = {.work = work, .done = done}, .loop = loop, .left = left};
                reader_submit(reader, &works[i].job);
        }
}

static void check_all(const struct work *works)
{
        for (int i = 0; i < JOBS; i++) {
                CHECK_EQ(works[i].done, 1);
                CHECK_EQ(works[i].result, 499500);
        }
}

static void test_every_job_is_done_once(void)
{
        static struct work works[JOBS];
        struct reader reader;
        struct loop loop;
        int left = JOBS;

        CHECK_EQ(loop_open(&loop), 0);
        CHECK_EQ(reader_open(&reader, &loop, 3), 0);
        submit_all(works, &reader, &loop, &left);
        CHECK_EQ(loop_run(&loop), 0);
        check_all(works);
        reader_close(&reader);
        loop_close(&loop);
}

static void test_closing_waits_for_the_jobs_and_tells_of_them(void)
{
        static struct work works[JOBS];
        struct reader reader;
        struct loop loop;
        int left = JOBS;

        CHECK_EQ(loop_open(&loop), 0);
        CHECK_EQ(reader_open(&reader, &loop, 2), 0);
        submit_all(works, &reader, &loop, &left);
        reader_close(&reader);
        check_all(works);
        loop_close(&loop);
}

/* Sleep once, having looked out for @lookout's owner. */
static void sleep_after(struct loop *loop, struct lookout *lookout)
{
        struct timer timer = {.due = fired};
        struct probe probe = {.loop = loop, .timer = timer};

        loop->is_over = false;
        loop_set(loop, &probe.timer, now_ns() + 1000000);
        loop_linger(loop, lookout);
        CHECK_EQ(loop_run(loop), 0);
}

static void test_looking_out_in_vain_is_done_less_for_that_one_only(void)
{
        struct lookout vain = {0}, other = {0};
        struct loop loop;

        CHECK_EQ(loop_open(&loop), 0);
        sleep_after(&loop, &vain);
        CHECK_EQ(vain.doubt, 2);
        CHECK_EQ(vain.skips, 3);
        for (int i = 0; i < 3; i++)
                sleep_after(&loop, &vain);
        CHECK_EQ(vain.doubt, 2);
        CHECK_EQ(vain.skips, 0);
        sleep_after(&loop, &vain);
        CHECK_EQ(vain.doubt, 4);
        CHECK_EQ(other.doubt, 0);
        loop_close(&loop);
}

static void test_who_is_no_more_is_not_looked_out_for(void)
{
        struct lookout gone = {0}, other = {0};
        struct loop loop;

        CHECK_EQ(loop_open(&loop), 0);
        loop_linger(&loop, &gone);
        loop_look_away(&loop, &other);
        CHECK(loop.lookout == &gone);
        loop_look_away(&loop, &gone);
        CHECK(loop.lookout == NULL);
        loop_close(&loop);
}

int main(void)
{
        int fds = count_fds();

        test_a_source_removed_in_the_same_round_is_told_nothing();
        test_who_came_first_is_finished_first();
        test_an_idler_can_be_taken_back();
        test_a_timer_that_was_unset_is_not_due();
        test_every_job_is_done_once();
        test_closing_waits_for_the_jobs_and_tells_of_them();
        test_looking_out_in_vain_is_done_less_for_that_one_only();
        test_who_is_no_more_is_not_looked_out_for();
        CHECK_EQ(count_fds(), fds);
        return 0;
}
