/* The fork against every fault of the stand-in VMM, under the sanitizers: whatever happens, nothing
 * is left behind. That the right error comes out of Python is tested in tests/adapters/native. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "fork.h"

static char standin[PATH_MAX];

static const struct row {
        const char *fault;
        enum fork_kind kind; /* 0: it succeeds */
        bool is_silent;      /* only the deadline ends it */
} rows[] = {
        { "none", 0, false },
        { "exit_at_start", FORK_VMM_EXITED, false },
        { "hang_at_start", FORK_DEADLINE, true },
        { "silent_monitor", FORK_DEADLINE, true },
        { "qmp_garbage", FORK_VMM_PROTOCOL, false },
        { "qmp_long_line", FORK_VMM_PROTOCOL, false },
        { "qmp_flood", FORK_VMM_PROTOCOL, false },
        { "qmp_hangup", FORK_VMM_PROTOCOL, false },
        { "qmp_error", FORK_VMM_REFUSED, false },
        { "migration_failed", FORK_VMM_REFUSED, false },
        { "never_loaded", FORK_DEADLINE, true },
        { "never_resumes", FORK_DEADLINE, true },
        { "no_hello_ack", FORK_DEADLINE, true },
        { "wrong_epoch", FORK_DEADLINE, true },
        { "channel_garbage", FORK_GUEST_PROTOCOL, false },
        { "oversize_frame", FORK_GUEST_PROTOCOL, false },
        { "oversize_message", FORK_GUEST_PROTOCOL, false },
        { "empty_message", FORK_GUEST_PROTOCOL, false },
        { "bad_json", FORK_GUEST_PROTOCOL, false },
        { "wrong_type", FORK_GUEST_PROTOCOL, false },
        { "wrong_version", FORK_GUEST_PROTOCOL, false },
        { "gate_open", FORK_GUEST_PROTOCOL, false },
        { "stream_closed", FORK_GUEST_PROTOCOL, false },
        { "resync", FORK_GUEST_PROTOCOL, false },
        { "channel_flood", FORK_GUEST_PROTOCOL, false },
        { "half_frame_then_exit", FORK_VMM_EXITED, false },
        { "channel_hangup", FORK_VMM_PROTOCOL, false },
        { "killed", FORK_VMM_EXITED, false },
        { "reject", FORK_GUEST_REJECTED, false },
        { "silent_after_prepare", FORK_DEADLINE, true },
        { "silent_after_commit", FORK_DEADLINE, true },
        { "exit_after_commit", FORK_VMM_EXITED, false },
};

/* Make a listening socket without a file, and a client connected to it. */
static void connect_pair(int *ret_listening, int *ret_client)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        socklen_t length = sizeof(sa_family_t);

        *ret_listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK_EQ(bind(*ret_listening, (struct sockaddr *)&address, length), 0); /* the kernel picks a name */
        CHECK_EQ(listen(*ret_listening, 1), 0);
        length = sizeof(address);
        CHECK_EQ(getsockname(*ret_listening, (struct sockaddr *)&address, &length), 0);
        *ret_client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK_EQ(connect(*ret_client, (struct sockaddr *)&address, length), 0);
}

static int run(const char *fault, const struct limits *lim, struct fork_failure *failure)
{
        static const char lines[] = "{\"execute\":\"a\"}\n{\"execute\":\"b\"}\n{\"execute\":\"c\"}\n";
        static const char prepare[] = "{\"type\":\"PREPARE\"}";
        char *argv[] = { "standin", "3", "4", (char *)(uintptr_t)fault, NULL }, *empty[] = { NULL };
        int qmp_listening, qmp, channel_listening, channel, r, status, null = open("/dev/null", O_WRONLY | O_CLOEXEC);
        struct fork_result result;
        struct fork_call *call;

        connect_pair(&qmp_listening, &qmp);
        connect_pair(&channel_listening, &channel);
        {
                const struct spawn_fd fds[] = { { qmp_listening, 3 }, { channel_listening, 4 } };
                const struct fork_request request = {
                        .spawn = { .path = standin, .argv = argv, .envp = empty, .fds = fds, .n_fds = 2, .output_fd = null, .cgroup_fd = -1 },
                        .qmp_fd = qmp, .qmp_lines = lines, .qmp_length = sizeof(lines) - 1, .qmp_replies = 3,
                        .channel_fd = channel, .epoch = "0123456789abcde", .prepare = prepare, .prepare_length = sizeof(prepare) - 1,
                };
                r = fork_run(&request, lim, failure, &result, &call);
        }
        if (r == 0) {
                CHECK(result.qmp_pending_length <= 17);
                CHECK_EQ(spawn_kill(result.process.pidfd, &status), 0);
                close(result.process.pidfd);
        }
        CHECK_EQ(!call, r < 0);
        fork_call_free(call);
        close(qmp_listening), close(qmp), close(channel_listening), close(channel), close(null);
        return r;
}

static void check_row(const struct row *row)
{
        const struct limits lim = { now_ns() + (row->is_silent ? NS_PER_S / 5 : 20 * NS_PER_S), -1 };
        struct fork_failure failure;
        int before = count_fds(), r = run(row->fault, &lim, &failure);

        if (r != (row->kind ? -1 : 0) || (r < 0 && (failure.kind != row->kind || !failure.text[0]))) {
                fprintf(stderr, "%s: %d, kind %d: %s\n", row->fault, r, (int)failure.kind, failure.text);
                exit(1);
        }
        CHECK_EQ(count_fds(), before);
        CHECK_EQ(waitpid(-1, NULL, WNOHANG), -1);
}

static void test_cancel(void)
{
        int cancel = eventfd(1, EFD_CLOEXEC);
        const struct limits lim = { INT64_MAX, cancel };
        struct fork_failure failure;

        CHECK_EQ(run("none", &lim, &failure), -1);
        CHECK_EQ(failure.kind, FORK_CANCELLED);
        close(cancel);
}

int main(int argc, char **argv)
{
        CHECK(argc == 1);
        CHECK(realpath(argv[0], standin));
        strcpy(dirname(standin) + strlen(standin), "/standin_vmm");
        for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
                check_row(&rows[i]);
        test_cancel();
        return 0;
}
