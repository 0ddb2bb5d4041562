#define _GNU_SOURCE
#include "watch.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/inotify.h>

#include "fdutil.h"

#define EVENTS_BYTES 4096

/* Idle instances, each owned by its slot; 0 for none, or the descriptor plus 1. */
static _Atomic int idle[WATCH_IDLE_MAX];
static pthread_once_t fork_handler_once = PTHREAD_ONCE_INIT;

static int take_idle(void)
{
        for (unsigned i = 0; i < WATCH_IDLE_MAX; i++) {
                int kept = atomic_exchange(&idle[i], 0);

                if (kept)
                        return kept - 1;
        }
        return FD_NONE;
}

static bool keep_idle(int fd)
{
        for (unsigned i = 0; i < WATCH_IDLE_MAX; i++) {
                int none = 0;

                if (atomic_compare_exchange_strong(&idle[i], &none, fd + 1))
                        return true;
        }
        return false;
}

unsigned watch_close_idle(void)
{
        unsigned n = 0;

        for (int fd; (fd = take_idle()) >= 0; n++)
                close_fd(fd);
        return n;
}

/* A child shares its parent's instances: what one reads or removes, the other misses. */
static void forget_in_child(void)
{
        watch_close_idle();
}

static void add_fork_handler(void)
{
        pthread_atfork(NULL, NULL, forget_in_child);
}

int watch_open(struct watch *watch, const char *directory)
{
        *watch = (struct watch){ .fd = take_idle(), .wd = -1 };
        if (watch->fd < 0) {
                pthread_once(&fork_handler_once, add_fork_handler);
                watch->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        }
        if (watch->fd < 0)
                return -errno;
        watch->wd = inotify_add_watch(watch->fd, directory, IN_CREATE | IN_MOVED_TO | IN_ONLYDIR);
        return watch->wd < 0 ? -errno : 0;
}

void watch_drain(const struct watch *watch)
{
        char events[EVENTS_BYTES];

        while (read(watch->fd, events, sizeof(events)) > 0)
                ;
}

/* Returns whether @watch has an instance that watches nothing any more. */
static bool unwatch(const struct watch *watch)
{
        /* EINVAL: the directory is gone, and its watch with it. */
        if (watch->wd >= 0 && inotify_rm_watch(watch->fd, watch->wd) < 0 && errno != EINVAL)
                return false;
        watch_drain(watch); /* IN_IGNORED too */
        return true;
}

void watch_close(struct watch *watch)
{
        int saved = errno;

        if (watch->fd >= 0 && !(unwatch(watch) && keep_idle(watch->fd)))
                close_fd(watch->fd);
        *watch = (struct watch){ .fd = FD_NONE, .wd = -1 };
        errno = saved;
}
