# cython: language_level=3, binding=False
"""Convert arguments, release the GIL, call the C core, hand back plain tuples."""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.types cimport gid_t, pid_t, uid_t


cdef extern from "deadline.h" nogil:
    cdef struct limits:
        int64_t deadline_ns
        int cancel_fd


cdef extern from "spawn.h" nogil:
    enum: SPAWN_MAX_FDS
    cdef struct spawn_fd:
        int source
        int target
    cdef struct spawn_spec:
        const char *path
        char **argv
        char **envp
        spawn_fd *fds
        size_t n_fds
        int output_fd
        int cgroup_fd
        uint64_t fsize_bytes
        bint set_ids
        uid_t uid
        gid_t gid
    cdef struct spawn_result:
        pid_t pid
        int pidfd
    enum spawn_step:
        pass
    int spawn(const spawn_spec *spec, spawn_step *ret_step, spawn_result *ret_result)
    const char *spawn_step_text(spawn_step step)


cdef extern from "line_client.h" nogil:
    cdef struct line_client:
        size_t start
        size_t end
        char *buffer
    void line_client_attach(line_client *client, int fd)


cdef extern from "checkpoint.h" nogil:
    cdef struct checkpoint_times:
        int64_t begun_ns, negotiated_ns, stopped_ns, configured_ns, migrated_ns
    cdef struct checkpoint_failure:
        int code
        char *text
    int checkpoint_run(line_client *client, bint is_negotiated, int state_fd, const limits *lim,
                       checkpoint_failure *ret_failure, checkpoint_times *ret_times)


cdef extern from "fork.h" nogil:
    cdef struct fork_request:
        spawn_spec spawn
        int qmp_fd
        const char *qmp_lines
        size_t qmp_length
        unsigned int qmp_replies
        int channel_fd
        uint8_t *epoch
        const void *prepare
        size_t prepare_length
    cdef struct fork_times:
        int64_t begun_ns, spawned_ns, monitor_ns, loaded_ns, resumed_ns, guest_ns, prepared_ns, started_ns
    cdef struct fork_call:
        pass
    cdef struct fork_result:
        spawn_result process
        fork_times times
        const char *qmp_pending
        size_t qmp_pending_length
        const uint8_t *channel_pending
        size_t channel_pending_length
    cdef struct fork_failure:
        int stage
        int kind
        int code
        int wait_status
        char *reason
        char *text
    int fork_run(const fork_request *request, const limits *lim, fork_failure *ret_failure,
                 fork_result *ret_result, fork_call **ret_call)
    void fork_call_free(fork_call *call)


cdef extern from "ready.h" nogil:
    int ready_wait(const char *path, const limits *lim, int *ret_fd)


cdef extern from "watch.h" nogil:
    unsigned int watch_close_idle()


cdef extern from "inject.h" nogil:
    enum: INJECT_MAX_TARGETS
    cdef struct inject_target:
        int fd
        bint is_mux
        bint with_clock
        uint8_t *epoch
        const void *prepare
        size_t prepare_length
    cdef struct inject_result:
        int status
        int phase
        char *reason
        char *text
        int64_t ready_ns
        int64_t started_ns
    int inject_run(const inject_target *targets, size_t n, int64_t prepare_deadline_ns, int64_t commit_deadline_ns,
                   int cancel_fd, inject_result *results)


cdef class _Spec:
    """Owns the arrays a spawn_spec points to, for the length of one call."""

    cdef spawn_spec spec
    cdef spawn_fd fds[SPAWN_MAX_FDS]
    cdef char **argv
    cdef char **envp
    cdef object kept

    def __init__(self, bytes path, list argv, list env, list fds, int output_fd, int cgroup_fd,
                 uint64_t fsize_bytes, object uid, object gid):
        if len(fds) > SPAWN_MAX_FDS:
            raise ValueError(f"at most {SPAWN_MAX_FDS} descriptors can be mapped, not {len(fds)}")
        self.kept = (path, argv, env)
        self.argv = _strings(argv)
        self.envp = _strings(env)
        for i, (source, target) in enumerate(fds):
            self.fds[i].source = source
            self.fds[i].target = target
        self.spec.path = path
        self.spec.argv = self.argv
        self.spec.envp = self.envp
        self.spec.fds = self.fds
        self.spec.n_fds = len(fds)
        self.spec.output_fd = output_fd
        self.spec.cgroup_fd = cgroup_fd
        self.spec.fsize_bytes = fsize_bytes
        self.spec.set_ids = uid is not None
        if uid is not None:
            self.spec.uid = uid
            self.spec.gid = gid

    def __dealloc__(self):
        free(self.argv)
        free(self.envp)


cdef char **_strings(list values) except NULL:
    """Make an array that borrows from the bytes objects in values."""
    cdef char **array = <char **>calloc(len(values) + 1, sizeof(char *))
    cdef bytes value
    if array is NULL:
        raise MemoryError()
    try:
        for i, value in enumerate(values):
            array[i] = value
    except BaseException:
        free(array)
        raise
    return array


