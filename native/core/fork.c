#define _GNU_SOURCE
#include "fork.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "fdutil.h"
#include "inject_session.h"
#include "qmp.h"

#define QMP_MAX_RECEIVED (4U * 1024 * 1024)
#define HANGUP_GRACE_NS (500 * INT64_C(1000000)) /* between a hang-up and the exit that explains it */

struct fork_call {
        const struct fork_request *request;
        const struct limits *lim;
        struct fork_failure *failure;
        struct spawn_result process;
        struct fork_times times;
        struct line_client qmp;
        size_t qmp_received;
        unsigned replies_left;
        int64_t hangup_ns; /* when the first of the sockets hung up, else 0 */
        bool qmp_hung, channel_hung;
        struct message_link *link;
        struct inject_session session;
};

const char *fork_stage_text(enum fork_stage stage)
{
        switch (stage) {
        case FORK_SPAWN:
                return "the VMM process";
        case FORK_MONITOR:
                return "the monitor's greeting";
        case FORK_LOAD:
                return "the device state to be loaded";
        case FORK_RESUME:
                return "the guest to be resumed";
        case FORK_GUEST:
                return "the guest to answer on its channel";
        case FORK_PREPARE:
                return "the guest to say READY";
        case FORK_START:
                return "the guest to say STARTED";
        }
        return "the fork";
}

static enum fork_stage stage_of(const struct fork_call *call)
{
        const struct fork_times *t = &call->times;

        if (!t->spawned_ns)
                return FORK_SPAWN;
        if (!t->monitor_ns)
                return FORK_MONITOR;
        if (!t->loaded_ns)
                return FORK_LOAD;
        if (!t->resumed_ns)
                return FORK_RESUME;
        if (!t->guest_ns)
                return FORK_GUEST;
        return t->prepared_ns ? FORK_START : FORK_PREPARE;
}

static int fail(struct fork_call *call, enum fork_kind kind, int code, const char *text)
{
        call->failure->stage = stage_of(call);
        call->failure->kind = kind;
        call->failure->code = code;
        snprintf(call->failure->text, sizeof(call->failure->text), "%s", text);
        return -1;
}

static int fail_system(struct fork_call *call, const char *what, int code)
{
        char text[160];

        snprintf(text, sizeof(text), "%s: %s", what, strerrordesc_np(-code));
        return fail(call, FORK_SYSTEM, code, text);
}

static int fail_limit(struct fork_call *call, int code)
{
        char text[160];

        if (code == -ECANCELED)
                return fail(call, FORK_CANCELLED, 0, "cancelled by the caller");
        if (code != -ETIMEDOUT)
                return fail_system(call, "cannot wait", code);
        snprintf(text, sizeof(text), "the deadline passed while waiting for %s", fork_stage_text(stage_of(call)));
        return fail(call, FORK_DEADLINE, 0, text);
}

static int fail_session(struct fork_call *call)
{
        bool rejected = call->session.status == INJECT_REJECTED;

        if (rejected)
                memcpy(call->failure->reason, call->session.reason, sizeof(call->failure->reason));
        return fail(call, rejected ? FORK_GUEST_REJECTED : FORK_GUEST_PROTOCOL, 0, call->session.text);
}

/* Tell why the process ended. The status is taken here, so the caller need not reap again. */
static int fail_exited(struct fork_call *call, int status)
{
        char text[160];

        call->failure->wait_status = status;
        if (WIFSIGNALED(status))
                snprintf(text, sizeof(text), "the VMM was killed by signal %d while we waited for %s", WTERMSIG(status),
                         fork_stage_text(stage_of(call)));
        else
                snprintf(text, sizeof(text), "the VMM exited with status %d while we waited for %s", WEXITSTATUS(status),
                         fork_stage_text(stage_of(call)));
        return fail(call, FORK_VMM_EXITED, 0, text);
}

/* Put everything that needs no answer into the sockets, before the VMM exists. */
static int write_ahead(struct fork_call *call)
{
        const struct fork_request *request = call->request;
        size_t done = 0;

        while (done < request->qmp_length) {
                ssize_t n = line_client_try_send(&call->qmp, request->qmp_lines + done, request->qmp_length - done);

                if (n == 0)
                        n = -EMSGSIZE; /* nobody reads yet: what does not fit never will */
                if (n < 0)
                        return fail_system(call, "cannot write the monitor's commands ahead", (int)n);
                done += (size_t)n;
        }
        if (call->session.status != INJECT_PENDING || inject_session_flush(&call->session) < 0)
                return fail_session(call);
        return 0;
}

