/* Fail the Nth system call, for every N, until an operation succeeds: it must report the error, leak
 * no descriptor, and leave its outputs alone.
 *
 * The linker replaces the calls named in native/Makefile by the __wrap_ functions here. Calls that
 * read or write also come back short once per round, which must not be an error at all. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "checkpoint.h"
#include "inject.h"
#include "seal.h"
#include "spawn.h"

static int calls_left;  /* until one fails; 0 for never */
static int fault;       /* its errno, or SHORTER */
static bool was_hit;

#define SHORTER (-1)

/* Count a call. Returns whether this is the one that fails; @n is cut if it is to be short. */
static bool is_chosen(size_t *n)
{
        if (calls_left == 0 || --calls_left > 0)
                return false;
        was_hit = true;
        if (fault == SHORTER) {
                if (n && *n > 1)
                        *n /= 2;
                return false;
        }
        errno = fault;
        return true;
}

ssize_t __real_recv(int fd, void *buffer, size_t n, int flags);
ssize_t __wrap_recv(int fd, void *buffer, size_t n, int flags)
{
        return is_chosen(&n) ? -1 : __real_recv(fd, buffer, n, flags);
}

ssize_t __real_send(int fd, const void *buffer, size_t n, int flags);
ssize_t __wrap_send(int fd, const void *buffer, size_t n, int flags)
{
        return is_chosen(&n) ? -1 : __real_send(fd, buffer, n, flags);
}

ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
        return is_chosen(&message->msg_iov->iov_len) ? -1 : __real_sendmsg(fd, message, flags);
}

ssize_t __real_pread(int fd, void *buffer, size_t n, off_t offset);
ssize_t __wrap_pread(int fd, void *buffer, size_t n, off_t offset)
{
        return is_chosen(&n) ? -1 : __real_pread(fd, buffer, n, offset);
}

ssize_t __real_pwrite(int fd, const void *buffer, size_t n, off_t offset);
ssize_t __wrap_pwrite(int fd, const void *buffer, size_t n, off_t offset)
{
        return is_chosen(&n) ? -1 : __real_pwrite(fd, buffer, n, offset);
}

int __real_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask);
int __wrap_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask)
{
        return is_chosen(NULL) ? -1 : __real_ppoll(fds, n, timeout, mask);
}

void *__real_mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset)
{
        return is_chosen(NULL) ? MAP_FAILED : __real_mmap(at, n, protection, flags, fd, offset);
}

int __real_mprotect(void *at, size_t n, int protection);
int __wrap_mprotect(void *at, size_t n, int protection)
{
        return is_chosen(NULL) ? -1 : __real_mprotect(at, n, protection);
}

void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size)
{
        return is_chosen(NULL) ? NULL : __real_calloc(n, size);
}

int __real_fcntl(int fd, int command, long argument);
int __wrap_fcntl(int fd, int command, long argument)
{
        return is_chosen(NULL) ? -1 : __real_fcntl(fd, command, argument);
}

/* Run @operation with its 1st, 2nd, ... call failing until none is hit any more. @operation returns 0
 * on success or the errno it reported. Returns how many calls were failed. */
static int fail_each(int (*operation)(void), int error)
{
        for (int n = 1;; n++) {
                int before = count_fds(), r;

                fault = error;
                was_hit = false;
                calls_left = n;
                r = operation();
                calls_left = 0;
                CHECK_EQ(count_fds(), before);
                CHECK_EQ(waitpid(-1, NULL, WNOHANG), -1);
                if (!was_hit) {
                        CHECK_EQ(r, 0);
                        return n - 1;
                }
                if (error == EINTR || error == SHORTER)
                        CHECK_EQ(r, 0);
                else
                        CHECK(r != 0);
        }
}

static int try_spawn(void)
{
        char *argv[] = { "true", NULL }, *empty[] = { NULL };
        const struct spawn_fd fds[] = { { 1, 3 }, { 2, 4 } };
        const struct spawn_spec spec = { .path = "/bin/true", .argv = argv, .envp = empty, .output_fd = 1, .cgroup_fd = -1, .fds = fds, .n_fds = 2 };
        struct spawn_result result = { -7, -7 };
        enum spawn_step step;
        int status, r = spawn(&spec, &step, &result);

        if (r < 0) {
                CHECK_EQ(result.pidfd, -7);
                return -r;
        }
        CHECK_EQ(spawn_kill(result.pidfd, &status), 0);
        close(result.pidfd);
        return 0;
}

