#define _GNU_SOURCE
#include "spawn.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fdutil.h"

#define STACK_BYTES (64 * 1024)
#define GUARD_BYTES (64 * 1024) /* a multiple of every page size in use */

/* No instrumentation in the child: it runs on a stack the sanitizers do not know. */
#define CHILD_CODE __attribute__((no_sanitize("address", "undefined"), noinline))

/* Lives on the stack of the parent, which sleeps until the child has executed or ended. */
struct child {
        const struct spawn_spec *spec;
        enum spawn_step step;
        int error; /* errno of the failing step */
};

/* Run @entry(@child) in a new process on the stack that ends at @args->stack + @args->stack_size.
 * Returns the pid in the parent or a negative errno; never returns in the child.
 *
 * Assembly because the child comes out of the system call on an empty stack: it must not return
 * through a frame. */
__attribute__((noinline)) static long clone3_run(struct clone_args *args, int (*entry)(struct child *), struct child *child)
{
#if defined(__x86_64__)
        long pid;

        __asm__ volatile("syscall\n\t"
                         "test %%rax, %%rax\n\t"
                         "jnz 1f\n\t"
                         "xor %%ebp, %%ebp\n\t"
                         "mov %[child], %%rdi\n\t"
                         "call *%[entry]\n\t"
                         "mov %%eax, %%edi\n\t"
                         "mov %[exit], %%eax\n\t"
                         "syscall\n\t"
                         "hlt\n"
                         "1:"
                         : "=a"(pid)
                         : "a"(SYS_clone3), "D"(args), "S"(sizeof(*args)), [entry] "r"(entry),
                           [child] "r"(child), [exit] "i"(SYS_exit_group)
                         : "rcx", "r11", "memory", "cc");
        return pid;
#else
#error "spawn.c: write clone3_run() for this architecture"
#endif
}

/* The kernel's own sigaction: that of libc refuses the signals which libc keeps for itself, and a
 * parent such as make may have left those ignored. */
struct kernel_action {
        void (*handler)(int);
        unsigned long flags;
        void (*restorer)(void);
        uint64_t mask;
};

#define KERNEL_SIGNALS 64

CHILD_CODE static int child_signals(void)
{
        struct kernel_action action;
        sigset_t none;

        memset(&action, 0, sizeof(action));
        for (int number = 1; number <= KERNEL_SIGNALS; number++) {
                if (number == SIGKILL || number == SIGSTOP)
                        continue;
                action.handler = number == SIGXFSZ ? SIG_IGN : SIG_DFL;
                if (syscall(SYS_rt_sigaction, number, &action, NULL, sizeof(action.mask)) < 0)
                        return -1;
        }
        memset(&none, 0, sizeof(none));
        return sigprocmask(SIG_SETMASK, &none, NULL);
}

CHILD_CODE static int child_limits(const struct spawn_spec *spec)
{
        struct rlimit core, fsize = { spec->fsize_bytes, spec->fsize_bytes };

        /* No core dump, also to a handler such as systemd-coredump: the kernel asks nobody's limit when
         * it pipes, with the one exception of 1 (fs/coredump.c, do_coredump()), too little for a file.
         * Who has a limit of 0 may not raise it. */
        if (getrlimit(RLIMIT_CORE, &core) < 0)
                return -1;
        core.rlim_max = core.rlim_max > 1 ? 1 : core.rlim_max;
        core.rlim_cur = core.rlim_max;
        if (setrlimit(RLIMIT_CORE, &core) < 0)
                return -1;
        return spec->fsize_bytes ? setrlimit(RLIMIT_FSIZE, &fsize) : 0;
}

/* Give every descriptor its number. Sources are first moved above all targets, so that sources and
 * targets may overlap; everything is close-on-exec but what dup2() makes. */
