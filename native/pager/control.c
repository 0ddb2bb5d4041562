#define _GNU_SOURCE
#include "control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "control_request.h"
#include "deadline.h"
#include "fdutil.h"
#include "json_out.h"
#include "json_scan.h"
#include "recording.h"
#include "stats.h"

#ifndef PAGER_VERSION
#define PAGER_VERSION "0"
#endif

#define LINE_MAX_BYTES (64 * 1024)
#define LINKS_MAX 256
#define BACKLOG 64
#define LINES_PER_TURN 16
#define OP_BYTES 32

/* One client. */
struct control_link {
        struct source source;
        struct timer timer;
        struct grave grave;
        struct control *control;
        struct control_link *next;
        uint64_t serial; /* unlike every other's */
        char *in; /* LINE_MAX_BYTES; owned */
        size_t n_in;
        char *out; /* what was not taken yet; owned */
        size_t n_out, at_out;
        char waiting_for[JOURNAL_ID_BYTES]; /* the machine of a wait that is not answered; empty: none */
        bool is_busy; /* a request is under way: the next is not read */
        bool is_reading; /* read_on() goes on by itself when it is answered */
};

struct word {
        int error;
        const char *word;
};

static const char *word_of(int error)
{
        static const struct word words[] = {
                {-EEXIST, "exists"},   {-EBADMSG, "invalid"}, {-ENAMETOOLONG, "invalid"},
                {-ENOENT, "unknown"},  {-ENODATA, "unknown"}, {-ETIMEDOUT, "timeout"},
        };

        for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
                if (words[i].error == error)
                        return words[i].word;
        return "system";
}

/* -- answering ------------------------------------------------------------------------------------- */

static void link_close(struct control_link *link);
static void read_on(struct control_link *link);

/* Send what is left. Returns false if the client is gone. */
static bool flush(struct control_link *link)
{
        while (link->at_out < link->n_out) {
                ssize_t n = send(link->source.fd, link->out + link->at_out, link->n_out - link->at_out,
                                 MSG_NOSIGNAL | MSG_DONTWAIT);

                if (n < 0 && errno == EAGAIN)
                        return loop_change(&link->control->server->loop, &link->source, EPOLLOUT) == 0;
                if (n < 0 && errno != EINTR)
                        return false;
                link->at_out += n > 0 ? (size_t)n : 0;
        }
        free(link->out);
        link->out = NULL;
        link->n_out = link->at_out = 0;
        link->is_busy = false;
        return loop_change(&link->control->server->loop, &link->source, EPOLLIN) == 0;
}

/* Answer the request; @out is closed by it. */
static void answer(struct control_link *link, struct json_out *out)
{
        loop_unset(&link->control->server->loop, &link->timer);
        link->waiting_for[0] = '\0';
        link->out = json_close(out, &link->n_out);
        link->at_out = 0;
        if (!link->out || !flush(link))
                link_close(link);
        else if (!link->is_reading)
                read_on(link);
}

static void refuse(struct control_link *link, const char *word, const char *message)
{
        struct json_out out;

        if (json_open(&out)) {
                link_close(link);
                return;
        }
        json_put_boolean(&out, "ok", false);
        json_put_text(&out, "error", word);
        json_put_text(&out, "message", message);
        answer(link, &out);
}

/* Begin a good answer. Returns false, with the client gone, if there is no memory. */
static bool accepted(struct control_link *link, struct json_out *out)
{
        if (json_open(out)) {
                link_close(link);
                return false;
        }
        json_put_boolean(out, "ok", true);
        return true;
}

static void answer_ok(struct control_link *link)
{
        struct json_out out;

        if (accepted(link, &out))
                answer(link, &out);
}

/* -- requests -------------------------------------------------------------------------------------- */

static int64_t count_machines(const struct server *server)
{
        int64_t n = 0;

        for (const struct machine *one = server->machines; one; one = one->next)
                n++;
        return n;
}

static void hello(struct control_link *link, struct json request)
{
        struct json_out out;

        (void)request;
        if (!accepted(link, &out))
                return;
        json_put_text(&out, "version", PAGER_VERSION);
        json_put_integer(&out, "pid", getpid());
        json_put_integer(&out, "machines", count_machines(link->control->server));
        answer(link, &out);
}

