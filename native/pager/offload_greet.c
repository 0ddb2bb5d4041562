#define _GNU_SOURCE
#include "offload_greet.h"

#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "deadline.h"
#include "fdutil.h"
#include "offload_door.h"
#include "process.h"

#define CALL_AGAIN_NS (5 * INT64_C(1000000)) /* until the monitor listens */
#define SWEEP_NS (1000 * INT64_C(1000000)) /* a monitor that has begun none by then has none */

static void proceed(struct offload_greet *greet);
static void call(struct offload_greet *greet);

static void fail(struct offload_greet *greet, const char *why)
{
        offload_end(greet->session, OFFLOAD_FAILED, why);
}

/* Send a request and await its answer; what follows the header is queued by the caller. */
static void request(struct offload_greet *greet, enum offload_command command, uint64_t length)
{
        offload_write_request(greet->header, command, length);
        offload_link_send(&greet->link, greet->header, sizeof(greet->header), FD_NONE);
        offload_link_expect(&greet->link, greet->reply, sizeof(greet->reply), false);
        offload_hurry(greet->session);
}

/* Whatever it has got of a machine, it must not run without us. */
void offload_greet_kill(struct offload_greet *greet)
{
        if (greet->has_machine)
                kill_process(greet->pidfd);
}

static void send_text(struct offload_greet *greet, int text)
{
        offload_link_send(&greet->link, greet->texts[text].bytes, greet->texts[text].length, FD_NONE);
}

static void send_slot(struct offload_greet *greet)
{
        request(greet, OFFLOAD_MEMORY_FD, OFFLOAD_SLOT_BYTES);
        offload_write_slot(greet->number, greet->memory->layout.slots[greet->slot].number);
        offload_link_send(&greet->link, greet->number, sizeof(greet->number), greet->memory->fds[greet->slot]);
}

static void send_config(struct offload_greet *greet)
{
        request(greet, OFFLOAD_CONFIG, greet->texts[OFFLOAD_TEXT_CONFIG].length);
        send_text(greet, OFFLOAD_TEXT_CONFIG);
}

static void send_state_text(struct offload_greet *greet)
{
        greet->has_machine = true;
        send_text(greet, OFFLOAD_TEXT_STATE);
}

static void send_state(struct offload_greet *greet)
{
        greet->faults->refuses = greet->owes_state = greet->demand_only;
        request(greet, OFFLOAD_STATE, greet->texts[OFFLOAD_TEXT_STATE].length);
        if (greet->owes_state)
                loop_set(greet->session->loop, &greet->again, now_ns() + SWEEP_NS);
        else
                send_state_text(greet);
}

/* The content of State, once the monitor's sweep was refused, or was waited for in vain. */
static void pay_state(struct offload_greet *greet)
{
        greet->owes_state = greet->faults->refuses = false;
        loop_unset(greet->session->loop, &greet->again);
        send_state_text(greet);
        offload_hurry(greet->session);
        proceed(greet);
}

static void sweep_refused(struct offload_faults *faults)
{
        pay_state(faults->owner);
}

static void faults_closed(struct offload_faults *faults)
{
        struct offload_greet *greet = faults->owner;

        /* Its sweep may be done before it is told to go on. And if it gave up, it has yet to say so. */
        if (greet->stage == GREET_DONE)
                offload_end(greet->session, OFFLOAD_ENDED,
                            faults->has_all ? "the monitor has all of its memory"
                                            : "the monitor closed the connection");
}

static void finish(struct offload_greet *greet)
{
        offload_hurry_not(greet->session);
        offload_link_close(&greet->link);
        greet->done(greet);
        if (greet->faults->is_closed)
                faults_closed(greet->faults);
}

/* The monitor accepted what was sent last: send the next. */
static void go_on(struct offload_greet *greet)
{
        if (greet->stage != GREET_SLOTS || ++greet->slot == greet->memory->layout.n_slots)
                greet->stage++;
        switch (greet->stage) {
        case GREET_SLOTS:
                send_slot(greet);
                break;
        case GREET_CONFIG:
                send_config(greet);
                break;
        case GREET_CALL_FAULTS:
                offload_hurry(greet->session);
                call(greet);
                break;
        case GREET_COMPLETE:
                request(greet, greet->resume ? OFFLOAD_COMPLETE : OFFLOAD_COMPLETE_PAUSED, 0);
                break;
        default:
                finish(greet);
        }
}

static const char *what_was_refused(enum offload_greeting stage)
{
        switch (stage) {
        case GREET_START:
                return "the monitor refused to begin: it speaks another version of the migration protocol";
        case GREET_SLOTS:
                return "the monitor refused a memory slot";
        case GREET_CONFIG:
                return "the monitor refused the configuration: its log says why";
        case GREET_STATE:
                return "the monitor refused the state: its log says why";
        default:
                return "the monitor refused to complete: its log says why";
        }
}

/* The monitor has thrown away what it got: it can be left to itself. */
static void refused(struct offload_greet *greet)
{
        greet->has_machine = false;
        fail(greet, what_was_refused(greet->stage));
}

