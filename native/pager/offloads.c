#define _GNU_SOURCE
#include "offloads.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fdutil.h"
#include "json_out.h"

struct offloaded *offloads_find(const struct offloads *offloads, const char *vm)
{
        struct offloaded *one = offloads->first;

        while (one && strcmp(one->order.vm, vm) != 0)
                one = one->next;
        return one;
}

static void say(const struct offloaded *one, const char *event)
{
        struct json_out out;

        if (json_open(&out))
                return;
        json_put_text(&out, "event", event);
        json_put_text(&out, "vm", one->order.vm);
        if (one->why)
                json_put_text(&out, "why", one->why);
        json_log(&out);
}

static void happened(void *context, enum offload_event event, const char *why)
{
        struct offloaded *one = context;
        struct offloads *offloads = one->offloads;

        if (event == OFFLOAD_RECORDED) {
                one->is_recording = false;
                offloads->recorded(offloads, one, why);
                return;
        }
        one->why = why;
        one->state = event == OFFLOAD_SAVED     ? OFFLOADED_SAVED
                     : event == OFFLOAD_SERVING ? OFFLOADED_SERVING
                     : event == OFFLOAD_ENDED   ? OFFLOADED_ENDED
                                                : OFFLOADED_FAILED;
        say(one, event == OFFLOAD_SAVED     ? "offload.saved"
                 : event == OFFLOAD_SERVING ? "offload.serving"
                 : event == OFFLOAD_ENDED   ? "offload.ended"
                                            : "offload.failed");
        offloads->changed(offloads, one);
}

/* Nothing of the order is used any more. */
static void closed(void *context)
{
        struct offloaded *one = context;

        working_set_close(&one->set);
        image_close(&one->image);
        free(one);
}

static void name_for_keeper(const struct offloaded *one, char *ret_name)
{
        snprintf(ret_name, KEEPER_NAME_BYTES, OFFLOAD_KEPT "%s", one->order.vm);
}

static void kept(struct keeping *keeping, int error)
{
        struct offloaded *one = container_of(keeping, struct offloaded, keeping);

        offload_kept(one->session, error);
}

/* A monitor whose connection ends lets its guest run on zeros until it has ended itself: somebody has to hold it. */
static int keep(void *context, int fd)
{
        struct offloaded *one = context;
        char name[KEEPER_NAME_BYTES];

        name_for_keeper(one, name);
        one->keeping.kept = kept;
        return keeper_store(&one->offloads->server->keeper, name, &fd, 1, &one->keeping);
}

static struct offload_peer peer_of(struct offloaded *one)
{
        return (struct offload_peer){
                .socket = one->order.socket,
                .uid = one->order.uid,
                .patience_ns = one->offloads->server->settings.hand_over_ns,
                .event = happened,
                .closed = closed,
                .context = one,
        };
}

static int begin_save(struct offloaded *one)
{
        struct server *server = one->offloads->server;
        struct offload_snapshot_order order = {
                .peer = peer_of(one),
                .image = one->order.image,
                .config = one->order.config,
                .state = one->order.state,
        };

        return offload_snapshot_open(&server->loop, &server->reader, &order, &one->session);
}

static int begin_restore(struct offloaded *one, const char **ret_why)
{
        struct server *server = one->offloads->server;
        struct offload_restore_order order = {
                .peer = peer_of(one),
                .image = &one->image,
                .config = one->order.config,
                .state = one->order.state,
                .digest = one->order.digest,
                .record = one->order.record[0] ? one->order.record : NULL,
                .demand_only = one->order.demand_only || one->order.record[0],
                .resume = one->order.resume,
                .keep = keep,
        };
        int r;

        *ret_why = "nobody keeps descriptors for the page server: run it under supervise, or systemd";
        if (!keeper_is_there(&server->keeper))
                return -EPERM;
        r = image_open(one->order.image, &one->image);
        *ret_why = "its image cannot be opened";
        if (r)
                return r;
        *ret_why = "its session cannot begin";
        /* One that is recorded is given nothing ahead: it would not ask for it. */
        one->has_set = one->order.working_set[0] && !order.record &&
                       working_set_open(one->order.working_set, &one->image, one->order.digest, &one->set) == 0;
        order.set = one->has_set ? &one->set : NULL;
        return offload_restore_open(&server->loop, &server->reader, &order, &one->session);
}

int offloads_begin(struct offloads *offloads, const struct offload_order *order, const char **ret_why)
{
        const struct machine *machine;
        struct offloaded *one;
        int r;

        *ret_why = "there is a session, or a machine, of this name";
        machine = server_find(offloads->server, order->vm);
        if (offloads_find(offloads, order->vm) || (machine && machine->state != MACHINE_STOPPED))
                return -EEXIST;
        *ret_why = "no memory";
        one = calloc(1, sizeof(*one));
        if (!one)
                return -ENOMEM;
        one->offloads = offloads;
        one->order = *order;
        one->image.fd = one->set.fd = FD_NONE;
        *ret_why = "its session cannot begin";
        r = order->is_save ? begin_save(one) : begin_restore(one, ret_why);
        if (r) {
                closed(one);
                return r;
        }
        one->next = offloads->first;
        offloads->first = one;
        return 0;
}

static void end(struct offloads *offloads, struct offloaded **at)
{
        struct offloaded *one = *at;
        char name[KEEPER_NAME_BYTES];

        *at = one->next;
        keeping_cancel(&one->keeping);
        name_for_keeper(one, name);
        keeper_forget(&offloads->server->keeper, name);
        offload_close(one->session); /* closed() releases it, now or when no thread reads for it any more */
}

void offloads_forget(struct offloads *offloads, const char *vm)
{
        struct offloaded **at = &offloads->first;

        while (*at && strcmp((*at)->order.vm, vm) != 0)
                at = &(*at)->next;
        if (*at)
                end(offloads, at);
}

void offloads_close(struct offloads *offloads)
{
        while (offloads->first)
                end(offloads, &offloads->first);
}