static void listen_for(struct control_link *link, struct json request)
{
        struct machine_order *order = calloc(1, sizeof(*order));
        const char *why;
        int r;

        if (!order) {
                link_close(link);
                return;
        }
        why = request_order(request, order);
        r = why ? -EBADMSG : server_listen(link->control->server, order, &why);
        free(order);
        if (r == -ENAMETOOLONG || r == -EBADMSG || r == -EEXIST)
                refuse(link, word_of(r), why);
        else if (r) {
                char message[256];

                snprintf(message, sizeof(message), "%s: %s", why, strerror(-r));
                refuse(link, strstr(why, "image") ? "image" : word_of(r), message);
        } else
                answer_ok(link);
}

static const char *kept_by(uint32_t bits)
{
        static const char *const names[] = {"nobody", "vmm", "keeper", "both"};

        return names[bits & 3];
}

static void answer_serving(struct control_link *link, const struct machine *machine)
{
        const struct journal_head *head = machine->vm->journal.head;
        struct json_out out;

        if (!accepted(link, &out))
                return;
        json_put_text(&out, "vm", head->vm);
        json_put_integer(&out, "pid", head->pid);
        json_put_text(&out, "method", method_name(head->method));
        json_put_text(&out, "why", head->why);
        json_put_integer(&out, "regions", (int64_t)head->n_regions);
        json_put_integer(&out, "pages", (int64_t)head->n_pages);
        json_put_integer(&out, "prefetched", (int64_t)head->counters.prefetched);
        json_put_text(&out, "kept_by", kept_by(head->kept_by));
        answer(link, &out);
}

/* Answer a wait if there is an answer. Returns whether there was. */
static bool tell(struct control_link *link, const struct machine *machine)
{
        if (!machine)
                refuse(link, "unknown", "no such machine is expected or served: end its monitor, begin anew");
        else if (machine->state == MACHINE_STOPPED)
                refuse(link, "stopped", machine->reason);
        else if (machine->state == MACHINE_SERVING && machine->vm->is_ready && !machine->vm->is_stopping)
                answer_serving(link, machine);
        else
                return false;
        return true;
}

static struct control_link *find_link(struct control *control, uint64_t serial)
{
        struct control_link *link = control->links;

        while (link && link->serial != serial)
                link = link->next;
        return link;
}

static void answer_offloaded(struct control_link *link, const struct offloaded *one)
{
        struct offload_stats stats;
        struct json_out out;

        offload_get_stats(one->session, &stats);
        if (!accepted(link, &out))
                return;
        json_put_text(&out, "vm", one->order.vm);
        json_put_integer(&out, "pid", stats.pid);
        json_put_text(&out, "method", one->order.is_save ? "save" : "offload");
        json_put_text(&out, "why", "its monitor asks over a connection");
        json_put_integer(&out, "regions", 0);
        json_put_integer(&out, "pages", (int64_t)stats.pages);
        json_put_integer(&out, "prefetched", (int64_t)stats.prefetched);
        json_put_integer(&out, "data_bytes", (int64_t)stats.data_bytes);
        json_put_text(&out, "kept_by", "nobody");
        answer(link, &out);
}

/* Answer a wait for a session if there is an answer. Returns whether there was. */
static bool tell_offloaded(struct control_link *link, const struct offloaded *one)
{
        struct offload_stats stats;

        switch (one->state) {
        case OFFLOADED_CALLING:
                return false;
        case OFFLOADED_SERVING:
        case OFFLOADED_SAVED:
                answer_offloaded(link, one);
                return true;
        default:
                offload_get_stats(one->session, &stats);
                if (one->state == OFFLOADED_ENDED && stats.has_all)
                        answer_offloaded(link, one); /* it has all of its memory: it lives on by itself */
                else
                        refuse(link, "stopped", one->why ? one->why : "its process ended");
                return true;
        }
}

static void offload_changed(struct offloads *offloads, struct offloaded *one)
{
        struct control *control = container_of(offloads, struct control, offloads);
        struct control_link *link, *next;

        for (link = control->links; link; link = next) {
                next = link->next;
                if (strcmp(link->waiting_for, one->order.vm) == 0)
                        tell_offloaded(link, one);
        }
}

