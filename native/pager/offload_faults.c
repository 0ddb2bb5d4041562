#define _GNU_SOURCE
#include "offload_faults.h"

#include <errno.h>
#include <sys/epoll.h>

#include "deadline.h"
#include "fdutil.h"

#define STALL_US 10000
#define NS_PER_US 1000

int offload_faults_open(struct offload_faults *faults, struct offload *session, struct offload_memory *memory,
                        const struct image *image)
{
        int r;

        *faults = (struct offload_faults){ .session = session, .link = OFFLOAD_LINK_NONE };
        r = offload_fill_open(&faults->fill, memory, image);
        return r ? r : offload_touches_open(&faults->touches, image);
}

void offload_faults_stop(struct offload_faults *faults)
{
        if (faults->session)
                offload_link_close(&faults->link);
}

void offload_faults_close(struct offload_faults *faults)
{
        offload_faults_stop(faults);
        offload_fill_close(&faults->fill);
        offload_touches_close(&faults->touches);
}

static const char *explain(int error)
{
        switch (error) {
        case -ESTALE:
                return "the image was changed or cut while a machine ran on it";
        case -EIO:
                return "the image cannot be read";
        case -ENOMEM:
        case -ENOSPC:
                return "there is no memory for the machine's pages";
        default:
                return "a page could not be filled";
        }
}

static void count_stall(struct offload_faults *faults)
{
        uint64_t us = (uint64_t)(now_ns() - faults->asked_ns) / NS_PER_US;

        faults->n_stalls += us > STALL_US;
        faults->max_stall_us = us > faults->max_stall_us ? us : faults->max_stall_us;
}

static void answer(struct offload_faults *faults, enum offload_status status)
{
        offload_write_response(faults->answer, status);
        offload_link_send(&faults->link, faults->answer, sizeof(faults->answer), FD_NONE);
        offload_link_expect(&faults->link, faults->request, sizeof(faults->request), false);
}

/* Not told to the monitor: it would close its userfaultfd before it ends. */
static void fail(struct offload_faults *faults, const char *why)
{
        offload_end(faults->session, OFFLOAD_FAILED, why);
}

static void proceed(struct offload_faults *faults);

static bool is_over(const struct offload_faults *faults)
{
        return faults->is_closed || faults->session->is_over;
}

static void finish(struct offload_faults *faults, int r)
{
        if (r) {
                fail(faults, explain(r));
                return;
        }
        count_stall(faults);
        answer(faults, OFFLOAD_OK);
}

/* In a thread. */
static void serve_waiting(struct job *job)
{
        struct offload_faults *faults = container_of(job, struct offload_faults, job);

        faults->result = offload_fill_pages(&faults->fill, faults->page, faults->pages, true);
}

static void served(struct job *job)
{
        struct offload_faults *faults = container_of(job, struct offload_faults, job);

        faults->is_busy = false;
        if (!offload_job_done(faults->session) || is_over(faults))
                return;
        finish(faults, faults->result);
        if (!is_over(faults))
                proceed(faults);
}

/* Huge pages take long even out of the page cache. */
static void serve(struct offload_faults *faults)
{
        int r = -EAGAIN;

        if (faults->pages <= OFFLOAD_PIECE_PAGES)
                r = offload_fill_pages(&faults->fill, faults->page, faults->pages, false);
        if (r != -EAGAIN) {
                finish(faults, r);
                return;
        }
        faults->is_busy = true;
        faults->job = (struct job){ .work = serve_waiting, .done = served };
        offload_submit(faults->session, &faults->job);
}

static void count(struct offload_faults *faults)
{
        struct offload_memory *memory = faults->fill.memory;
        struct offload_asked asked = offload_touches_note(&faults->touches, &memory->layout, faults->fill.image,
                                                          faults->page, faults->pages);

        faults->n_background += asked.is_sweep;
        faults->n_faults += !asked.is_sweep;
        faults->n_covered += !asked.is_sweep && asked.is_new && offload_memory_has(memory, faults->page, faults->pages);
}

