#define _GNU_SOURCE
#include "checkpoint.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "qmp.h"

#define FIRST_ID INT64_C(0x736e6170) /* away from the small numbers of other users of the monitor */

struct checkpoint {
        struct line_client *client;
        const struct limits *lim;
        struct checkpoint_failure *failure;
        int64_t next_id;
        bool is_completed, is_failed; /* from MIGRATION events */
};

static void on_event(const struct qmp_message *message, void *context)
{
        struct checkpoint *c = context;

        if (strcmp(message->event, "MIGRATION") != 0)
                return;
        c->is_completed |= strcmp(message->status, "completed") == 0;
        c->is_failed |= strcmp(message->status, "failed") == 0;
}

static int fail(struct checkpoint *c, int code, const char *what, const char *why)
{
        c->failure->code = code;
        snprintf(c->failure->text, sizeof(c->failure->text), "%s: %s", what, why);
        return -1;
}

static int fail_errno(struct checkpoint *c, int code, const char *what, const struct qmp_failure *refusal)
{
        if (code == -EREMOTEIO)
                return fail(c, code, "the VMM refused", refusal->text);
        if (code == -ETIMEDOUT)
                return fail(c, code, what, "the deadline passed");
        return fail(c, code, what, strerrordesc_np(-code));
}

static int execute(struct checkpoint *c, const char *command, const char *arguments, int pass_fd)
{
        struct qmp_failure refusal;
        int r = qmp_execute(c->client, command, arguments, c->next_id++, pass_fd, c->lim, on_event, c, &refusal, NULL);

        return r < 0 ? fail_errno(c, r, command, &refusal) : 0;
}

static int negotiate(struct checkpoint *c)
{
        struct qmp_failure refusal;
        int r = qmp_negotiate(c->client, c->lim, &refusal);

        return r < 0 ? fail_errno(c, r, "negotiate with the monitor", &refusal) : 0;
}

static int configure(struct checkpoint *c, int state_fd)
{
        static const char capabilities[] = "{\"capabilities\":[{\"capability\":\"x-ignore-shared\",\"state\":true},"
                                           "{\"capability\":\"events\",\"state\":true}]}";

        if (execute(c, "migrate-set-capabilities", capabilities, -1) < 0 ||
            execute(c, "migrate-set-parameters", "{\"max-bandwidth\":1099511627776}", -1) < 0)
                return -1;
        return execute(c, "getfd", "{\"fdname\":\"state\"}", state_fd);
}

/* Ask why the migration failed. */
static int explain(struct checkpoint *c)
{
        struct qmp_failure refusal;
        struct qmp_message message;
        char why[400] = "the VMM gave no reason";
        struct json value;
        int r = qmp_execute(c->client, "query-migrate", NULL, c->next_id++, -1, c->lim, NULL, NULL, &refusal, &message);

        if (r == 0 && json_find(message.body, "return.error-desc", &value) == 0)
                json_text(value, why, sizeof(why));
        return fail(c, -EREMOTEIO, "writing the device state failed", why);
}

static int migrate(struct checkpoint *c)
{
        struct qmp_message message;

        if (execute(c, "migrate", "{\"uri\":\"fd:state\"}", -1) < 0)
                return -1;
        while (!c->is_completed && !c->is_failed) {
                int r = qmp_next_event(c->client, c->lim, &message);

                if (r < 0)
                        return fail_errno(c, r, "wait for the device state to be written", NULL);
                on_event(&message, c);
        }
        return c->is_failed ? explain(c) : 0;
}

int checkpoint_run(struct line_client *client, bool is_negotiated, int state_fd, const struct limits *lim,
                   struct checkpoint_failure *ret_failure, struct checkpoint_times *ret_times)
{
        struct checkpoint c = { .client = client, .lim = lim, .failure = ret_failure, .next_id = FIRST_ID };
        struct checkpoint_times times = { .begun_ns = now_ns() };

        if (!is_negotiated && negotiate(&c) < 0)
                return -1;
        times.negotiated_ns = now_ns();
        if (execute(&c, "stop", NULL, -1) < 0)
                return -1;
        times.stopped_ns = now_ns();
        if (configure(&c, state_fd) < 0)
                return -1;
        times.configured_ns = now_ns();
        if (migrate(&c) < 0)
                return -1;
        times.migrated_ns = now_ns();
        *ret_times = times;
        return 0;
}
