#define _GNU_SOURCE
#include "offload_ahead.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "image.h"

#define BUFFER_BYTES (OFFLOAD_PIECE_PAGES * IMAGE_PAGE_BYTES)
/* Who waits for a disk because a guest asked waits for no more than this of everybody else's. */
#define STEP_PAGES 512

static off_t data_offset(const struct offload_ahead *ahead)
{
        const struct working_set *set = ahead->set;

        return set->data - (const uint8_t *)set->mapping + (off_t)(ahead->data_page * IMAGE_PAGE_BYTES);
}

static int read_data(struct offload_ahead *ahead, uint64_t pages)
{
        size_t n = pages * IMAGE_PAGE_BYTES, got = 0;

        while (got < n) {
                ssize_t r = pread(ahead->set->fd, ahead->buffer + got, n - got, data_offset(ahead) + (off_t)got);

                if (r < 0 && errno == EINTR)
                        continue;
                if (r <= 0)
                        return r < 0 ? -errno : -ENODATA;
                got += (size_t)r;
        }
        return 0;
}

/* Install the next pages of the run. Returns how many, or a negative errno. */
static int64_t install_some(struct offload_ahead *ahead)
{
        const struct run *run = &ahead->set->runs[ahead->run];
        uint64_t left = run->pages - ahead->in_run;
        uint64_t pages = left < OFFLOAD_PIECE_PAGES ? left : OFFLOAD_PIECE_PAGES;
        bool is_zero = run->flags & TOUCH_ZERO;
        int64_t r = is_zero ? 0 : read_data(ahead, pages);

        if (r == 0)
                r = offload_memory_install(ahead->memory, run->page + ahead->in_run, pages,
                                           is_zero ? NULL : ahead->buffer);
        if (r < 0)
                return r;
        ahead->done += (uint64_t)r;
        ahead->data_page += is_zero ? 0 : pages;
        ahead->in_run += pages;
        if (ahead->in_run == run->pages) {
                ahead->in_run = 0;
                ahead->run++;
        }
        return (int64_t)pages;
}

/* In a thread. */
static void work(struct job *job)
{
        struct offload_ahead *ahead = container_of(job, struct offload_ahead, job);
        int64_t left = STEP_PAGES, r = 0;

        posix_fadvise(ahead->set->fd, data_offset(ahead), STEP_PAGES * IMAGE_PAGE_BYTES, POSIX_FADV_WILLNEED);
        for (; left > 0 && r >= 0 && ahead->run < ahead->set->n_runs; left -= r)
                r = install_some(ahead);
        ahead->result = r < 0 ? (int)r : ahead->run < ahead->set->n_runs;
}

static void worked(struct job *job)
{
        struct offload_ahead *ahead = container_of(job, struct offload_ahead, job);

        ahead->n_installed += ahead->done;
        ahead->done = 0;
        if (!offload_job_done(ahead->session))
                return;
        if (ahead->result == 1 && !ahead->session->is_over)
                offload_submit(ahead->session, job);
        else
                offload_ahead_close(ahead);
}

int offload_ahead_begin(struct offload_ahead *ahead, struct offload *session, struct offload_memory *memory,
                        const struct working_set *set)
{
        *ahead = (struct offload_ahead){
                .session = session,
                .memory = memory,
                .set = set,
                .job = { .work = work, .done = worked },
                .buffer = offload_alloc_locked(BUFFER_BYTES),
        };
        if (!ahead->buffer)
                return -ENOMEM;
        offload_submit(session, &ahead->job);
        return 0;
}

void offload_ahead_close(struct offload_ahead *ahead)
{
        offload_free_locked(ahead->buffer, BUFFER_BYTES);
        ahead->buffer = NULL;
}
