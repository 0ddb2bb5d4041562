/* A monitor gives its machine away: everything it sends is on disk before its last message is answered. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "deadline.h"
#include "fdutil.h"
#include "offload_copy.h"
#include "offload_door.h"
#include "offload_intake.h"
#include "offload_link.h"
#include "offload_session.h"
#include "offload_text.h"

#define MAX_STEPS 16 /* messages taken in one go */

enum awaited { A_REQUEST, A_SLOT, A_CONFIG, A_STATE };

struct snapshot {
        struct offload base;
        struct offload_door door;
        struct offload_link link;
        struct intake intake;
        int fds[OFFLOAD_MAX_SLOTS]; /* of the slots, as they came; owned */
        struct offload_text texts[OFFLOAD_TEXTS];
        char *image_path; /* owned */
        enum awaited awaited;
        uint8_t header[OFFLOAD_HEADER_BYTES], slot[OFFLOAD_SLOT_BYTES];
        uint8_t answer[OFFLOAD_HEADER_BYTES];
        enum intake_act act; /* on the request being answered */
        pid_t pid;
        bool is_copying; /* the job has the files, texts and descriptors */
        bool is_saved; /* the monitor was told: the files stay */
        struct job job;
        struct offload_copy copy;
        int result; /* of the job's last step: 1 all on disk, 0 more, or a negative errno */
};

static struct snapshot *snapshot_of(const struct offload *offload)
{
        return (struct snapshot *)offload;
}

static void stop(struct offload *offload)
{
        struct snapshot *snapshot = snapshot_of(offload);

        offload_door_close(&snapshot->door);
        offload_link_close(&snapshot->link);
        if (!snapshot->is_saved && !snapshot->is_copying)
                offload_copy_undo(&snapshot->copy, snapshot->texts);
}

static void release(struct offload *offload)
{
        struct snapshot *snapshot = snapshot_of(offload);

        offload_copy_close(&snapshot->copy);
        for (size_t i = 0; i < OFFLOAD_MAX_SLOTS; i++)
                close_fd(snapshot->fds[i]);
        offload_texts_close(snapshot->texts);
        free(snapshot->image_path);
        free(snapshot);
}

static void get_stats(const struct offload *offload, struct offload_stats *ret_stats)
{
        const struct snapshot *snapshot = snapshot_of(offload);

        *ret_stats = (struct offload_stats){
                .pid = snapshot->pid,
                .pages = snapshot->intake.layout.size_bytes / IMAGE_PAGE_BYTES,
                .data_bytes = snapshot->is_copying ? 0 : snapshot->copy.data_bytes,
        };
}

static int end_recording(struct offload *offload)
{
        (void)offload;
        return -ENODATA;
}

static void kept(struct offload *offload, int error)
{
        (void)offload;
        (void)error;
}

static const char *late(struct offload *offload)
{
        return snapshot_of(offload)->link.source.fd < 0 ? "no monitor connected in time"
                                                        : "the monitor did not send its next message in time";
}

static const struct offload_kind kind = {
        .stop = stop,
        .release = release,
        .get_stats = get_stats,
        .end_recording = end_recording,
        .kept = kept,
        .late = late,
};

static void expect_request(struct snapshot *snapshot)
{
        snapshot->awaited = A_REQUEST;
        offload_link_expect(&snapshot->link, snapshot->header, sizeof(snapshot->header), false);
        offload_hurry(&snapshot->base);
}

static void answer(struct snapshot *snapshot, enum offload_status status)
{
        offload_write_response(snapshot->answer, status);
        offload_link_send(&snapshot->link, snapshot->answer, sizeof(snapshot->answer), FD_NONE);
}

/* Tell the monitor too, if it reads: it gives up at once then, and its guest goes on. */
static void fail(struct snapshot *snapshot, const char *why)
{
        if (snapshot->link.source.fd >= 0) {
                answer(snapshot, OFFLOAD_ERROR);
                offload_link_flush(&snapshot->link);
        }
        offload_end(&snapshot->base, OFFLOAD_FAILED, why);
}

static int begin_copy(struct snapshot *snapshot)
{
        struct offload_copy *copy = &snapshot->copy;
        const struct intake *intake = &snapshot->intake;
        int r = offload_copy_open(copy, &intake->layout, snapshot->image_path);

        for (size_t i = 0; i < intake->layout.n_slots && r == 0; i++)
                r = offload_copy_add(copy, i, snapshot->fds[intake_source(intake, i)]);
        return r;
}

