/* Learn that something in a directory was created or renamed into place.
 *
 * The last close(2) of an inotify instance waits for a grace period of the kernel, 1 to 25 ms (Linux
 * fs/notify/group.c, fsnotify_destroy_group: it waits until its marks are destroyed);
 * inotify_rm_watch(2) does not. So the process keeps up to WATCH_IDLE_MAX instances without a watch
 * and lends them out again. Any thread may call; a forked child begins without idle instances. */
#ifndef SNAPSTART_WATCH_H
#define SNAPSTART_WATCH_H

#define WATCH_IDLE_MAX 16

struct watch {
        int fd; /* owned until watch_close; readable when something appeared */
        int wd;
};

/* Watch @directory, until watch_close(), which must be called even after a failure.
 * Returns 0 or a negative errno of inotify_init1(2) or inotify_add_watch(2). */
int watch_open(struct watch *watch, const char *directory);

/* Forget what appeared so far. An entry can be announced once more after that, even one of an earlier
 * directory: what a watch says means "look", never "it is there". */
void watch_drain(const struct watch *watch);

/* Idempotent. Does not wait, unless WATCH_IDLE_MAX instances are idle. */
void watch_close(struct watch *watch);

/* Close the idle instances. Returns how many there were. */
unsigned watch_close_idle(void);

#endif
