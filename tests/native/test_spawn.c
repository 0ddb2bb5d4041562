/* The child gets what it was given, and a failure says where it happened. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "fdutil.h"
#include "spawn.h"

static char *empty[] = { NULL };

static struct spawn_spec shell(char **argv, int output)
{
        return (struct spawn_spec){ .path = "/bin/sh", .argv = argv, .envp = empty, .output_fd = output, .cgroup_fd = -1 };
}

/* Run a script and return what it printed and its exit status. */
static int run(struct spawn_spec spec, int reading, int writing, char *text, size_t capacity)
{
        struct spawn_result result;
        enum spawn_step step;
        siginfo_t info;
        ssize_t n;

        CHECK_EQ(spawn(&spec, &step, &result), 0);
        CHECK_EQ(waitid(P_PIDFD, (id_t)result.pidfd, &info, WEXITED), 0);
        close(result.pidfd);
        CHECK_EQ(write(writing, "", 1), 1);
        n = read(reading, text, capacity);
        CHECK(n > 0);
        return info.si_status;
}

static void test_descriptors_may_swap_numbers(void)
{
        int out[2], a[2], b[2];
        char text[256], *argv[] = { "sh", "-c", "echo A >&8; echo B >&9; ls /proc/self/fd | tr '\\n' ' '; umask", NULL };

        CHECK_EQ(pipe2(out, O_CLOEXEC), 0);
        CHECK_EQ(pipe2(a, O_CLOEXEC), 0);
        CHECK_EQ(pipe2(b, O_CLOEXEC), 0);
        for (int i = 0; i < 2; i++) { /* away from the numbers that are swapped */
                int low = b[i];
                b[i] = fcntl(low, F_DUPFD_CLOEXEC, 20);
                close(low);
        }
        CHECK_EQ(dup2(a[1], 8), 8);
        CHECK_EQ(dup2(b[1], 9), 9);
        {
                const struct spawn_fd swapped[] = { { 8, 9 }, { 9, 8 } };
                struct spawn_spec spec = shell(argv, out[1]);

                spec.fds = swapped;
                spec.n_fds = 2;
                CHECK_EQ(run(spec, out[0], out[1], text, sizeof(text)), 0);
        }
        CHECK(strcmp(text, "0 1 2 3 8 9 0077\n") == 0); /* 3 is ls's own */
        CHECK_EQ(read(a[0], text, sizeof(text)), 2);
        CHECK(memcmp(text, "B\n", 2) == 0);
        CHECK_EQ(read(b[0], text, sizeof(text)), 2);
        CHECK(memcmp(text, "A\n", 2) == 0);
        close(8), close(9);
        for (int i = 0; i < 2; i++)
                close(out[i]), close(a[i]), close(b[i]);
}

static void handler(int number)
{
        (void)number;
}

static void test_signals_start_fresh(void)
{
        int out[2];
        /* Without a process of its own: the shell blocks signals while it starts or awaits one. */
        char script[] = "while read -r line; do case $line in SigIgn*|SigCgt*|SigBlk*|NoNew*) echo \"$line\";; esac; done "
                        "</proc/$$/status; ulimit -c; pwd";
        char text[4096], *argv[] = { "sh", "-c", script, NULL };
        sigset_t blocked;

        CHECK_EQ(pipe2(out, O_CLOEXEC), 0);
        signal(SIGUSR1, handler);
        signal(SIGPIPE, SIG_IGN);
        sigemptyset(&blocked);
        sigaddset(&blocked, SIGUSR2);
        sigprocmask(SIG_BLOCK, &blocked, NULL);
        CHECK_EQ(run(shell(argv, out[1]), out[0], out[1], text, sizeof(text)), 0);
        CHECK(strstr(text, "SigBlk:\t0000000000000000\n"));
        if (!strstr(text, "SigIgn:\t0000000001000000\n")) /* SIGXFSZ */
                fprintf(stderr, "the child said: %s", text);
        CHECK(strstr(text, "SigIgn:\t0000000001000000\n"));
        CHECK(strstr(text, "NoNewPrivs:\t1\n0\n/\n"));
        sigprocmask(SIG_SETMASK, NULL, &blocked);
        CHECK(sigismember(&blocked, SIGUSR2)); /* ours are as they were */
        close(out[0]), close(out[1]);
}

static void test_errors_name_the_step(void)
{
        char *argv[] = { "x", NULL };
        const struct spawn_fd closed[] = { { 900, 3 } }, twice[] = { { 0, 3 }, { 1, 3 } }, low[] = { { 0, 2 } };
        struct spawn_spec spec = shell(argv, 1);
        struct spawn_result result = { -7, -7 };
        enum spawn_step step = SPAWN_CLONE;

        spec.path = "/nonexistent";
        CHECK_EQ(spawn(&spec, &step, &result), -ENOENT);
        CHECK_EQ(step, SPAWN_EXEC);
        spec.path = "/etc/passwd";
        CHECK_EQ(spawn(&spec, &step, &result), -EACCES);
        spec.fds = closed;
        spec.n_fds = 1;
        CHECK_EQ(spawn(&spec, &step, &result), -EBADF);
        CHECK_EQ(step, SPAWN_FDS);
        spec.fds = twice;
        spec.n_fds = 2;
        CHECK_EQ(spawn(&spec, &step, &result), -EINVAL);
        spec.fds = low;
        spec.n_fds = 1;
        CHECK_EQ(spawn(&spec, &step, &result), -EINVAL);
        spec.n_fds = 0;
        spec.cgroup_fd = 0; /* no cgroup */
        CHECK(spawn(&spec, &step, &result) < 0);
        CHECK_EQ(step, SPAWN_CLONE);
        CHECK_EQ(result.pid, -7); /* untouched by all of it */
        CHECK_EQ(waitpid(-1, NULL, WNOHANG), -1);
        CHECK_EQ(errno, ECHILD);
}

static void test_kill_and_reap(void)
{
        char *argv[] = { "sh", "-c", "exec sleep 1000", NULL };
        struct spawn_spec spec = shell(argv, 1);
        struct spawn_result result;
        enum spawn_step step;
        int status = -1;

        CHECK_EQ(spawn(&spec, &step, &result), 0);
        CHECK_EQ(spawn_reap(result.pidfd, &status), 0);
        CHECK_EQ(status, -1);
        CHECK_EQ(spawn_kill(result.pidfd, &status), 0);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        CHECK_EQ(spawn_kill(result.pidfd, &status), -ECHILD);
        CHECK_EQ(close_fd(result.pidfd), FD_NONE);
}

int main(void)
{
        int before = count_fds();

        test_descriptors_may_swap_numbers();
        test_signals_start_fresh();
        test_errors_name_the_step();
        test_kill_and_reap();
        CHECK_EQ(count_fds(), before);
        return 0;
}