CHILD_CODE static int child_fds(const struct spawn_spec *spec)
{
        int moved[SPAWN_MAX_FDS], floor = 3, null, output;

        for (size_t i = 0; i < spec->n_fds; i++)
                if (spec->fds[i].target >= floor)
                        floor = spec->fds[i].target + 1;
        if (close_range(3, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
                return -1;
        for (size_t i = 0; i < spec->n_fds; i++) {
                moved[i] = fcntl(spec->fds[i].source, F_DUPFD_CLOEXEC, floor);
                if (moved[i] < 0)
                        return -1;
        }
        output = fcntl(spec->output_fd, F_DUPFD_CLOEXEC, floor);
        if (output < 0)
                return -1;
        null = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (null < 0)
                return -1;
        if (null != 0 && dup2(null, 0) < 0)
                return -1;
        if (null == 0 && fcntl(0, F_SETFD, 0) < 0)
                return -1;
        if (dup2(output, 1) < 0 || dup2(output, 2) < 0)
                return -1;
        for (size_t i = 0; i < spec->n_fds; i++)
                if (dup2(moved[i], spec->fds[i].target) < 0)
                        return -1;
        return 0;
}

/* Raw system calls: the wrappers of libc would make every thread of the parent change identity. */
CHILD_CODE static int child_identity(const struct spawn_spec *spec)
{
        if (!spec->set_ids)
                return 0;
        if (syscall(SYS_setgroups, 0, NULL) < 0)
                return -1;
        if (syscall(SYS_setresgid, spec->gid, spec->gid, spec->gid) < 0)
                return -1;
        return (int)syscall(SYS_setresuid, spec->uid, spec->uid, spec->uid);
}

CHILD_CODE static int child_main(struct child *child)
{
        const struct spawn_spec *spec = child->spec;

        child->step = SPAWN_SIGNALS;
        if (child_signals() < 0)
                goto failed;
        child->step = SPAWN_SESSION;
        umask(077);
        if (setsid() < 0 || chdir("/") < 0)
                goto failed;
        child->step = SPAWN_LIMITS;
        if (child_limits(spec) < 0)
                goto failed;
        child->step = SPAWN_FDS;
        if (child_fds(spec) < 0)
                goto failed;
        child->step = SPAWN_IDENTITY;
        if (child_identity(spec) < 0)
                goto failed;
        child->step = SPAWN_PRIVILEGES;
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                goto failed;
        child->step = SPAWN_EXEC;
        execve(spec->path, spec->argv, spec->envp);
failed:
        child->error = errno;
        return 127;
}

static int check_spec(const struct spawn_spec *spec)
{
        if (spec->n_fds > SPAWN_MAX_FDS || spec->output_fd < 0)
                return -EINVAL;
        for (size_t i = 0; i < spec->n_fds; i++) {
                if (spec->fds[i].source < 0 || spec->fds[i].target < 3)
                        return -EINVAL;
                for (size_t k = 0; k < i; k++)
                        if (spec->fds[k].target == spec->fds[i].target)
                                return -EINVAL;
        }
        return 0;
}

/* Clone with every signal blocked. Returns the pid or a negative errno. */
static long clone_blocked(struct child *child, char *stack, int *pidfd)
{
        struct clone_args args = {
                .flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD,
                .pidfd = (uint64_t)(uintptr_t)pidfd,
                .exit_signal = SIGCHLD,
                .stack = (uint64_t)(uintptr_t)stack,
                .stack_size = STACK_BYTES,
        };
        sigset_t all, before;
        long pid;

        if (child->spec->cgroup_fd >= 0) {
                args.flags |= CLONE_INTO_CGROUP;
                args.cgroup = (uint64_t)child->spec->cgroup_fd;
        }
        sigfillset(&all);
        pthread_sigmask(SIG_BLOCK, &all, &before);
        pid = clone3_run(&args, child_main, child);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        return pid;
}

int spawn(const struct spawn_spec *spec, enum spawn_step *ret_step, struct spawn_result *ret_result)
{
        struct child child = { .spec = spec, .step = SPAWN_CLONE };
        _cleanup_close_ int pidfd = FD_NONE;
        char *memory;
        long pid;
        int status, r = check_spec(spec);

        if (r < 0) {
                *ret_step = SPAWN_CLONE;
                return r;
        }
        memory = mmap(NULL, GUARD_BYTES + STACK_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
        if (memory == MAP_FAILED) {
                *ret_step = SPAWN_CLONE;
                return -errno;
        }
        if (mprotect(memory + GUARD_BYTES, STACK_BYTES, PROT_READ | PROT_WRITE) < 0)
                pid = -errno;
        else
                pid = clone_blocked(&child, memory + GUARD_BYTES, &pidfd);
        munmap(memory, GUARD_BYTES + STACK_BYTES);
        if (pid < 0) {
                *ret_step = SPAWN_CLONE;
                return (int)pid;
        }
        if (child.error) {
                spawn_kill(pidfd, &status);
                *ret_step = child.step;
                return -child.error;
        }
        *ret_result = (struct spawn_result){ .pid = (pid_t)pid, .pidfd = TAKE_FD(pidfd) };
        return 0;
}

const char *spawn_step_text(enum spawn_step step)
{
        switch (step) {
        case SPAWN_CLONE:
                return "create the process";
        case SPAWN_SIGNALS:
                return "reset signals";
        case SPAWN_SESSION:
                return "start a session in /";
        case SPAWN_LIMITS:
                return "set resource limits";
        case SPAWN_FDS:
                return "arrange file descriptors";
        case SPAWN_IDENTITY:
                return "change user and group";
        case SPAWN_PRIVILEGES:
                return "give up new privileges";
        case SPAWN_EXEC:
                return "execute the program";
        }
        return "start the program";
}

/* Encode a siginfo of waitid(2) as waitpid(2) does. */
static int wait_status(const siginfo_t *info)
{
        if (info->si_code == CLD_EXITED)
                return (info->si_status & 0xff) << 8;
        return info->si_status | (info->si_code == CLD_DUMPED ? 0x80 : 0);
}

static int wait_pidfd(int pidfd, int flags, siginfo_t *info)
{
        memset(info, 0, sizeof(*info));
        while (waitid(P_PIDFD, (id_t)pidfd, info, WEXITED | flags) < 0)
                if (errno != EINTR)
                        return -errno;
        return 0;
}

int spawn_kill(int pidfd, int *ret_status)
{
        siginfo_t info;
        int r;

        if (syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
                return -errno;
        r = wait_pidfd(pidfd, 0, &info);
        if (r < 0)
                return r;
        *ret_status = wait_status(&info);
        return 0;
}

int spawn_reap(int pidfd, int *ret_status)
{
        siginfo_t info;
        int r = wait_pidfd(pidfd, WNOHANG, &info);

        if (r < 0)
                return r;
        if (info.si_pid == 0)
                return 0;
        *ret_status = wait_status(&info);
        return 1;
}