/* In a thread. */
static void copy_some(struct job *job)
{
        struct snapshot *snapshot = container_of(job, struct snapshot, job);
        int r = snapshot->copy.layout ? 0 : begin_copy(snapshot);

        r = r ? r : offload_copy_step(&snapshot->copy);
        if (r == 1) {
                r = offload_copy_keep(&snapshot->copy, snapshot->texts);
                r = r ? r : 1;
        }
        snapshot->result = r;
}

static void proceed(struct snapshot *snapshot);

static void copied(struct job *job)
{
        struct snapshot *snapshot = container_of(job, struct snapshot, job);
        bool goes_on = offload_job_done(&snapshot->base) && !snapshot->base.is_over;

        if (goes_on && snapshot->result == 0) {
                offload_submit(&snapshot->base, job);
                return;
        }
        snapshot->is_copying = false;
        if (!goes_on) {
                stop(&snapshot->base);
                return;
        }
        if (snapshot->result < 0) {
                fail(snapshot, snapshot->copy.why);
                return;
        }
        answer(snapshot, OFFLOAD_OK);
        offload_hurry(&snapshot->base);
        proceed(snapshot);
}

static void save(struct snapshot *snapshot)
{
        snapshot->is_copying = true;
        offload_hurry_not(&snapshot->base);
        snapshot->job = (struct job){ .work = copy_some, .done = copied };
        offload_submit(&snapshot->base, &snapshot->job);
}

static int expect_text(struct snapshot *snapshot, int text, enum awaited awaited, uint64_t length)
{
        snapshot->texts[text].bytes = malloc(length);
        if (!snapshot->texts[text].bytes)
                return -ENOMEM;
        snapshot->texts[text].length = length;
        snapshot->awaited = awaited;
        offload_link_expect(&snapshot->link, snapshot->texts[text].bytes, length, false);
        return 0;
}

static int take_request(struct snapshot *snapshot)
{
        struct offload_request request;
        int act = offload_read_request(snapshot->header, &request);

        if (act < 0) {
                snapshot->intake.why = "what connected does not speak the migration protocol";
                return act;
        }
        act = intake_request(&snapshot->intake, &request);
        if (act < 0)
                return act;
        snapshot->act = (enum intake_act)act;
        switch (snapshot->act) {
        case INTAKE_RECEIVE_SLOT:
                snapshot->awaited = A_SLOT;
                offload_link_expect(&snapshot->link, snapshot->slot, sizeof(snapshot->slot), true);
                return 0;
        case INTAKE_RECEIVE_CONFIG:
                return expect_text(snapshot, OFFLOAD_TEXT_CONFIG, A_CONFIG, request.length);
        case INTAKE_RECEIVE_STATE:
                return expect_text(snapshot, OFFLOAD_TEXT_STATE, A_STATE, request.length);
        case INTAKE_SAVE:
                save(snapshot);
                return 0;
        case INTAKE_ACKNOWLEDGE:
        case INTAKE_END:
                break;
        }
        answer(snapshot, OFFLOAD_OK);
        return 0;
}

static int take_slot(struct snapshot *snapshot)
{
        size_t i = snapshot->intake.n_slots;
        int r;

        snapshot->fds[i] = offload_link_take_fd(&snapshot->link);
        r = offload_copy_check(snapshot->fds[i]);
        if (r < 0) {
                snapshot->intake.why = "a descriptor of memory is none of a memfd or of tmpfs or hugetlbfs";
                return r;
        }
        r = intake_slot(&snapshot->intake, offload_read_slot(snapshot->slot));
        if (r == 0)
                answer(snapshot, OFFLOAD_OK);
        else
                snapshot->fds[i] = close_fd(snapshot->fds[i]);
        return r;
}

static int take_text(struct snapshot *snapshot)
{
        const struct offload_text *config = &snapshot->texts[OFFLOAD_TEXT_CONFIG];
        int r = snapshot->awaited == A_CONFIG ? intake_config(&snapshot->intake, config->bytes, config->length) : 0;

        if (r == 0)
                answer(snapshot, OFFLOAD_OK);
        return r;
}

static int take(struct snapshot *snapshot)
{
        switch (snapshot->awaited) {
        case A_REQUEST:
                return take_request(snapshot);
        case A_SLOT:
                return take_slot(snapshot);
        case A_CONFIG:
        case A_STATE:
                break;
        }
        return take_text(snapshot);
}

