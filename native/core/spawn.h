/* Start a program with exactly the descriptors, limits and identity it was given.
 *
 * clone3(2) with CLONE_VFORK|CLONE_VM: no page tables are copied however large the caller is, and
 * an error of execve(2) comes back through shared memory. The child runs on a stack of its own with
 * a guard page, calls only system calls (never setxid wrappers of libc, which would signal the
 * caller's threads) and starts with every signal blocked so that no handler of the caller runs in
 * the shared memory. Needs Linux 5.9 (close_range); 5.11 for CLOSE_RANGE_CLOEXEC. */
#ifndef SNAPSTART_SPAWN_H
#define SNAPSTART_SPAWN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SPAWN_MAX_FDS 32

struct spawn_fd {
        int source; /* borrowed descriptor of the caller */
        int target; /* its number in the program, 3 or more, each once */
};

/* What to run. Everything is borrowed for the duration of the call. */
struct spawn_spec {
        const char *path;
        char *const *argv; /* ends with NULL */
        char *const *envp; /* ends with NULL */
        const struct spawn_fd *fds;
        size_t n_fds;
        int output_fd;       /* stdout and stderr; stdin is /dev/null */
        int cgroup_fd;       /* directory of a cgroup v2 to be born in; negative for the caller's */
        uint64_t fsize_bytes; /* RLIMIT_FSIZE; 0 leaves it alone. SIGXFSZ is ignored: EFBIG instead */
        bool set_ids;        /* become uid and gid, without supplementary groups */
        uid_t uid;
        gid_t gid;
};

enum spawn_step {
        SPAWN_CLONE,
        SPAWN_SIGNALS,
        SPAWN_SESSION,
        SPAWN_LIMITS,
        SPAWN_FDS,
        SPAWN_IDENTITY,
        SPAWN_PRIVILEGES,
        SPAWN_EXEC,
};

struct spawn_result {
        pid_t pid;
        int pidfd; /* owned by whoever holds the result */
};

/* Start the program of @spec.
 * @ret_step: where it failed; set on failure only.
 * The child is a new session leader with umask 077, no core dumps, PR_SET_NO_NEW_PRIVS, directory
 * "/", default signals, and no descriptor but 0, 1, 2 and those mapped.
 * Returns 0 once the program was executed, -EINVAL for an impossible @spec, or the negative errno of
 * the failing step; a failed child is already reaped. */
int spawn(const struct spawn_spec *spec, enum spawn_step *ret_step, struct spawn_result *ret_result);

/* Returns a few words for people: what @step does. */
const char *spawn_step_text(enum spawn_step step);

/* Kill and reap. @pidfd: borrowed.
 * Returns 0 with the wait status as waitpid(2) encodes it, or a negative errno (-ECHILD if it was
 * reaped elsewhere). */
int spawn_kill(int pidfd, int *ret_status);

/* Reap what has ended already. Returns 1 with the wait status, 0 if it still runs, or a negative
 * errno. */
int spawn_reap(int pidfd, int *ret_status);

#endif