static int start_vmm(struct fork_call *call)
{
        enum spawn_step step;
        char text[160];
        int r = spawn(&call->request->spawn, &step, &call->process);

        if (r < 0) {
                snprintf(text, sizeof(text), "cannot %s: %s", spawn_step_text(step), strerrordesc_np(-r));
                return fail(call, FORK_SPAWN_FAILED, r, text);
        }
        call->times.spawned_ns = now_ns();
        return 0;
}

static int on_event(struct fork_call *call, const struct qmp_message *message)
{
        if (strcmp(message->event, "RESUME") == 0) {
                call->times.resumed_ns = now_ns();
        } else if (strcmp(message->event, "MIGRATION") == 0) {
                if (strcmp(message->status, "completed") == 0)
                        call->times.loaded_ns = now_ns();
                else if (strcmp(message->status, "failed") == 0)
                        return fail(call, FORK_VMM_REFUSED, 0, "the VMM could not load the device state");
        }
        return 0;
}

static int on_qmp(struct fork_call *call, const struct qmp_message *message)
{
        char text[420];

        switch (message->kind) {
        case QMP_GREETING:
                if (call->times.monitor_ns)
                        return fail(call, FORK_VMM_PROTOCOL, 0, "the monitor greeted twice");
                call->times.monitor_ns = now_ns();
                if (call->request->qmp_replies == 0) /* it boots: nothing to load, it runs by itself */
                        call->times.loaded_ns = call->times.resumed_ns = call->times.monitor_ns;
                return 0;
        case QMP_RETURN:
                if (call->replies_left == 0)
                        return fail(call, FORK_VMM_PROTOCOL, 0, "the monitor answered more commands than it was given");
                call->replies_left--;
                return 0;
        case QMP_ERROR:
                snprintf(text, sizeof(text), "the monitor refused command %lld: %s: %s", (long long)message->id, message->error_class,
                         message->error_desc);
                return fail(call, FORK_VMM_REFUSED, 0, text);
        case QMP_EVENT:
                return on_event(call, message);
        }
        return 0;
}

static int hang_up(struct fork_call *call, bool *is_hung)
{
        *is_hung = true;
        if (!call->hangup_ns)
                call->hangup_ns = now_ns();
        return 0;
}

/* Read the monitor once and act on every whole line. */
static int receive_qmp(struct fork_call *call)
{
        ssize_t n = line_client_fill(&call->qmp);

        if (n == -ECONNRESET)
                return hang_up(call, &call->qmp_hung);
        if (n == -EMSGSIZE)
                return fail(call, FORK_VMM_PROTOCOL, 0, "the monitor sent a line over 64 KiB");
        if (n < 0)
                return fail_system(call, "cannot read from the monitor", (int)n);
        call->qmp_received += (size_t)n;
        if (call->qmp_received > QMP_MAX_RECEIVED)
                return fail(call, FORK_VMM_PROTOCOL, 0, "the monitor sent over 4 MiB");
        for (;;) {
                struct qmp_message message;
                const char *line;

                n = line_client_take(&call->qmp, &line);
                if (n == -EAGAIN)
                        return 0;
                if (qmp_decode(line, (size_t)n, &message) < 0)
                        return fail(call, FORK_VMM_PROTOCOL, 0, "the monitor sent a line that is not QMP");
                if (on_qmp(call, &message) < 0)
                        return -1;
        }
}

/* Read the channel and commit as soon as the guest is ready. */
static int advance_session(struct fork_call *call)
{
        struct inject_session *session = &call->session;
        int r = inject_session_receive(session);

        call->times.guest_ns = call->link->synced_ns;
        if (r == 0 && session->phase == INJECT_READY) {
                call->times.prepared_ns = session->ready_ns;
                r = inject_session_commit(session, true);
        }
        return r < 0 ? r : inject_session_flush(session);
}

static int receive_channel(struct fork_call *call)
{
        struct inject_session *session = &call->session;

        if (advance_session(call) < 0) {
                if (session->status == INJECT_PEER_CLOSED && !call->link->peer_closed)
                        return hang_up(call, &call->channel_hung);
                return fail_session(call);
        }
        if (session->phase == INJECT_STARTED && !call->times.started_ns) {
                call->times.started_ns = session->started_ns;
                message_link_close_stream(call->link);
                if (inject_session_flush(session) < 0)
                        return fail_session(call);
        }
        return 0;
}