def run_spawn(bytes path, list argv, list env, list fds, int output_fd, int cgroup_fd,
              uint64_t fsize_bytes, object uid, object gid):
    cdef _Spec spec = _Spec(path, argv, env, fds, output_fd, cgroup_fd, fsize_bytes, uid, gid)
    cdef spawn_step step
    cdef spawn_result result
    cdef int r
    with nogil:
        r = spawn(&spec.spec, &step, &result)
    if r < 0:
        raise OSError(-r, f"cannot {spawn_step_text(step).decode()}", path)
    return result.pid, result.pidfd


def run_fork(tuple spawn_arguments, int qmp_fd, bytes qmp_lines, unsigned int qmp_replies, int channel_fd,
             bytes epoch, bytes prepare, int64_t deadline_ns, int cancel_fd):
    cdef _Spec spec = _Spec(*spawn_arguments)
    cdef fork_request request
    cdef limits lim
    cdef fork_failure failure
    cdef fork_result result
    cdef fork_call *call = NULL
    cdef int r
    if len(epoch) != 16:
        raise ValueError("an epoch has 16 bytes")
    request.spawn = spec.spec
    request.qmp_fd = qmp_fd
    request.qmp_lines = qmp_lines
    request.qmp_length = len(qmp_lines)
    request.qmp_replies = qmp_replies
    request.channel_fd = channel_fd
    memcpy(request.epoch, <const char *>epoch, 16)
    request.prepare = <const char *>prepare
    request.prepare_length = len(prepare)
    lim.deadline_ns = deadline_ns
    lim.cancel_fd = cancel_fd
    with nogil:
        r = fork_run(&request, &lim, &failure, &result, &call)
    if r < 0:
        return (failure.kind, failure.stage, failure.code, failure.wait_status,
                failure.reason.decode("utf-8", "replace"), failure.text.decode("utf-8", "replace"))
    try:
        return (0, result.process.pid, result.process.pidfd,
                (result.times.begun_ns, result.times.spawned_ns, result.times.monitor_ns, result.times.loaded_ns,
                 result.times.resumed_ns, result.times.guest_ns, result.times.prepared_ns, result.times.started_ns),
                result.qmp_pending[:result.qmp_pending_length],
                (<const char *>result.channel_pending)[:result.channel_pending_length])
    finally:
        fork_call_free(call)


def run_checkpoint(int qmp_fd, bint is_negotiated, int state_fd, int64_t deadline_ns, int cancel_fd):
    cdef limits lim
    cdef checkpoint_failure failure
    cdef checkpoint_times times
    cdef line_client *client = <line_client *>calloc(1, sizeof(line_client))
    cdef int r
    if client is NULL:
        raise MemoryError()
    lim.deadline_ns = deadline_ns
    lim.cancel_fd = cancel_fd
    line_client_attach(client, qmp_fd)
    try:
        with nogil:
            r = checkpoint_run(client, is_negotiated, state_fd, &lim, &failure, &times)
        if r < 0:
            return failure.code, failure.text.decode("utf-8", "replace")
        return (0, (times.begun_ns, times.negotiated_ns, times.stopped_ns, times.configured_ns, times.migrated_ns),
                client.buffer[client.start:client.end])
    finally:
        free(client)


def run_wait_ready(bytes path, int64_t deadline_ns, int cancel_fd):
    cdef const char *c_path = path
    cdef limits lim
    cdef int r, fd = -1
    lim.deadline_ns = deadline_ns
    lim.cancel_fd = cancel_fd
    with nogil:
        r = ready_wait(c_path, &lim, &fd)
    return r if r < 0 else fd


def close_idle_watches():
    cdef unsigned int n
    with nogil:
        n = watch_close_idle()
    return n


def run_inject(list targets, int64_t prepare_deadline_ns, int64_t commit_deadline_ns, int cancel_fd):
    cdef inject_target c_targets[INJECT_MAX_TARGETS]
    cdef inject_result *results
    cdef size_t n = len(targets)
    cdef bytes epoch, prepare
    cdef int r
    if n > INJECT_MAX_TARGETS:
        raise ValueError(f"at most {INJECT_MAX_TARGETS} targets, not {n}")
    for i, (fd, epoch, prepare, with_clock) in enumerate(targets):
        c_targets[i].fd = fd
        c_targets[i].is_mux = epoch is not None
        if epoch is not None:
            if len(epoch) != 16:
                raise ValueError("an epoch has 16 bytes")
            memcpy(c_targets[i].epoch, <const char *>epoch, 16)
        c_targets[i].with_clock = with_clock
        c_targets[i].prepare = NULL
        c_targets[i].prepare_length = 0
        if prepare is not None:
            c_targets[i].prepare = <const char *>prepare
            c_targets[i].prepare_length = len(prepare)
    results = <inject_result *>calloc(n + 1, sizeof(inject_result))
    if results is NULL:
        raise MemoryError()
    try:
        with nogil:
            r = inject_run(c_targets, n, prepare_deadline_ns, commit_deadline_ns, cancel_fd, results)
        if r < 0:
            raise OSError(-r, "cannot run the inject protocol")
        return [(results[i].status, results[i].phase, results[i].reason.decode("utf-8", "replace"),
                 results[i].text.decode("utf-8", "replace"), results[i].ready_ns, results[i].started_ns)
                for i in range(n)]
    finally:
        free(results)