static void wait_ended(struct timer *timer)
{
        struct control_link *link = container_of(timer, struct control_link, timer);
        const struct machine *machine = server_find(link->control->server, link->waiting_for);

        if (offloads_find(&link->control->offloads, link->waiting_for))
                refuse(link, "timeout", "its monitor does not have all that it needs yet");
        else if (machine && machine->state == MACHINE_LISTENING)
                refuse(link, "hand_over",
                       machine->refused ? machine->refused : "its monitor has not handed its memory over");
        else
                refuse(link, "timeout", "it is served, but what is to be installed before it resumes is not there yet");
}

static void wait_for(struct control_link *link, struct json request)
{
        const struct offloaded *offloaded;
        char vm[JOURNAL_ID_BYTES];
        double seconds;
        bool is_told;

        if (request_vm(request, vm) || request_seconds(request, "timeout_s", &seconds)) {
                refuse(link, "invalid", "vm: the name of a machine; timeout_s: a number of seconds");
                return;
        }
        offloaded = offloads_find(&link->control->offloads, vm);
        is_told = offloaded ? tell_offloaded(link, offloaded) : tell(link, server_find(link->control->server, vm));
        if (is_told)
                return;
        memcpy(link->waiting_for, vm, sizeof(vm));
        loop_set(&link->control->server->loop, &link->timer, now_ns() + (int64_t)(seconds * (double)NS_PER_S));
}

static void changed(struct server *server, struct machine *machine)
{
        struct control *control = server->control;
        struct control_link *link, *next;

        if (!control)
                return;
        for (link = control->links; link; link = next) {
                next = link->next;
                if (strcmp(link->waiting_for, machine->order.vm) == 0)
                        tell(link, machine);
        }
}

/* Whoever waits for it would wait for nothing. */
static void tell_forgotten(struct control *control, const char *vm)
{
        struct control_link *link, *next;

        for (link = control->links; link; link = next) {
                next = link->next;
                if (strcmp(link->waiting_for, vm) == 0)
                        refuse(link, "unknown", "it was forgotten meanwhile");
        }
}

static void forget(struct control_link *link, struct json request)
{
        char vm[JOURNAL_ID_BYTES];

        if (request_vm(request, vm)) {
                refuse(link, "invalid", "vm: the name of a machine");
                return;
        }
        offloads_forget(&link->control->offloads, vm);
        server_forget(link->control->server, vm);
        tell_forgotten(link->control, vm);
        answer_ok(link);
}

static void recorded(struct recording *recording)
{
        struct server *server = recording->context;
        struct control *control = server->control;
        struct control_link *link = control ? find_link(control, recording->serial) : NULL;
        struct json_out out;

        if (!link)
                return;
        if (recording->error) {
                refuse(link, "system", strerror(-recording->error));
                return;
        }
        if (!accepted(link, &out))
                return;
        json_put_integer(&out, "touches", (int64_t)recording->n_touches);
        json_put_integer(&out, "written", (int64_t)recording->n_written);
        answer(link, &out);
}

static void offload_recorded(struct offloads *offloads, struct offloaded *one, const char *why)
{
        struct control_link *link = find_link(container_of(offloads, struct control, offloads), one->serial);
        struct offload_stats stats;
        struct json_out out;

        if (!link)
                return;
        if (why) {
                refuse(link, "system", why);
                return;
        }
        offload_get_stats(one->session, &stats);
        if (!accepted(link, &out))
                return;
        json_put_integer(&out, "touches", (int64_t)stats.touches);
        json_put_integer(&out, "written", (int64_t)stats.written);
        answer(link, &out);
}

static void end_offload_recording(struct control_link *link, struct offloaded *one)
{
        if (one->is_recording || offload_end_recording(one->session)) {
                refuse(link, "unknown", "it is not recorded, not served yet, or its recording was ended before");
                return;
        }
        one->is_recording = true;
        one->serial = link->serial;
}

