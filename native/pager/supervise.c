#define _GNU_SOURCE
#include "supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "deadline.h"
#include "fdutil.h"
#include "keeper.h"
#include "process.h"
#include "uffd.h"

#define FIRST_LISTEN_FD 3
#define EXIT_USAGE 2
#define MESSAGE_BYTES 4096
#define FDS_MAX 16
/* It is begun anew at once, but not when it ends again and again. */
#define QUICK_DEATHS 16
#define LONG_LIFE_NS NS_PER_S
#define PAUSE_MS 500

struct supervisor {
        int notify_fd, signal_fd, lock_fd; /* owned */
        char notify_path[108];
        char program[4096];
        char **argv;
        pid_t child;
        int64_t begun_ns;
        unsigned quick_deaths;
        struct kept *kept; /* owned */
        size_t n_kept, capacity;
        bool is_ending;
};

/* -- descriptors ----------------------------------------------------------------------------------- */

static bool is_same_file(int a, int b)
{
        struct stat one, other;

        return fstat(a, &one) == 0 && fstat(b, &other) == 0 && one.st_dev == other.st_dev &&
               one.st_ino == other.st_ino;
}

static void keep(struct supervisor *supervisor, const char *name, int fd)
{
        struct kept *grown;

        for (size_t i = 0; i < supervisor->n_kept; i++)
                if (strcmp(supervisor->kept[i].name, name) == 0 && is_same_file(supervisor->kept[i].fd, fd)) {
                        close_fd(fd);
                        return;
                }
        if (supervisor->n_kept == supervisor->capacity) {
                size_t wanted = supervisor->capacity ? supervisor->capacity * 2 : 64;

                grown = reallocarray(supervisor->kept, wanted, sizeof(*grown));
                if (!grown) {
                        close_fd(fd);
                        return;
                }
                supervisor->kept = grown;
                supervisor->capacity = wanted;
        }
        supervisor->kept[supervisor->n_kept].fd = fd;
        snprintf(supervisor->kept[supervisor->n_kept].name, KEEPER_NAME_BYTES, "%s", name);
        supervisor->n_kept++;
}

static void forget(struct supervisor *supervisor, const char *name)
{
        size_t left = 0;

        for (size_t i = 0; i < supervisor->n_kept; i++) {
                if (strcmp(supervisor->kept[i].name, name) == 0)
                        close_fd(supervisor->kept[i].fd);
                else
                        supervisor->kept[left++] = supervisor->kept[i];
        }
        supervisor->n_kept = left;
}

/* -- messages (sd_notify(3)) ----------------------------------------------------------------------- */

static bool find_value(const char *text, const char *key, char *ret_value, size_t capacity)
{
        size_t n = strlen(key);

        for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
                if (strncmp(line, key, n) == 0 && line[n] == '=') {
                        snprintf(ret_value, capacity, "%.*s", (int)strcspn(line + n + 1, "\n"), line + n + 1);
                        return true;
                }
        return false;
}

static void obey(struct supervisor *supervisor, const char *text, int *fds, size_t n_fds)
{
        char value[KEEPER_NAME_BYTES], name[KEEPER_NAME_BYTES];
        bool is_named = find_value(text, "FDNAME", name, sizeof(name));

        if (is_named && find_value(text, "FDSTOREREMOVE", value, sizeof(value)))
                forget(supervisor, name);
        else if (is_named && find_value(text, "FDSTORE", value, sizeof(value)))
                for (size_t i = 0; i < n_fds; i++)
                        keep(supervisor, name, TAKE_FD(fds[i]));
        /* What is left is closed, which is how a barrier is answered. */
        for (size_t i = 0; i < n_fds; i++)
                close_fd(fds[i]);
}

