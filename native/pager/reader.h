/* Threads that wait for disks, so that the loop never does. */
#ifndef SNAPSTART_READER_H
#define SNAPSTART_READER_H

#include <pthread.h>
#include <stdbool.h>

#include "loop.h"

/* One thing to do. Owned by whoever submits it, who must not touch it until done is called. */
struct job {
        void (*work)(struct job *job); /* in a thread; may block */
        void (*done)(struct job *job); /* in the loop, always, after work */
        struct job *next;
};

struct reader {
        struct source source; /* an eventfd: jobs are done */
        struct loop *loop;
        pthread_t *threads;
        unsigned n_threads;
        pthread_mutex_t mutex;
        pthread_cond_t changed;
        struct job *waiting, **waiting_end; /* first in, first out */
        struct job *finished, **finished_end;
        bool is_over;
};

/* Start @n_threads threads. @loop: must outlive it. Returns 0 or a negative errno. */
int reader_open(struct reader *reader, struct loop *loop, unsigned n_threads);

/* Wait for what is under way, call done for every job. */
void reader_close(struct reader *reader);

void reader_submit(struct reader *reader, struct job *job);

#endif
