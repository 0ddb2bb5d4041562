/* Threads that share a piece of work with the loop's own, which waits until all of it is done: so nothing that the
 * loop decides changes meanwhile.
 *
 * Filling pages of one address space from two threads takes 0.55 of one thread's time where there is a free
 * processor. Where there is none, the loop would wait for a thread that does not run: after such a wait it works
 * alone for a while, longer each time. */
#ifndef SNAPSTART_CREW_H
#define SNAPSTART_CREW_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#define CREW_MAX 3

/* Pieces that may be done in any order, several at a time. */
struct crew_work {
        void (*piece)(void *data, size_t i); /* for each i below count */
        void *data;
        size_t count;
};

struct crew {
        pthread_t threads[CREW_MAX];
        unsigned n_threads;
        pthread_mutex_t mutex;
        pthread_cond_t wanted, finished;
        /* Under the mutex: */
        struct crew_work work;
        size_t next; /* piece that nobody has begun */
        bool is_over;
        /* Written under it, also read without, to look out before sleeping: */
        size_t under_way;
        unsigned long turn;
        /* Of the loop's thread alone: */
        unsigned doubt, skips;
};

/* Returns how many threads help on this machine: one less than the processors we may use, at most CREW_MAX. */
unsigned crew_size(void);

/* Start @n_threads threads, at most CREW_MAX; 0 is fine. Returns 0 or a negative errno. */
int crew_open(struct crew *crew, unsigned n_threads);

/* Closing one that was never opened (all zero) is harmless. */
void crew_close(struct crew *crew);

/* Returns how many threads would help now; none of no crew (NULL). */
unsigned crew_helpers(const struct crew *crew);

/* Do all pieces of @work, in several threads if there is a crew; returns when all are done. */
void crew_do(struct crew *crew, const struct crew_work *work);

#endif
