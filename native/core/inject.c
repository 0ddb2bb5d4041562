#define _GNU_SOURCE
#include "inject.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deadline.h"

struct round {
        size_t n;
        const struct inject_target *targets;
        struct inject_session *sessions;
        struct message_link *links[INJECT_MAX_TARGETS];
};

static void round_close(struct round *round)
{
        for (size_t i = 0; i < round->n; i++)
                message_link_free(round->links[i]);
        free(round->sessions);
}

static int round_open(struct round *round, const struct inject_target *targets, size_t n)
{
        *round = (struct round){ .n = n, .targets = targets };
        round->sessions = calloc(n + 1, sizeof(*round->sessions));
        if (!round->sessions)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                const struct inject_target *target = &targets[i];

                round->links[i] = message_link_new();
                if (!round->links[i])
                        return -ENOMEM;
                if (target->is_mux)
                        message_link_start_mux(round->links[i], target->fd, target->epoch, "inject");
                else
                        message_link_start_raw(round->links[i], target->fd);
                inject_session_start(&round->sessions[i], round->links[i], target->prepare, target->prepare_length, false);
                if (target->fd < 0)
                        inject_session_fail(&round->sessions[i], INJECT_CONNECT_FAILED, "there is no connection to the guest");
        }
        return 0;
}

/* Count the sessions that are neither at @goal nor failed. */
static size_t count_waiting(const struct round *round, enum inject_phase goal)
{
        size_t waiting = 0;

        for (size_t i = 0; i < round->n; i++)
                waiting += round->sessions[i].status == INJECT_PENDING && round->sessions[i].phase < goal;
        return waiting;
}

static bool has_failed(const struct round *round)
{
        for (size_t i = 0; i < round->n; i++)
                if (round->sessions[i].status > INJECT_OK)
                        return true;
        return false;
}

/* Wait once and serve everybody who is ready. Sessions record their own failures. */
static int round_step(struct round *round, const struct limits *lim)
{
        struct pollfd fds[INJECT_MAX_TARGETS + 1];
        int r;

        for (size_t i = 0; i < round->n; i++) {
                bool pending = round->sessions[i].status == INJECT_PENDING;

                fds[i] = (struct pollfd){ .fd = pending ? round->targets[i].fd : -1, .events = message_link_events(round->links[i]) };
        }
        r = limits_poll(lim, fds, round->n, INT64_MAX);
        if (r < 0)
                return r;
        for (size_t i = 0; i < round->n; i++)
                if (fds[i].revents && inject_session_receive(&round->sessions[i]) == 0)
                        inject_session_flush(&round->sessions[i]);
        return 0;
}

/* Bring everybody to @goal. With @is_fragile the first failure ends it.
 * Returns 0 or the error of the wait. */
static int bring_to(struct round *round, enum inject_phase goal, bool is_fragile, const struct limits *lim)
{
        int r = 0;

        while (r == 0 && count_waiting(round, goal) > 0 && !(is_fragile && has_failed(round)))
                r = round_step(round, lim);
        return r;
}

/* End whoever is still pending, before COMMIT: those that hold are told. */
static void roll_back(struct round *round, int error)
{
        for (size_t i = 0; i < round->n; i++) {
                struct inject_session *session = &round->sessions[i];

                if (session->status != INJECT_PENDING)
                        continue;
                if (session->phase == INJECT_READY)
                        inject_session_cancel(session);
                if (error == -ETIMEDOUT && session->phase < INJECT_READY)
                        inject_session_fail(session, INJECT_TIMEOUT_PREPARE, "the guest did not say READY in time");
                else
                        inject_session_fail(session, INJECT_CANCELLED, error ? strerrordesc_np(-error) : "another guest failed");
        }
}

/* End whoever has not started, after COMMIT: nothing may be sent. */
static void give_up(struct round *round, int error)
{
        for (size_t i = 0; i < round->n; i++) {
                if (round->sessions[i].status != INJECT_PENDING)
                        continue;
                if (error == -ECANCELED)
                        inject_session_fail(&round->sessions[i], INJECT_CANCELLED, "cancelled after COMMIT");
                else
                        inject_session_fail(&round->sessions[i], INJECT_TIMEOUT_COMMIT, "the guest did not say STARTED in time");
        }
}

static void run_phases(struct round *round, const struct limits *prepare, const struct limits *commit)
{
        int r = 0;

        for (size_t i = 0; i < round->n; i++)
                if (round->sessions[i].status == INJECT_PENDING)
                        inject_session_flush(&round->sessions[i]);
        r = bring_to(round, INJECT_READY, true, prepare);
        if (r < 0 || has_failed(round)) {
                roll_back(round, r);
                return;
        }
        for (size_t i = 0; i < round->n; i++)
                inject_session_commit(&round->sessions[i], round->targets[i].with_clock);
        r = bring_to(round, INJECT_STARTED, false, commit);
        if (r < 0)
                give_up(round, r);
}

static void report(const struct round *round, struct inject_result *results)
{
        for (size_t i = 0; i < round->n; i++) {
                const struct inject_session *session = &round->sessions[i];
                struct inject_result *result = &results[i];

                result->status = session->status;
                result->phase = session->phase;
                result->ready_ns = session->ready_ns;
                result->started_ns = session->started_ns;
                memcpy(result->reason, session->reason, sizeof(result->reason));
                memcpy(result->text, session->text, sizeof(result->text));
        }
}

int inject_run(const struct inject_target *targets, size_t n, int64_t prepare_deadline_ns, int64_t commit_deadline_ns, int cancel_fd,
               struct inject_result *results)
{
        const struct limits prepare = { prepare_deadline_ns, cancel_fd }, commit = { commit_deadline_ns, cancel_fd };
        struct round round;
        int r;

        if (n > INJECT_MAX_TARGETS)
                return -EINVAL;
        r = round_open(&round, targets, n);
        if (r == 0) {
                run_phases(&round, &prepare, &commit);
                report(&round, results);
        }
        round_close(&round);
        return r;
}