/* Receive one message. Returns false if there is none. */
static bool hear(struct supervisor *supervisor)
{
        char text[MESSAGE_BYTES + 1];
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(FDS_MAX * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
        } control;
        struct iovec part = {.iov_base = text, .iov_len = MESSAGE_BYTES};
        struct msghdr message = {
                .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
        struct ucred sender = {0};
        int fds[FDS_MAX];
        size_t n_fds = 0;
        ssize_t n = recvmsg(supervisor->notify_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

        if (n < 0)
                return errno == EINTR;
        text[n] = '\0';
        for (struct cmsghdr *one = CMSG_FIRSTHDR(&message); one; one = CMSG_NXTHDR(&message, one)) {
                if (one->cmsg_level != SOL_SOCKET)
                        continue;
                if (one->cmsg_type == SCM_CREDENTIALS)
                        memcpy(&sender, CMSG_DATA(one), sizeof(sender));
                if (one->cmsg_type == SCM_RIGHTS) {
                        n_fds = (one->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                        memcpy(fds, CMSG_DATA(one), n_fds * sizeof(int));
                }
        }
        /* Only the page server that runs now, or ran last, is heard. */
        obey(supervisor, sender.pid == supervisor->child ? text : "", fds, n_fds);
        return true;
}

static int open_notify(struct supervisor *supervisor, const char *directory)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        char path[4096];
        int on = 1;

        /* Two in one directory would take each other's socket away. */
        snprintf(path, sizeof(path), "%s/supervise.lock", directory);
        supervisor->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (supervisor->lock_fd < 0 || flock(supervisor->lock_fd, LOCK_EX | LOCK_NB) < 0)
                return -errno;
        if (snprintf(supervisor->notify_path, sizeof(supervisor->notify_path), "%s/notify", directory) >=
            (int)sizeof(supervisor->notify_path))
                return -ENAMETOOLONG;
        memcpy(address.sun_path, supervisor->notify_path, sizeof(supervisor->notify_path));
        supervisor->notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (supervisor->notify_fd < 0)
                return -errno;
        unlink(supervisor->notify_path);
        if (bind(supervisor->notify_fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
            chmod(supervisor->notify_path, 0600) < 0 ||
            setsockopt(supervisor->notify_fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0)
                return -errno;
        return 0;
}

/* -- the child ------------------------------------------------------------------------------------- */

/* Put what is kept at 3, 4, ... as sd_listen_fds(3) has it. Runs in the child. */
static int hand_down(const struct supervisor *supervisor)
{
        size_t n = supervisor->n_kept, length = 1;
        char number[32], *names;

        /* Out of the way first: a target may be the source of another. */
        for (size_t i = 0; i < n; i++) {
                int high = fcntl(supervisor->kept[i].fd, F_DUPFD_CLOEXEC, FIRST_LISTEN_FD + (int)n);

                if (high < 0)
                        return -errno;
                supervisor->kept[i].fd = high;
                length += strlen(supervisor->kept[i].name) + 1;
        }
        names = calloc(1, length);
        if (!names)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                if (dup2(supervisor->kept[i].fd, FIRST_LISTEN_FD + (int)i) < 0)
                        return -errno;
                if (i > 0)
                        strcat(names, ":");
                strcat(names, supervisor->kept[i].name);
        }
        snprintf(number, sizeof(number), "%d", getpid());
        setenv("LISTEN_PID", number, 1);
        snprintf(number, sizeof(number), "%zu", n);
        setenv("LISTEN_FDS", number, 1);
        setenv("LISTEN_FDNAMES", names, 1);
        return 0;
}

static void become(const struct supervisor *supervisor, pid_t parent)
{
        sigset_t held;

        /* A page server whose keeper is gone may have machines that could not outlive it. */
        prctl(PR_SET_PDEATHSIG, SUPERVISOR_GONE);
        if (getppid() != parent || hand_down(supervisor))
                _exit(EXIT_FAILURE);
        setenv("NOTIFY_SOCKET", supervisor->notify_path, 1);
        /* Held back until it can end its machines in order. */
        sigemptyset(&held);
        sigaddset(&held, SUPERVISOR_GONE);
        sigprocmask(SIG_SETMASK, &held, NULL);
        execv(supervisor->program, supervisor->argv);
        _exit(EXIT_FAILURE);
}

static int begin(struct supervisor *supervisor)
{
        pid_t parent = getpid();

        while (hear(supervisor))
                ;
        supervisor->begun_ns = now_ns();
        supervisor->child = fork();
        if (supervisor->child == 0)
                become(supervisor, parent);
        return supervisor->child < 0 ? -errno : 0;
}

/* The child ended with @status. Returns whether it is to be begun anew. */
static bool wants_another(struct supervisor *supervisor, int status)
{
        bool is_quick = now_ns() - supervisor->begun_ns < LONG_LIFE_NS;

        if (supervisor->is_ending || (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_USAGE))
                return false;
        supervisor->quick_deaths = is_quick ? supervisor->quick_deaths + 1 : 0;
        if (supervisor->quick_deaths > QUICK_DEATHS)
                poll(NULL, 0, PAUSE_MS);
        return true;
}

static int open_signals(struct supervisor *supervisor)
{
        sigset_t signals;

        sigemptyset(&signals);
        sigaddset(&signals, SIGTERM);
        sigaddset(&signals, SIGINT);
        sigaddset(&signals, SIGCHLD);
        sigprocmask(SIG_BLOCK, &signals, NULL);
        supervisor->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
        return supervisor->signal_fd < 0 ? -errno : 0;
}

/* Returns the exit code when it is over, below 0 while it is not. */
static int attend(struct supervisor *supervisor)
{
        struct signalfd_siginfo signal;
        int status;

        while (read(supervisor->signal_fd, &signal, sizeof(signal)) == sizeof(signal))
                if (signal.ssi_signo != SIGCHLD) {
                        supervisor->is_ending = true;
                        kill(supervisor->child, SIGTERM);
                }
        if (waitpid(supervisor->child, &status, WNOHANG) != supervisor->child)
                return -1;
        if (!wants_another(supervisor, status))
                return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILURE;
        return begin(supervisor) ? EXIT_FAILURE : -1;
}

static int run(struct supervisor *supervisor)
{
        int code = begin(supervisor) ? EXIT_FAILURE : -1;

        while (code < 0) {
                struct pollfd fds[] = {{.fd = supervisor->signal_fd, .events = POLLIN},
                                       {.fd = supervisor->notify_fd, .events = POLLIN}};

                if (poll(fds, 2, -1) < 0 && errno != EINTR)
                        return EXIT_FAILURE;
                while (hear(supervisor))
                        ;
                code = attend(supervisor);
        }
        return code;
}

/* End the machine whose userfaultfd is held by nobody else: it would read zeros once that is closed here. */
static void end_if_alone(const struct kept *kept)
{
        const char *at = strchr(kept->name, '@');
        struct stat st;
        uint64_t ticks;
        int pid, pidfd;

        if (!at || sscanf(at, "@%d@%" SCNu64, &pid, &ticks) != 2 || fstat(kept->fd, &st) < 0)
                return;
        pidfd = process_open(pid, ticks);
        if (pidfd >= 0 && fd_find_in(pid, st.st_dev, st.st_ino) < 0)
                process_end(pidfd, PROCESS_END_MS);
        close_fd(pidfd);
}

static void release(struct supervisor *supervisor)
{
        for (size_t i = 0; i < supervisor->n_kept; i++)
                end_if_alone(&supervisor->kept[i]);
        for (size_t i = 0; i < supervisor->n_kept; i++)
                close_fd(supervisor->kept[i].fd);
        free(supervisor->kept);
        close_fd(supervisor->signal_fd);
        close_fd(supervisor->notify_fd);
        close_fd(supervisor->lock_fd);
        if (supervisor->notify_path[0])
                unlink(supervisor->notify_path);
}

int supervise(int argc, char **argv, const char *directory)
{
        struct supervisor supervisor = {
                .notify_fd = FD_NONE, .signal_fd = FD_NONE, .lock_fd = FD_NONE, .argv = argv};
        ssize_t n = readlink("/proc/self/exe", supervisor.program, sizeof(supervisor.program) - 1);
        int r;

        (void)argc;
        argv[1] = "serve";
        r = n < 0 ? -errno : open_signals(&supervisor);
        r = r ? r : open_notify(&supervisor, directory);
        if (r)
                fprintf(stderr, "snap-pager: supervising in %s: %s\nhint: the directory has to be there, and without another supervisor\n", directory,
                        strerror(-r));
        r = r ? EXIT_FAILURE : run(&supervisor);
        release(&supervisor);
        return r;
}
