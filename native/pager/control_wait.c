#define _GNU_SOURCE
#include "control_internal.h"

#include <string.h>

#include "control_request.h"
#include "deadline.h"

static const char *kept_by(uint32_t bits)
{
        static const char *const names[] = {"nobody", "vmm", "keeper", "both"};

        return names[bits & 3];
}

static void answer_serving(struct control_link *link, const struct machine *machine)
{
        const struct journal_head *head = machine->vm->journal.head;
        struct json_out out;

        if (!control_accept(link, &out))
                return;
        json_put_text(&out, "vm", head->vm);
        json_put_integer(&out, "pid", head->pid);
        json_put_text(&out, "method", method_name(head->method));
        json_put_text(&out, "why", head->why);
        json_put_integer(&out, "regions", (int64_t)head->n_regions);
        json_put_integer(&out, "pages", (int64_t)head->n_pages);
        json_put_integer(&out, "prefetched", (int64_t)head->counters.prefetched);
        json_put_text(&out, "kept_by", kept_by(head->kept_by));
        control_answer(link, &out);
}

/* Answer a wait if there is an answer. Returns whether there was. */
bool control_tell(struct control_link *link, const struct machine *machine)
{
        if (!machine)
                control_refuse(link, "unknown", "no such machine is expected or served: end its monitor, begin anew");
        else if (machine->state == MACHINE_STOPPED)
                control_refuse(link, "stopped", machine->reason);
        else if (machine->state == MACHINE_SERVING && machine->vm->is_ready && !machine->vm->is_stopping)
                answer_serving(link, machine);
        else
                return false;
        return true;
}

static void answer_offloaded(struct control_link *link, const struct offloaded *one)
{
        struct offload_stats stats;
        struct json_out out;

        offload_get_stats(one->session, &stats);
        if (!control_accept(link, &out))
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
        control_answer(link, &out);
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
                        control_refuse(link, "stopped", one->why ? one->why : "its process ended");
                return true;
        }
}

void control_offload_changed(struct offloads *offloads, struct offloaded *one)
{
        struct control *control = container_of(offloads, struct control, offloads);
        struct control_link *link, *next;

        for (link = control->links; link; link = next) {
                next = link->next;
                if (strcmp(link->waiting_for, one->order.vm) == 0)
                        tell_offloaded(link, one);
        }
}

void control_wait_ended(struct timer *timer)
{
        struct control_link *link = container_of(timer, struct control_link, timer);
        const struct machine *machine = server_find(link->control->server, link->waiting_for);

        if (offloads_find(&link->control->offloads, link->waiting_for))
                control_refuse(link, "timeout", "its monitor does not have all that it needs yet");
        else if (machine && machine->state == MACHINE_LISTENING)
                control_refuse(link, "hand_over",
                       machine->refused ? machine->refused : "its monitor has not handed its memory over");
        else
                control_refuse(link, "timeout",
                               "it is served, but what is to be installed before it resumes is not there yet");
}

void control_wait(struct control_link *link, struct json request)
{
        const struct offloaded *offloaded;
        char vm[JOURNAL_ID_BYTES];
        double seconds;
        bool is_told;

        if (request_vm(request, vm) || request_seconds(request, "timeout_s", &seconds)) {
                control_refuse(link, "invalid", "vm: the name of a machine; timeout_s: a number of seconds");
                return;
        }
        offloaded = offloads_find(&link->control->offloads, vm);
        is_told = offloaded ? tell_offloaded(link, offloaded)
                            : control_tell(link, server_find(link->control->server, vm));
        if (is_told)
                return;
        memcpy(link->waiting_for, vm, sizeof(vm));
        loop_set(&link->control->server->loop, &link->timer, now_ns() + (int64_t)(seconds * (double)NS_PER_S));
}

void control_machine_changed(struct server *server, struct machine *machine)
{
        struct control *control = server->control;
        struct control_link *link, *next;

        if (!control)
                return;
        for (link = control->links; link; link = next) {
                next = link->next;
                if (strcmp(link->waiting_for, machine->order.vm) == 0)
                        control_tell(link, machine);
        }
}

/* Whoever waits for it would wait for nothing. */
void control_tell_forgotten(struct control *control, const char *vm)
{
        struct control_link *link, *next;

        for (link = control->links; link; link = next) {
                next = link->next;
                if (strcmp(link->waiting_for, vm) == 0)
                        control_refuse(link, "unknown", "it was forgotten meanwhile");
        }
}
