#define _GNU_SOURCE
#include "control_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control_request.h"
#include "deadline.h"
#include "recording.h"
#include "stats.h"

#ifndef PAGER_VERSION
#define PAGER_VERSION "0"
#endif

#define OP_BYTES 32

struct control_link *control_find_link(struct control *control, uint64_t serial)
{
        struct control_link *link = control->links;

        while (link && link->serial != serial)
                link = link->next;
        return link;
}

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
        if (!control_accept(link, &out))
                return;
        json_put_text(&out, "version", PAGER_VERSION);
        json_put_integer(&out, "pid", getpid());
        json_put_integer(&out, "machines", count_machines(link->control->server));
        control_answer(link, &out);
}

static void listen_for(struct control_link *link, struct json request)
{
        struct machine_order *order = calloc(1, sizeof(*order));
        const char *why;
        int r;

        if (!order) {
                control_link_close(link);
                return;
        }
        why = request_order(request, order);
        r = why ? -EBADMSG : server_listen(link->control->server, order, &why);
        free(order);
        if (r == -ENAMETOOLONG || r == -EBADMSG || r == -EEXIST)
                control_refuse(link, control_word(r), why);
        else if (r) {
                char message[256];

                snprintf(message, sizeof(message), "%s: %s", why, strerror(-r));
                control_refuse(link, strstr(why, "image") ? "image" : control_word(r), message);
        } else
                control_answer_ok(link);
}

static void forget(struct control_link *link, struct json request)
{
        char vm[JOURNAL_ID_BYTES];

        if (request_vm(request, vm)) {
                control_refuse(link, "invalid", "vm: the name of a machine");
                return;
        }
        offloads_forget(&link->control->offloads, vm);
        server_forget(link->control->server, vm);
        control_tell_forgotten(link->control, vm);
        control_answer_ok(link);
}

static void recorded(struct recording *recording)
{
        struct server *server = recording->context;
        struct control *control = server->control;
        struct control_link *link = control ? control_find_link(control, recording->serial) : NULL;
        struct json_out out;

        if (!link)
                return;
        if (recording->error) {
                control_refuse(link, "system", strerror(-recording->error));
                return;
        }
        if (!control_accept(link, &out))
                return;
        json_put_integer(&out, "touches", (int64_t)recording->n_touches);
        json_put_integer(&out, "written", (int64_t)recording->n_written);
        control_answer(link, &out);
}

void control_offload_recorded(struct offloads *offloads, struct offloaded *one, const char *why)
{
        struct control_link *link = control_find_link(container_of(offloads, struct control, offloads), one->serial);
        struct offload_stats stats;
        struct json_out out;

        if (!link)
                return;
        if (why) {
                control_refuse(link, "system", why);
                return;
        }
        offload_get_stats(one->session, &stats);
        if (!control_accept(link, &out))
                return;
        json_put_integer(&out, "touches", (int64_t)stats.touches);
        json_put_integer(&out, "written", (int64_t)stats.written);
        control_answer(link, &out);
}

static void end_offload_recording(struct control_link *link, struct offloaded *one)
{
        if (one->is_recording || offload_end_recording(one->session)) {
                control_refuse(link, "unknown",
                               "it is not recorded, not served yet, or its recording was ended before");
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
                control_refuse(link, "invalid", "vm: the name of a machine");
                return;
        }
        offloaded = offloads_find(&link->control->offloads, vm);
        if (offloaded) {
                end_offload_recording(link, offloaded);
                return;
        }
        machine = server_find(server, vm);
        if (!machine || machine->state != MACHINE_SERVING) {
                control_tell(link, machine && machine->state == MACHINE_STOPPED ? machine : NULL);
                return;
        }
        r = recording_end(machine->vm, machine->order.record, link->serial, server, recorded);
        if (r == -ENODATA)
                control_refuse(link, "unknown",
                               "it is not recorded, or not any more: the page server began anew meanwhile");
        else if (r)
                control_refuse(link, "system", strerror(-r));
}

static void stats(struct control_link *link, struct json request)
{
        struct server *server = link->control->server;
        struct json_out out;

        (void)request;
        if (!control_accept(link, &out))
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
        control_answer(link, &out);
}

static void offload(struct control_link *link, struct json request, bool is_save)
{
        struct offload_order *order = calloc(1, sizeof(*order));
        const char *why;
        int r;

        if (!order) {
                control_link_close(link);
                return;
        }
        order->is_save = is_save;
        why = request_offload(request, order);
        r = why ? -EBADMSG : offloads_begin(&link->control->offloads, order, &why);
        free(order);
        if (r)
                control_refuse(link, control_word(r), why);
        else
                control_answer_ok(link);
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
        control_answer_ok(link);
        server->loop.is_over = true;
}

static const struct {
        const char *name;
        void (*answer)(struct control_link *link, struct json request);
} operations[] = {
        {"hello", hello},   {"listen", listen_for}, {"wait", control_wait},  {"end_recording", end_recording},
        {"forget", forget}, {"stats", stats},       {"retire", retire},  {"offload_save", offload_save},
        {"offload_restore", offload_restore},
};

void control_do_line(struct control_link *link, const char *line, size_t length)
{
        char name[OP_BYTES];
        struct json request;

        link->is_busy = true;
        if (json_parse(line, length, &request) || request.text[0] != '{' ||
            request_text(request, "op", true, name, sizeof(name))) {
                control_refuse(link, "invalid", "a request is one line: a JSON object with an \"op\"");
                return;
        }
        for (size_t i = 0; i < sizeof(operations) / sizeof(*operations); i++)
                if (strcmp(operations[i].name, name) == 0) {
                        operations[i].answer(link, request);
                        return;
                }
        control_refuse(link, "invalid", "there is no such operation");
}