static int try_seal(void)
{
        const struct limits forever = { INT64_MAX, -1 };
        int src = memfd_create("a", MFD_CLOEXEC), dst = memfd_create("b", MFD_CLOEXEC), r;
        struct seal_result result = { 7 };
        uint64_t hashes[4];

        CHECK_EQ(ftruncate(src, 16 * SEAL_PAGE_BYTES), 0);
        CHECK_EQ(__real_pwrite(src, "x", 1, 5 * SEAL_PAGE_BYTES), 1);
        CHECK_EQ(__real_pwrite(src, "y", 1, 13 * SEAL_PAGE_BYTES), 1);
        r = seal_copy(src, dst, 16 * SEAL_PAGE_BYTES, 4 * SEAL_PAGE_BYTES, &forever, hashes, &result);
        CHECK_EQ(result.data_bytes, r < 0 ? 7 : 2 * SEAL_PAGE_BYTES);
        close(src), close(dst);
        return -r;
}

/* A monitor whose every answer is already waiting in the socket. */
static int try_checkpoint(void)
{
        static const char answers[] = "{\"QMP\":{}}\n{\"return\":{},\"id\":0}\n{\"return\":{},\"id\":1936613744}\n"
                                      "{\"return\":{},\"id\":1936613745}\n{\"return\":{},\"id\":1936613746}\n{\"return\":{},\"id\":1936613747}\n"
                                      "{\"event\":\"MIGRATION\",\"data\":{\"status\":\"completed\"}}\n{\"return\":{},\"id\":1936613748}\n";
        static struct line_client client;
        const struct limits lim = { now_ns() + 2 * NS_PER_S, -1 };
        struct checkpoint_failure failure = { 0 };
        struct checkpoint_times times;
        int pair[2], r;

        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        CHECK_EQ(write(pair[1], answers, sizeof(answers) - 1), sizeof(answers) - 1);
        line_client_attach(&client, pair[0]);
        r = checkpoint_run(&client, false, 1, &lim, &failure, &times);
        close(pair[0]), close(pair[1]);
        return r < 0 ? -failure.code : 0;
}

/* A guest that says CAPABILITIES and goes away: without a fault, that is what is reported. */
static int try_inject(void)
{
        static const char caps[] = "{\"type\":\"CAPABILITIES\",\"protocol_version\":\"1\"}";
        struct inject_target target = { 0 };
        struct inject_result result = { 0 };
        uint8_t prefix[4];
        int pair[2], r;

        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        mux_put_be32(prefix, sizeof(caps) - 1);
        CHECK_EQ(write(pair[1], prefix, 4) + write(pair[1], caps, sizeof(caps) - 1), (ssize_t)sizeof(caps) + 3);
        close(pair[1]);
        target.fd = pair[0];
        r = inject_run(&target, 1, now_ns() + NS_PER_S, now_ns() + NS_PER_S, -1, &result);
        close(pair[0]);
        if (r < 0)
                return -r;
        CHECK(result.status > INJECT_OK);
        return result.status == INJECT_PEER_CLOSED && result.phase == INJECT_READY ? 0 : EPROTO;
}

int main(void)
{
        CHECK(fail_each(try_spawn, ENOMEM) >= 2);
        CHECK(fail_each(try_seal, EIO) >= 6);
        CHECK(fail_each(try_seal, EINTR) >= 6);
        CHECK(fail_each(try_seal, SHORTER) >= 6);
        CHECK(fail_each(try_checkpoint, EIO) >= 7);
        CHECK(fail_each(try_checkpoint, EINTR) >= 7);
        CHECK(fail_each(try_checkpoint, SHORTER) >= 7);
        CHECK(fail_each(try_inject, EIO) >= 5);
        CHECK(fail_each(try_inject, SHORTER) >= 5);
        return 0;
}