static void end_recording(struct control_link *link, struct json request)
{
        struct server *server = link->control->server;
        struct offloaded *offloaded;
        char vm[JOURNAL_ID_BYTES];
        struct machine *machine;
        int r;

        if (request_vm(request, vm)) {
                refuse(link, "invalid", "vm: the name of a machine");
                return;
        }
        offloaded = offloads_find(&link->control->offloads, vm);
        if (offloaded) {
                end_offload_recording(link, offloaded);
                return;
        }
        machine = server_find(server, vm);
        if (!machine || machine->state != MACHINE_SERVING) {
                tell(link, machine && machine->state == MACHINE_STOPPED ? machine : NULL);
                return;
        }
        r = recording_end(machine->vm, machine->order.record, link->serial, server, recorded);
        if (r == -ENODATA)
                refuse(link, "unknown", "it is not recorded, or not any more: the page server began anew meanwhile");
        else if (r)
                refuse(link, "system", strerror(-r));
}

static void stats(struct control_link *link, struct json request)
{
        struct server *server = link->control->server;
        struct json_out out;

        (void)request;
        if (!accepted(link, &out))
                return;
        json_put_integer(&out, "pid", getpid());
        json_put_real(&out, "uptime_s", (double)(now_ns() - server->begun_ns) / (double)NS_PER_S);
        json_enter(&out, "machines", '[');
        for (const struct machine *one = server->machines; one; one = one->next)
                stats_put_machine(&out, one);
        for (const struct offloaded *one = link->control->offloads.first; one; one = one->next)
                stats_put_offloaded(&out, one);
        json_leave(&out, ']');
        json_enter(&out, "stopped", '[');
        for (const struct machine *one = server->stopped; one; one = one->next) {
                json_enter(&out, NULL, '{');
                json_put_text(&out, "vm", one->order.vm);
                json_put_text(&out, "reason", one->reason);
                json_leave(&out, '}');
        }
        json_leave(&out, ']');
        answer(link, &out);
}

static void offload(struct control_link *link, struct json request, bool is_save)
{
        struct offload_order *order = calloc(1, sizeof(*order));
        const char *why;
        int r;

        if (!order) {
                link_close(link);
                return;
        }
        order->is_save = is_save;
        why = request_offload(request, order);
        r = why ? -EBADMSG : offloads_begin(&link->control->offloads, order, &why);
        free(order);
        if (r)
                refuse(link, word_of(r), why);
        else
                answer_ok(link);
}

static void offload_save(struct control_link *link, struct json request)
{
        offload(link, request, true);
}

static void offload_restore(struct control_link *link, struct json request)
{
        offload(link, request, false);
}

static void retire(struct control_link *link, struct json request)
{
        struct server *server = link->control->server;

        (void)request;
        answer_ok(link);
        server->loop.is_over = true;
}

static const struct {
        const char *name;
        void (*answer)(struct control_link *link, struct json request);
} operations[] = {
        {"hello", hello},   {"listen", listen_for}, {"wait", wait_for},  {"end_recording", end_recording},
        {"forget", forget}, {"stats", stats},       {"retire", retire},  {"offload_save", offload_save},
        {"offload_restore", offload_restore},
};

static void do_line(struct control_link *link, const char *line, size_t length)
{
        char name[OP_BYTES];
        struct json request;

        link->is_busy = true;
        if (json_parse(line, length, &request) || request.text[0] != '{' ||
            request_text(request, "op", true, name, sizeof(name))) {
                refuse(link, "invalid", "a request is one line: a JSON object with an \"op\"");
                return;
        }
        for (size_t i = 0; i < sizeof(operations) / sizeof(*operations); i++)
                if (strcmp(operations[i].name, name) == 0) {
                        operations[i].answer(link, request);
                        return;
                }
        refuse(link, "invalid", "there is no such operation");
}

/* -- connections ----------------------------------------------------------------------------------- */

static void release(struct grave *grave)
{
        struct control_link *link = container_of(grave, struct control_link, grave);

        free(link->in);
        free(link);
}

static void link_close(struct control_link *link)
{
        struct control_link **at = &link->control->links;
        struct loop *loop = &link->control->server->loop;

        if (link->source.fd < 0)
                return;
        while (*at && *at != link)
                at = &(*at)->next;
        if (*at)
                *at = link->next;
        link->control->n_links--;
        loop_unset(loop, &link->timer);
        loop_remove(loop, &link->source);
        link->source.fd = close_fd(link->source.fd);
        free(link->out);
        link->out = NULL;
        loop_later(loop, &link->grave);
}