/* Everything that was to be said before the next request was sent. */
static void answered(struct snapshot *snapshot)
{
        if (snapshot->act == INTAKE_SAVE) {
                snapshot->is_saved = true;
                offload_end(&snapshot->base, OFFLOAD_SAVED, NULL);
        } else if (snapshot->act == INTAKE_END) {
                offload_end(&snapshot->base, OFFLOAD_FAILED, snapshot->intake.why);
        } else {
                expect_request(snapshot);
        }
}

/* One message further. Returns 1 if there may be more to do, 0 if the loop will tell, or a negative errno. */
static int step(struct snapshot *snapshot)
{
        bool had_answer = offload_link_is_sending(&snapshot->link);
        int r = offload_link_flush(&snapshot->link);

        if (r <= 0)
                return r;
        if (had_answer) {
                answered(snapshot);
                return !snapshot->base.is_over;
        }
        r = offload_link_receive(&snapshot->link);
        if (r <= 0)
                return r;
        r = take(snapshot);
        return r < 0 ? r : !snapshot->is_copying;
}

static const char *explain(const struct snapshot *snapshot, int error)
{
        if (snapshot->intake.why)
                return snapshot->intake.why;
        if (error == -EPROTO)
                return "the monitor sent descriptors where none belong, or none with a memory slot";
        if (error == -ENOMEM)
                return "there is no memory for what the monitor sends";
        return "the monitor went away before it was answered";
}

static void proceed(struct snapshot *snapshot)
{
        int r = 1;

        for (int i = 0; i < MAX_STEPS && r > 0; i++)
                r = step(snapshot);
        if (snapshot->base.is_over)
                return;
        if (r >= 0)
                r = offload_link_want(&snapshot->link, snapshot->is_copying                       ? 0
                                                       : offload_link_is_sending(&snapshot->link) ? EPOLLOUT
                                                                                                  : EPOLLIN);
        if (r < 0)
                fail(snapshot, explain(snapshot, r));
}

static void ready(struct source *source, uint32_t events)
{
        struct snapshot *snapshot = container_of(source, struct snapshot, link.source);

        /* Nothing was asked for while its memory is read, so it is the end of the monitor. */
        if (snapshot->is_copying) {
                if (events & (EPOLLHUP | EPOLLERR))
                        offload_end(&snapshot->base, OFFLOAD_FAILED, "the monitor went away while its memory was read");
                return;
        }
        proceed(snapshot);
}

/* The monitor, or one who may not. */
static void came(struct offload_door *door, int fd)
{
        struct snapshot *snapshot = container_of(door, struct snapshot, door);

        if (fd < 0 || offload_link_open(&snapshot->link, snapshot->base.loop, fd, ready) < 0) {
                fail(snapshot, "the monitor's connection could not be accepted");
                return;
        }
        if (offload_link_peer(&snapshot->link, snapshot->base.peer.uid, &snapshot->pid) < 0) {
                offload_link_close(&snapshot->link);
                return;
        }
        offload_door_close(&snapshot->door);
        expect_request(snapshot);
}

static bool exists(const char *path)
{
        return faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

int offload_snapshot_open(struct loop *loop, struct reader *reader, const struct offload_snapshot_order *order,
                          struct offload **ret_offload)
{
        struct snapshot *snapshot;
        int r;

        if (exists(order->image) || exists(order->config) || exists(order->state))
                return -EEXIST;
        snapshot = calloc(1, sizeof(*snapshot));
        if (!snapshot)
                return -ENOMEM;
        snapshot->link = (struct offload_link)OFFLOAD_LINK_NONE;
        for (size_t i = 0; i < OFFLOAD_MAX_SLOTS; i++)
                snapshot->fds[i] = FD_NONE;
        r = offload_begin(&snapshot->base, &kind, loop, reader, &order->peer);
        r = r ? r : offload_texts_name(snapshot->texts, order->config, order->state);
        snapshot->image_path = strdup(order->image);
        r = r || snapshot->image_path ? r : -ENOMEM;
        r = r ? r : offload_door_open(&snapshot->door, loop, snapshot->base.peer.socket, order->peer.uid, came);
        if (r) {
                offload_give_up(&snapshot->base);
                return r;
        }
        offload_hurry(&snapshot->base);
        *ret_offload = &snapshot->base;
        return 0;
}
