/* Threads that do pieces of work which the loop's thread has planned and does itself too: it takes them from the
 * front, they from the end, until they meet. It never waits for them, but for a piece that is under way when it wants
 * its work back.
 *
 * Filling pages of one address space from two threads takes 0.55 of one thread's time where there is a free
 * processor. Where there is none, threads of machines that run and a thread of the crew take turns on it, and a piece
 * may take as long as such a turn: the loop does the other pieces meanwhile, and those of other machines. */
#ifndef SNAPSTART_CREW_H
#define SNAPSTART_CREW_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "loop.h"

#define CREW_MAX 3

/* Pieces that may be done in any order, several at a time; embedded by whoever plans them. */
struct crew_work {
        void (*piece)(struct crew_work *work, size_t i); /* for each i below end; in any thread */
        /* In the loop, once, after crew_take() found that the last pieces are others': they are done. */
        void (*done)(struct crew_work *work);
        size_t first, end; /* pieces that nobody has begun; set by whoever plans them, then the crew's */
        /* The crew's: */
        size_t under_way; /* pieces that others have begun */
        bool is_offered, is_awaited;
        struct crew_work *next;
};

struct crew {
        struct source source; /* an eventfd: the last pieces of a work that is awaited are done */
        struct loop *loop;
        struct lookout lookout; /* for that */
        pthread_t threads[CREW_MAX];
        unsigned n_threads;
        pthread_mutex_t mutex;
        pthread_cond_t wanted, returned;
        bool is_over;
        struct crew_work *offered; /* first in, first out; also read without the mutex, to look out before sleeping */
        struct crew_work *finished;
};

/* What crew_take() says. */
enum crew_taken {
        CREW_PIECE, /* *ret_i is the caller's to do */
        CREW_AWAITED, /* the last pieces are others': done() will be called */
        CREW_DONE, /* all pieces are done, or nothing is left of them */
};

/* Returns how many threads help on this machine: one less than the processors we may use, at most CREW_MAX. */
unsigned crew_size(void);

static inline bool crew_helps(const struct crew *crew)
{
        return crew->n_threads > 0;
}

/* Start @n_threads threads, at most CREW_MAX; 0 is fine. @loop: must outlive it. Returns 0 or a negative errno. */
int crew_open(struct crew *crew, struct loop *loop, unsigned n_threads);

/* Everything must have been taken back. Closing one that was never opened (all zero) is harmless. */
void crew_close(struct crew *crew);

/* Let the crew do pieces of @work from its end on. Until it is done, or taken back, it is not to be touched but by
 * crew_take(). */
void crew_offer(struct crew *crew, struct crew_work *work);

/* Take the first piece that nobody has begun. */
enum crew_taken crew_take(struct crew *crew, struct crew_work *work, size_t *ret_i);

/* Have nobody begin another piece of @work, and wait for those under way; done() is not called any more. What is from
 * first to end was not begun, and may be offered again. Taking back what was not offered is harmless. */
void crew_take_back(struct crew *crew, struct crew_work *work);

#endif
