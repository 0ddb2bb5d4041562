#define _GNU_SOURCE
#include "reader.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fdutil.h"

static void put(struct job ***end, struct job *job)
{
        job->next = NULL;
        **end = job;
        *end = &job->next;
}

static struct job *take_all(struct job **first, struct job ***end)
{
        struct job *jobs = *first;

        *first = NULL;
        *end = first;
        return jobs;
}

static void ring(int fd)
{
        uint64_t one = 1;

        /* An eventfd takes it unless its count is full, and then it is readable anyway. */
        while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
                ;
}

/* Returns the next job to do, or NULL when it is over and nothing is left. */
static struct job *take_one(struct reader *reader)
{
        struct job *job;

        while (!reader->waiting && !reader->is_over)
                pthread_cond_wait(&reader->changed, &reader->mutex);
        job = reader->waiting;
        if (job && !(reader->waiting = job->next))
                reader->waiting_end = &reader->waiting;
        return job;
}

static void *serve(void *data)
{
        struct reader *reader = data;
        struct job *job;

        pthread_mutex_lock(&reader->mutex);
        while ((job = take_one(reader))) {
                pthread_mutex_unlock(&reader->mutex);
                job->work(job);
                pthread_mutex_lock(&reader->mutex);
                put(&reader->finished_end, job);
                ring(reader->source.fd);
        }
        pthread_mutex_unlock(&reader->mutex);
        return NULL;
}

static void tell(struct reader *reader)
{
        struct job *job, *next;

        pthread_mutex_lock(&reader->mutex);
        job = take_all(&reader->finished, &reader->finished_end);
        pthread_mutex_unlock(&reader->mutex);
        for (; job; job = next) {
                next = job->next;
                job->done(job);
        }
}

static void rung(struct source *source, uint32_t events)
{
        struct reader *reader = (struct reader *)source;
        uint64_t count;

        (void)events;
        if (read(source->fd, &count, sizeof(count)) < 0)
                return;
        tell(reader);
}

static int start(struct reader *reader, unsigned n_threads)
{
        reader->threads = calloc(n_threads, sizeof(*reader->threads));
        if (!reader->threads)
                return -ENOMEM;
        for (; reader->n_threads < n_threads; reader->n_threads++) {
                int r = pthread_create(&reader->threads[reader->n_threads], NULL, serve, reader);

                if (r)
                        return -r;
        }
        return 0;
}

int reader_open(struct reader *reader, struct loop *loop, unsigned n_threads)
{
        int r;

        *reader = (struct reader){.loop = loop, .source = {.ready = rung, .fd = FD_NONE}};
        reader->waiting_end = &reader->waiting;
        reader->finished_end = &reader->finished;
        pthread_mutex_init(&reader->mutex, NULL);
        pthread_cond_init(&reader->changed, NULL);
        reader->source.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        r = reader->source.fd < 0 ? -errno : loop_add(loop, &reader->source, EPOLLIN);
        r = r ? r : start(reader, n_threads);
        if (r)
                reader_close(reader);
        return r;
}

void reader_close(struct reader *reader)
{
        pthread_mutex_lock(&reader->mutex);
        reader->is_over = true;
        pthread_cond_broadcast(&reader->changed);
        pthread_mutex_unlock(&reader->mutex);
        for (unsigned i = 0; i < reader->n_threads; i++)
                pthread_join(reader->threads[i], NULL);
        tell(reader);
        free(reader->threads);
        loop_remove(reader->loop, &reader->source);
        reader->source.fd = close_fd(reader->source.fd);
        pthread_cond_destroy(&reader->changed);
        pthread_mutex_destroy(&reader->mutex);
}

void reader_submit(struct reader *reader, struct job *job)
{
        pthread_mutex_lock(&reader->mutex);
        put(&reader->waiting_end, job);
        pthread_cond_signal(&reader->changed);
        pthread_mutex_unlock(&reader->mutex);
}