/* Do what is complete, one request after the other, each when the one before is answered. */
static void read_on(struct control_link *link)
{
        size_t at = 0;
        int lines = 0;

        link->is_reading = true;
        for (; !link->is_busy && link->source.fd >= 0 && lines < LINES_PER_TURN; lines++) {
                char *end = memchr(link->in + at, '\n', link->n_in - at);
                size_t length;

                if (!end)
                        break;
                length = (size_t)(end - link->in) - at;
                do_line(link, link->in + at, length);
                at += length + 1;
        }
        link->is_reading = false;
        link->n_in -= at;
        memmove(link->in, link->in + at, link->n_in);
        /* Others first: it is told again in the next round, because it can be written to. */
        if (lines == LINES_PER_TURN && !link->is_busy && link->source.fd >= 0)
                loop_change(&link->control->server->loop, &link->source, EPOLLOUT);
}

static void readable(struct control_link *link)
{
        ssize_t n = recv(link->source.fd, link->in + link->n_in, LINE_MAX_BYTES - link->n_in, MSG_DONTWAIT);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n <= 0) {
                link_close(link);
                return;
        }
        link->n_in += (size_t)n;
        read_on(link);
        if (link->source.fd >= 0 && !link->is_busy && link->n_in == LINE_MAX_BYTES)
                link_close(link); /* no request is as long */
        else if (link->source.fd >= 0 && link->is_busy && link->n_in == LINE_MAX_BYTES)
                loop_change(&link->control->server->loop, &link->source, 0); /* read when it has been answered */
}

static void ready(struct source *source, uint32_t events)
{
        struct control_link *link = container_of(source, struct control_link, source);

        if (events & EPOLLOUT) {
                if (!flush(link))
                        link_close(link);
                else
                        read_on(link);
        } else if (events & EPOLLIN)
                readable(link);
        else
                link_close(link);
}

static bool may_command(int fd)
{
        struct ucred peer;
        socklen_t length = sizeof(peer);

        return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
               (peer.uid == 0 || peer.uid == geteuid());
}

static void link_open(struct control *control, int fd)
{
        struct control_link *link = calloc(1, sizeof(*link));

        if (link)
                link->in = malloc(LINE_MAX_BYTES);
        if (!link || !link->in) {
                free(link);
                close_fd(fd);
                return;
        }
        link->control = control;
        link->serial = ++control->next_serial;
        link->source = (struct source){.ready = ready, .fd = fd};
        link->timer.due = wait_ended;
        link->grave.release = release;
        link->next = control->links;
        control->links = link;
        control->n_links++;
        if (loop_add(&control->server->loop, &link->source, EPOLLIN))
                link_close(link);
}

static void connected(struct source *source, uint32_t events)
{
        struct control *control = container_of(source, struct control, listener);
        int fd = accept4(source->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        (void)events;
        if (fd < 0)
                return;
        if (control->n_links < LINKS_MAX && may_command(fd))
                link_open(control, fd);
        else
                close_fd(fd);
}

static int bind_at(int fd, const char *path)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};

        if (strlen(path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        strcpy(address.sun_path, path);
        unlink(path);
        if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || chmod(path, 0600) < 0 ||
            listen(fd, BACKLOG) < 0)
                return -errno;
        return 0;
}

int control_open(struct control *control, struct server *server, const char *path)
{
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        int r;

        if (fd < 0)
                return -errno;
        r = bind_at(fd, path);
        if (r)
                return r;
        *control = (struct control){.server = server, .listener = {.ready = connected, .fd = fd}};
        control->offloads = (struct offloads){
                .server = server, .changed = offload_changed, .recorded = offload_recorded};
        r = loop_add(&server->loop, &control->listener, EPOLLIN);
        if (r)
                return r;
        fd = FD_NONE;
        server->control = control;
        server->changed = changed;
        return 0;
}

void control_close(struct control *control)
{
        offloads_close(&control->offloads);
        while (control->links)
                link_close(control->links);
        loop_remove(&control->server->loop, &control->listener);
        control->listener.fd = close_fd(control->listener.fd);
        control->server->control = NULL;
}