static void refuse(struct offload_faults *faults)
{
        faults->refuses = false;
        faults->touches.has_sweep = false;
        answer(faults, OFFLOAD_ERROR);
        faults->refused(faults);
}

static void take_range(struct offload_faults *faults)
{
        struct offload_range range;

        offload_read_range(faults->request + OFFLOAD_HEADER_BYTES, &range);
        if (offload_layout_pages(&faults->fill.memory->layout, &range, &faults->page, &faults->pages) < 0) {
                fail(faults, "the monitor asked for memory it does not have");
                return;
        }
        faults->asked_ns = now_ns();
        if (faults->refuses) {
                refuse(faults);
                return;
        }
        count(faults);
        serve(faults);
}

/* Look at what came of a request. A range follows only one for a page, and nothing any other. */
static void take(struct offload_faults *faults)
{
        struct offload_request request;
        int r = offload_read_request(faults->request, &request);

        if (r == 0 && request.command == OFFLOAD_PAGE_FAULT && request.length == OFFLOAD_RANGE_BYTES) {
                if (faults->link.got == sizeof(faults->request))
                        take_range(faults);
        } else if (r == 0 && request.command == OFFLOAD_ABANDON) {
                faults->is_leaving = true;
                answer(faults, OFFLOAD_OK);
        } else {
                fail(faults, "the monitor sent something else than a request for a page");
        }
}

/* The monitor needs nothing more, or is gone. */
static void end(struct offload_faults *faults)
{
        faults->is_closed = true;
        faults->has_all = offload_touches_has_all(&faults->touches, &faults->fill.memory->layout);
        offload_link_close(&faults->link);
        faults->closed(faults);
}

/* Receive what there is. Returns 1 if a request was taken, 0 if it is not complete, or a negative errno. */
static int receive(struct offload_faults *faults)
{
        int r = offload_link_receive(&faults->link);

        if (r < 0 || faults->link.got < OFFLOAD_HEADER_BYTES)
                return r;
        take(faults);
        return r || faults->is_leaving;
}

/* One request further: of a monitor that sends more without waiting for its answers, the loop tells again.
 * Returns 0 or more, or a negative errno. */
static int step(struct offload_faults *faults)
{
        int r = offload_link_is_sending(&faults->link) ? 1 : receive(faults);

        if (r <= 0 || faults->is_busy || is_over(faults))
                return r < 0 ? r : 0;
        r = offload_link_flush(&faults->link);
        return r > 0 && faults->is_leaving ? -ECONNRESET : r;
}

static void proceed(struct offload_faults *faults)
{
        int r = step(faults);

        if (r == -EPROTO)
                fail(faults, "the monitor sent a descriptor with a request for a page");
        else if (r < 0)
                end(faults);
        if (is_over(faults))
                return;
        r = offload_link_want(&faults->link, faults->is_busy                         ? 0
                                             : offload_link_is_sending(&faults->link) ? EPOLLOUT
                                                                                      : EPOLLIN);
        if (r < 0)
                offload_end(faults->session, OFFLOAD_FAILED, "the connection for faults cannot be waited for");
}

static void ready(struct source *source, uint32_t events)
{
        struct offload_faults *faults = container_of(source, struct offload_faults, link.source);

        if (!faults->is_busy)
                proceed(faults);
        else if (events & (EPOLLHUP | EPOLLERR))
                end(faults);
}

int offload_faults_serve(struct offload_faults *faults, int fd)
{
        pid_t pid;
        int r = offload_link_open(&faults->link, faults->session->loop, fd, ready);

        r = r ? r : offload_link_peer(&faults->link, faults->session->peer.uid, &pid);
        if (r)
                return r;
        offload_write_role(faults->role, OFFLOAD_ROLE_FAULT);
        offload_link_send(&faults->link, faults->role, sizeof(faults->role), FD_NONE);
        offload_link_expect(&faults->link, faults->request, sizeof(faults->request), false);
        return offload_link_want(&faults->link, EPOLLOUT);
}
