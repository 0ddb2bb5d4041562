/* What tests of offload sessions share: a loop with reader threads, events that are waited for, a directory of
 * files, a monitor in a thread of its own. */
#ifndef SNAPSTART_TEST_OFFLOAD_H
#define SNAPSTART_TEST_OFFLOAD_H

#include <limits.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "check.h"
#include "deadline.h"
#include "image.h"
#include "loop.h"
#include "offload.h"
#include "reader.h"
#include "standin_offload.h"

#define SEED UINT64_C(0x5eed)
#define ZERO_SHARE 0.5
#define STATE_TEXT "{\"snapshots\":{}}"
#define PATIENCE_NS (20 * NS_PER_S) /* nothing takes as long */
#define SHORT_NS (NS_PER_S / 20) /* for peers that stay silent */

struct pager {
        struct loop loop;
        struct reader reader;
        struct timer hang;
        char directory[64];
        enum offload_event awaited;
        bool came; /* the event that is awaited */
        unsigned n_ends; /* events that end a session */
        const char *why; /* of the last event */
        unsigned n_closed;
        int n_fds; /* before it was opened */
};

static inline void pager_hangs(struct timer *timer)
{
        (void)timer;
        fprintf(stderr, "an event that is awaited does not come\n");
        abort();
}

static inline void pager_open(struct pager *pager)
{
        const char *parent = getenv("TMPDIR");

        *pager = (struct pager){ .hang = { .due = pager_hangs }, .n_fds = count_fds() };
        snprintf(pager->directory, sizeof(pager->directory), "%s/offload-XXXXXX",
                 parent && strlen(parent) < 40 ? parent : "/tmp");
        CHECK(mkdtemp(pager->directory));
        CHECK_EQ(loop_open(&pager->loop), 0);
        CHECK_EQ(reader_open(&pager->reader, &pager->loop, 2), 0);
}

/* The path of a file of the test, in one of a few buffers. */
static inline const char *in(const struct pager *pager, const char *name)
{
        static char paths[8][PATH_MAX];
        static unsigned next;
        char *path = paths[next++ % 8];

        snprintf(path, PATH_MAX, "%s/%s", pager->directory, name);
        return path;
}

static inline void pager_event(void *context, enum offload_event event, const char *why)
{
        struct pager *pager = context;

        pager->why = why;
        pager->n_ends += event == OFFLOAD_SAVED || event == OFFLOAD_ENDED || event == OFFLOAD_FAILED;
        if (event != pager->awaited) {
                CHECK(pager->n_ends == 0 || event != OFFLOAD_FAILED || (fprintf(stderr, "failed: %s\n", why), false));
                return;
        }
        pager->came = true;
        pager->loop.is_over = true;
}

static inline void pager_closed(void *context)
{
        ((struct pager *)context)->n_closed++;
}

static inline struct offload_peer pager_peer(struct pager *pager, const char *socket, int64_t patience_ns)
{
        return (struct offload_peer){
                .socket = socket,
                .uid = geteuid(),
                .patience_ns = patience_ns,
                .event = pager_event,
                .closed = pager_closed,
                .context = pager,
        };
}

/* Let the loop run until it is told to stop. */
static inline void pager_run(struct pager *pager)
{
        pager->loop.is_over = false;
        loop_set(&pager->loop, &pager->hang, now_ns() + PATIENCE_NS);
        CHECK_EQ(loop_run(&pager->loop), 0);
        loop_unset(&pager->loop, &pager->hang);
}

/* Let it run until @event came. Returns its why. */
static inline const char *pager_until(struct pager *pager, enum offload_event event)
{
        pager->awaited = event;
        pager->came = false;
        pager_run(pager);
        CHECK(pager->came);
        return pager->why;
}

struct pager_alarm {
        struct timer timer;
        struct pager *pager;
};

static inline void pager_alarm(struct timer *timer)
{
        ((struct pager_alarm *)timer)->pager->loop.is_over = true;
}

/* Let it run for a while. */
static inline void pager_for(struct pager *pager, int64_t ns)
{
        struct pager_alarm alarm = { { .due = pager_alarm }, pager };

        loop_set(&pager->loop, &alarm.timer, now_ns() + ns);
        pager_run(pager);
        loop_unset(&pager->loop, &alarm.timer);
}

/* Let it run until @condition holds. */
#define PAGER_UNTIL(pager, condition)                              \
        do {                                                       \
                int64_t limit_ns = now_ns() + PATIENCE_NS;         \
                while (!(condition)) {                             \
                        CHECK(now_ns() < limit_ns);                \
                        pager_for((pager), NS_PER_S / 1000);       \
                }                                                  \
        } while (0)

static inline bool is_readable(int fd)
{
        struct pollfd one = { .fd = fd, .events = POLLIN };

        return poll(&one, 1, 0) > 0;
}

/* Let it run until it answers. Returns the status. */
static inline int pager_hear(struct pager *pager, int fd)
{
        PAGER_UNTIL(pager, is_readable(fd));
        return off_hear(fd);
}

static inline unsigned count_files(const char *directory)
{
        DIR *files = opendir(directory);
        struct dirent *file;
        unsigned n = 0;

        CHECK(files);
        while ((file = readdir(files)))
                n += file->d_name[0] != '.';
        closedir(files);
        return n;
}

static inline void empty(const char *directory)
{
        DIR *files = opendir(directory);
        struct dirent *file;

        CHECK(files);
        while ((file = readdir(files)))
                if (file->d_name[0] != '.')
                        CHECK_EQ(unlinkat(dirfd(files), file->d_name, 0), 0);
        closedir(files);
}

/* Close a session, and see that it is gone. */
static inline void pager_close_session(struct pager *pager, struct offload *offload)
{
        unsigned n = pager->n_closed;

        offload_close(offload);
        PAGER_UNTIL(pager, pager->n_closed > n);
        CHECK_EQ(pager->n_closed, n + 1);
}

/* Nothing may be left behind. */
static inline void pager_close(struct pager *pager)
{
        reader_close(&pager->reader);
        loop_close(&pager->loop);
        empty(pager->directory);
        CHECK_EQ(rmdir(pager->directory), 0);
        CHECK_EQ(count_fds(), pager->n_fds);
}

static inline void write_file(const char *path, const void *bytes, size_t n)
{
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        CHECK(fd >= 0);
        CHECK_EQ(write(fd, bytes, n), n);
        close(fd);
}

/* Returns a file's content, ended by NUL; owned by the caller. */
static inline char *read_whole(const char *path, size_t *ret_length)
{
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        struct stat st;
        char *bytes;

        CHECK(fd >= 0 && fstat(fd, &st) == 0);
        bytes = calloc(1, (size_t)st.st_size + 1);
        CHECK_EQ(read(fd, bytes, (size_t)st.st_size), st.st_size);
        close(fd);
        *ret_length = (size_t)st.st_size;
        return bytes;
}

#endif