static bool is_done(const struct fork_call *call)
{
        return call->times.started_ns && call->times.loaded_ns && call->times.resumed_ns && call->replies_left == 0 &&
               message_link_is_flushed(call->link);
}

/* One wait and what follows from it. Returns 0 to go on, -1 on failure. */
static int step(struct fork_call *call)
{
        struct pollfd fds[4] = {
                { .fd = call->process.pidfd, .events = POLLIN },
                { .fd = call->qmp_hung ? -1 : call->request->qmp_fd, .events = POLLIN },
                { .fd = call->channel_hung ? -1 : call->request->channel_fd, .events = message_link_events(call->link) },
        };
        int status, r;

        if (call->times.started_ns)
                fds[2].events &= (short)~POLLIN; /* what comes now is for the next owner of the channel */
        if (fds[2].events == 0)
                fds[2].fd = -1;
        r = limits_poll(call->lim, fds, 3, call->hangup_ns ? call->hangup_ns + HANGUP_GRACE_NS : INT64_MAX);
        if (r < 0)
                return fail_limit(call, r);
        if (r == 0)
                return fail(call, FORK_VMM_PROTOCOL, 0, "the VMM closed its monitor or the guest's channel but did not exit");
        if (fds[1].revents && receive_qmp(call) < 0)
                return -1;
        if (fds[2].revents && receive_channel(call) < 0)
                return -1;
        if (!fds[0].revents)
                return 0;
        if (!call->qmp_hung && receive_qmp(call) < 0) /* its last words explain more than its status */
                return -1;
        r = spawn_reap(call->process.pidfd, &status);
        if (r < 0)
                return fail_system(call, "cannot learn how the VMM ended", r);
        call->process.pidfd = close_fd(call->process.pidfd);
        return fail_exited(call, status);
}

static struct fork_call *fork_call_new(const struct fork_request *request, struct fork_failure *failure)
{
        struct fork_call *call = calloc(1, sizeof(*call));

        if (!call)
                return NULL;
        call->link = message_link_new();
        if (!call->link) {
                free(call);
                return NULL;
        }
        call->request = request;
        call->failure = failure;
        call->process.pidfd = FD_NONE;
        call->replies_left = request->qmp_replies;
        line_client_attach(&call->qmp, request->qmp_fd);
        message_link_start_mux(call->link, request->channel_fd, request->epoch, "inject");
        inject_session_start(&call->session, call->link, request->prepare, request->prepare_length, true);
        return call;
}

void fork_call_free(struct fork_call *call)
{
        int status;

        if (!call)
                return;
        if (call->process.pidfd >= 0) {
                spawn_kill(call->process.pidfd, &status);
                close_fd(call->process.pidfd);
        }
        message_link_free(call->link);
        free(call);
}

static void give_result(struct fork_call *call, struct fork_result *ret_result)
{
        *ret_result = (struct fork_result){
                .process = { call->process.pid, TAKE_FD(call->process.pidfd) },
                .times = call->times,
                .qmp_pending = call->qmp.buffer + call->qmp.start,
                .qmp_pending_length = call->qmp.end - call->qmp.start,
        };
        ret_result->channel_pending_length = message_link_pending(call->link, &ret_result->channel_pending);
}

int fork_run(const struct fork_request *request, const struct limits *lim, struct fork_failure *ret_failure,
             struct fork_result *ret_result, struct fork_call **ret_call)
{
        struct fork_call *call;
        int r;

        *ret_call = NULL;
        memset(ret_failure, 0, sizeof(*ret_failure));
        ret_failure->wait_status = -1;
        call = fork_call_new(request, ret_failure);
        if (!call) {
                *ret_failure = (struct fork_failure){ FORK_SPAWN, FORK_SYSTEM, -ENOMEM, -1, "", "cannot allocate the call's buffers" };
                return -1;
        }
        call->lim = lim;
        call->times.begun_ns = now_ns();
        r = limits_check(lim);
        if (r < 0)
                fail_limit(call, r);
        else
                r = write_ahead(call);
        if (r == 0)
                r = start_vmm(call);
        while (r == 0 && !is_done(call))
                r = step(call);
        if (r < 0) {
                fork_call_free(call);
                return -1;
        }
        give_result(call, ret_result);
        *ret_call = call;
        return 0;
}