static void take_reply(struct offload_greet *greet)
{
        struct offload_response response;

        if (offload_read_response(greet->reply, &response) < 0 || response.length != 0)
                fail(greet, "what listens does not speak the migration protocol");
        else if (response.status != OFFLOAD_OK)
                refused(greet);
        else if (greet->owes_state)
                fail(greet, "the monitor accepted a state it did not have yet");
        else
                go_on(greet);
}

/* One message further. Returns 1 if there may be more to do, 0 if the loop will tell, or a negative errno. */
static int step(struct offload_greet *greet)
{
        int r = offload_link_flush(&greet->link);

        if (r > 0)
                r = offload_link_receive(&greet->link);
        if (r > 0)
                take_reply(greet);
        return r;
}

static bool is_talking(const struct offload_greet *greet)
{
        return !greet->session->is_over && greet->link.source.fd >= 0;
}

/* Returns whether it is about the second connection: nothing is awaited on the first. */
static bool is_apart(const struct offload_greet *greet)
{
        return greet->stage == GREET_CALL_FAULTS || greet->stage == GREET_KEEP;
}

static void proceed(struct offload_greet *greet)
{
        int r = 1;

        while (r > 0 && is_talking(greet) && !is_apart(greet))
                r = step(greet);
        if (r >= 0 && is_talking(greet))
                r = offload_link_want(&greet->link, offload_link_is_sending(&greet->link) ? EPOLLOUT : EPOLLIN);
        if (r == -EPROTO)
                fail(greet, "the monitor sent a descriptor");
        else if (r < 0)
                fail(greet, "the monitor went away");
}

static void ready(struct source *source, uint32_t events)
{
        struct offload_greet *greet = container_of(source, struct offload_greet, link.source);

        (void)events;
        if (is_apart(greet))
                fail(greet, "the monitor went away or spoke out of turn");
        else
                proceed(greet);
}

/* Returns whether somebody may still come to listen. */
static bool may_come(int error)
{
        return error == -ENOENT || error == -ECONNREFUSED || error == -EAGAIN;
}

static int begin_talk(struct offload_greet *greet, int fd)
{
        int r = offload_link_open(&greet->link, greet->session->loop, fd, ready);

        r = r ? r : offload_link_peer(&greet->link, greet->session->peer.uid, &greet->pid);
        if (r)
                return r;
        greet->pidfd = offload_peer_process(fd);
        if (greet->pidfd < 0 && greet->pid != getpid())
                return greet->pidfd;
        greet->stage = GREET_START;
        request(greet, OFFLOAD_START, 0);
        return 0;
}

static int begin_faults(struct offload_greet *greet, int fd)
{
        int r = offload_faults_serve(greet->faults, fd);

        if (r)
                return r;
        if (greet->keep) {
                greet->stage = GREET_KEEP;
                offload_hurry(greet->session);
                return greet->keep(greet->session->peer.context, fd);
        }
        greet->stage = GREET_STATE;
        send_state(greet);
        return 0;
}

static void call(struct offload_greet *greet)
{
        int fd = offload_knock(greet->session->peer.socket), r;

        if (may_come(fd)) {
                loop_set(greet->session->loop, &greet->again, now_ns() + CALL_AGAIN_NS);
                return;
        }
        r = fd < 0 ? fd : greet->stage == GREET_CALL ? begin_talk(greet, fd) : begin_faults(greet, fd);
        if (r == 0)
                proceed(greet);
        else
                fail(greet, r == -EPERM   ? "who listens is not the monitor's user"
                            : r == -ESRCH ? "the process of who listens cannot be found"
                                          : "the monitor cannot be connected to");
}

void offload_greet_kept(struct offload_greet *greet, int error)
{
        if (greet->stage != GREET_KEEP || greet->session->is_over)
                return;
        if (error) {
                fail(greet, "nobody holds the monitor's connection in case this process ends");
                return;
        }
        greet->stage = GREET_STATE;
        send_state(greet);
        proceed(greet);
}

static void is_time(struct timer *timer)
{
        struct offload_greet *greet = container_of(timer, struct offload_greet, again);

        if (greet->owes_state)
                pay_state(greet);
        else
                call(greet);
}

void offload_greet_begin(struct offload_greet *greet)
{
        greet->link = (struct offload_link)OFFLOAD_LINK_NONE;
        greet->pidfd = FD_NONE;
        greet->again.due = is_time;
        greet->faults->owner = greet;
        greet->faults->refused = sweep_refused;
        greet->faults->closed = faults_closed;
        offload_hurry(greet->session);
        call(greet);
}

void offload_greet_stop(struct offload_greet *greet)
{
        if (!greet->again.due)
                return;
        loop_unset(greet->session->loop, &greet->again);
        offload_link_close(&greet->link);
        greet->pidfd = close_fd(greet->pidfd);
}

const char *offload_greet_late(const struct offload_greet *greet)
{
        switch (greet->stage) {
        case GREET_CALL:
                return "no monitor listened in time";
        case GREET_KEEP:
                return "nobody came to hold the monitor's connection in time";
        default:
                return "the monitor did not answer in time";
        }
}
