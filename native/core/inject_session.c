#define _GNU_SOURCE
#include "inject_session.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "deadline.h"
#include "json_scan.h"

int inject_session_fail(struct inject_session *session, enum inject_status status, const char *text)
{
        session->status = status;
        snprintf(session->text, sizeof(session->text), "%s", text);
        return -EPROTO;
}

static int fail_errno(struct inject_session *session, const char *what, int error)
{
        char text[160];

        if (error == -EPROTO)
                return inject_session_fail(session, INJECT_PROTOCOL_ERROR, session->link->text);
        if (error == -ECONNRESET || error == -EPIPE)
                return inject_session_fail(session, INJECT_PEER_CLOSED, "the guest closed the connection");
        snprintf(text, sizeof(text), "%s: %s", what, strerrordesc_np(-error));
        return inject_session_fail(session, INJECT_PROTOCOL_ERROR, text);
}

static int send_prepare(struct inject_session *session)
{
        int r = message_link_send(session->link, session->prepare, session->prepare_length);

        return r < 0 ? inject_session_fail(session, INJECT_PROTOCOL_ERROR, "PREPARE is empty or over 4 MiB") : 0;
}

void inject_session_start(struct inject_session *session, struct message_link *link, const void *prepare, size_t prepare_length,
                          bool is_pipelined)
{
        memset(session, 0, sizeof(*session));
        session->link = link;
        session->prepare = prepare;
        session->prepare_length = prepare_length;
        if (prepare && is_pipelined && send_prepare(session) == 0)
                session->prepare_length = 0; /* it is on its way */
}

static int on_capabilities(struct inject_session *session, struct json body)
{
        if (!json_member_is(body, "protocol_version", "1"))
                return inject_session_fail(session, INJECT_PROTOCOL_ERROR, "the guest speaks another version of the inject protocol");
        if (!session->prepare) {
                session->phase = INJECT_READY;
                session->ready_ns = now_ns();
                return 0;
        }
        session->phase = INJECT_PREPARE;
        return session->prepare_length ? send_prepare(session) : 0;
}

static int on_reject(struct inject_session *session, struct json body)
{
        struct json value;

        if (json_find(body, "reason", &value) == 0)
                json_text(value, session->reason, sizeof(session->reason));
        inject_session_fail(session, INJECT_REJECTED, "");
        if (json_find(body, "message", &value) == 0)
                json_text(value, session->text, sizeof(session->text));
        return -EPROTO;
}

static int on_message(struct inject_session *session, const char *text, size_t length)
{
        char why[160], type[32] = "";
        struct json body, value;

        if (json_parse(text, length, &body) < 0 || json_find(body, "type", &value) < 0)
                return inject_session_fail(session, INJECT_PROTOCOL_ERROR, "the guest sent a message that is no JSON object with a type");
        json_text(value, type, sizeof(type));
        if (session->phase == INJECT_CAPABILITIES && strcmp(type, "CAPABILITIES") == 0)
                return on_capabilities(session, body);
        if (session->phase == INJECT_PREPARE && strcmp(type, "REJECT") == 0)
                return on_reject(session, body);
        if (session->phase == INJECT_PREPARE && strcmp(type, "READY") == 0) {
                session->phase = INJECT_READY;
                session->ready_ns = now_ns();
                return 0;
        }
        if (session->phase == INJECT_COMMIT && strcmp(type, "STARTED") == 0) {
                session->phase = INJECT_STARTED;
                session->status = INJECT_OK;
                session->started_ns = now_ns();
                return 0;
        }
        snprintf(why, sizeof(why), "the guest sent %s out of turn", type);
        return inject_session_fail(session, INJECT_PROTOCOL_ERROR, why);
}

int inject_session_receive(struct inject_session *session)
{
        while (session->status == INJECT_PENDING) {
                const char *body = NULL;
                ssize_t n = message_link_next(session->link, &body);

                if (n >= 0) {
                        n = on_message(session, body, (size_t)n);
                        if (n < 0)
                                return (int)n;
                        continue;
                }
                if (n == -EAGAIN) {
                        n = message_link_fill(session->link);
                        if (n == 0)
                                return 0;
                }
                if (n < 0)
                        return fail_errno(session, "cannot read from the guest", (int)n);
        }
        return session->status == INJECT_OK ? 0 : -EPROTO;
}

int inject_session_flush(struct inject_session *session)
{
        int r = message_link_flush(session->link);

        if (r < 0)
                return fail_errno(session, "cannot write to the guest", r);
        return 0;
}

int inject_session_commit(struct inject_session *session, bool with_clock)
{
        struct timespec wall;
        int n, r;

        clock_gettime(CLOCK_REALTIME, &wall);
        if (with_clock)
                n = snprintf(session->commit, sizeof(session->commit),
                             "{\"type\":\"COMMIT\",\"wall_clock_ns\":%" PRId64 ",\"held_ns\":%" PRId64 "}",
                             (int64_t)wall.tv_sec * NS_PER_S + wall.tv_nsec, now_ns() - session->ready_ns);
        else
                n = snprintf(session->commit, sizeof(session->commit), "{\"type\":\"COMMIT\"}");
        r = message_link_send(session->link, session->commit, (size_t)n);
        if (r < 0)
                return inject_session_fail(session, INJECT_PROTOCOL_ERROR, "the guest said READY before it had all of PREPARE");
        session->phase = INJECT_COMMIT;
        return inject_session_flush(session);
}

void inject_session_cancel(struct inject_session *session)
{
        static const char cancel[] = "{\"type\":\"CANCEL\",\"reason\":\"rollback\"}";

        if (session->phase >= INJECT_COMMIT)
                return;
        if (message_link_send(session->link, cancel, sizeof(cancel) - 1) == 0)
                message_link_flush(session->link);
}
