#define _GNU_SOURCE
#include "offload.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "deadline.h"
#include "fdutil.h"
#include "offload_link.h"
#include "offload_session.h"
#include "process.h"

static void is_late(struct timer *timer)
{
        struct offload *offload = container_of(timer, struct offload, patience);

        offload_end(offload, OFFLOAD_FAILED, offload->kind->late(offload));
}

static void bury(struct grave *grave)
{
        struct offload *offload = container_of(grave, struct offload, grave);
        void (*closed)(void *context) = offload->peer.closed;
        void *context = offload->peer.context;

        free((char *)offload->peer.socket);
        offload->kind->release(offload);
        if (closed)
                closed(context);
}

int offload_begin(struct offload *offload, const struct offload_kind *kind, struct loop *loop,
                  struct reader *reader, const struct offload_peer *peer)
{
        *offload = (struct offload){
                .kind = kind,
                .loop = loop,
                .reader = reader,
                .peer = *peer,
                .patience = { .due = is_late },
                .grave = { .release = bury },
        };
        offload->peer.socket = strdup(peer->socket);
        return offload->peer.socket ? 0 : -ENOMEM;
}

void offload_give_up(struct offload *offload)
{
        offload_hurry_not(offload);
        offload->kind->stop(offload);
        offload->peer.closed = NULL;
        bury(&offload->grave);
}

void offload_tell(struct offload *offload, enum offload_event event, const char *why)
{
        if (!offload->is_closed)
                offload->peer.event(offload->peer.context, event, why);
}

void offload_end(struct offload *offload, enum offload_event event, const char *why)
{
        if (offload->is_over)
                return;
        offload->is_over = true;
        offload_hurry_not(offload);
        offload->kind->stop(offload);
        offload_tell(offload, event, why);
}

void offload_hurry(struct offload *offload)
{
        loop_set(offload->loop, &offload->patience, now_ns() + offload->peer.patience_ns);
}

void offload_hurry_not(struct offload *offload)
{
        loop_unset(offload->loop, &offload->patience);
}

void offload_submit(struct offload *offload, struct job *job)
{
        offload->n_jobs++;
        reader_submit(offload->reader, job);
}

bool offload_job_done(struct offload *offload)
{
        offload->n_jobs--;
        if (!offload->is_closed)
                return true;
        if (offload->n_jobs == 0)
                loop_later(offload->loop, &offload->grave);
        return false;
}

void offload_get_stats(const struct offload *offload, struct offload_stats *ret_stats)
{
        offload->kind->get_stats(offload, ret_stats);
}

int offload_end_recording(struct offload *offload)
{
        return offload->kind->end_recording(offload);
}

void offload_kept(struct offload *offload, int error)
{
        offload->kind->kept(offload, error);
}

int offload_end_orphan(int fd)
{
        _cleanup_close_ int pidfd = offload_peer_process(fd);

        if (pidfd < 0)
                return pidfd == -ESRCH ? 0 : pidfd;
        kill_process(pidfd);
        return 1;
}

void offload_close(struct offload *offload)
{
        if (!offload)
                return;
        offload->is_over = offload->is_closed = true;
        offload_hurry_not(offload);
        offload->kind->stop(offload);
        if (offload->n_jobs == 0)
                loop_later(offload->loop, &offload->grave);
}
