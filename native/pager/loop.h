/* One epoll loop: whoever owns a descriptor registers what to do when it is ready. */
#ifndef SNAPSTART_LOOP_H
#define SNAPSTART_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

#define LOOP_ROUND 64 /* events told in one round, so that nobody waits for many others */

/* Returns what holds @member, which is at @pointer. */
#define container_of(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

/* Embedded in what owns the descriptor, which must outlive its registration. */
struct source {
        /* @events: of epoll_wait(2). May remove any source, its own included, from the loop; memory of a
         * removed source may be freed only from loop_later(). */
        void (*ready)(struct source *source, uint32_t events);
        int fd; /* borrowed */
};

/* Work to do before the loop waits again; a busy one is asked round after round. */
struct idler {
        /* Do a little (well under a millisecond). Returns whether there is more to do. */
        bool (*step)(struct idler *idler);
        struct idler *next;
        bool is_waiting;
};

/* Something to be called once at a time; embedded. */
struct timer {
        void (*due)(struct timer *timer);
        int64_t at_ns; /* CLOCK_MONOTONIC */
        struct timer *next;
};

/* Memory to release once no event of this round can name it any more. */
struct grave {
        void (*release)(struct grave *grave);
        struct grave *next;
};

/* How it went to look out for one who may ask again at once; embedded, all zero at first. */
struct lookout {
        unsigned doubt, skips; /* how often it was in vain of late; how many times not to, for that */
};

struct loop {
        int epoll_fd; /* owned */
        bool is_over;
        struct lookout *lookout; /* for whom to look out before sleeping; borrowed; NULL: nobody */
        struct idler *idlers; /* first in, first served */
        struct timer *timers; /* by time */
        struct grave *graves;
        struct epoll_event round[LOOP_ROUND]; /* being told; those of removed sources are blanked */
        int n_round;
};

/* Returns 0 or a negative errno. */
int loop_open(struct loop *ret_loop);
void loop_close(struct loop *loop);

/* @source: fd and ready are set. @events: EPOLLIN and the like, level triggered.
 * Returns 0 or a negative errno. */
int loop_add(struct loop *loop, struct source *source, uint32_t events);
int loop_change(struct loop *loop, struct source *source, uint32_t events);
void loop_remove(struct loop *loop, struct source *source);

/* Ask for steps until one says that there is nothing more to do. Harmless when it waits already. */
void loop_busy(struct loop *loop, struct idler *idler);
void loop_idle(struct loop *loop, struct idler *idler);

/* Call @timer->due at @at_ns; loop_unset() before it is released if it may not have been due. */
void loop_set(struct loop *loop, struct timer *timer, int64_t at_ns);
void loop_unset(struct loop *loop, struct timer *timer);

/* Whoever was just served may ask again at once: look out for that for some microseconds before the loop sleeps,
 * which saves a wake-up. Where that is in vain it is done ever less. @lookout: of the one who was served. */
static inline void loop_linger(struct loop *loop, struct lookout *lookout)
{
        loop->lookout = lookout;
}

/* Whoever was looked out for is no more. */
static inline void loop_look_away(struct loop *loop, const struct lookout *lookout)
{
        if (loop->lookout == lookout)
                loop->lookout = NULL;
}

void loop_later(struct loop *loop, struct grave *grave);

/* Serve until is_over. Returns 0 or a negative errno of epoll_wait(2). */
int loop_run(struct loop *loop);

#endif
