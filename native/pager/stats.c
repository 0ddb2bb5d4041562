#define _GNU_SOURCE
#include "stats.h"

#include <math.h>

static const char *state_name(const struct machine *machine)
{
        static const char *const names[] = {"listening", "listening", "serving", "stopped"};

        return names[machine->state];
}

static void put_protocol(struct json_out *out, enum handshake_protocol protocol)
{
        json_put_text(out, "protocol",
                      protocol == HANDSHAKE_FIRECRACKER ? "firecracker"
                      : protocol == HANDSHAKE_KUASAR    ? "kuasar"
                                                        : "memfd");
}

static void put_serving(struct json_out *out, const struct vm *vm)
{
        const struct journal_head *head = vm->journal.head;
        const struct journal_counters *n = &head->counters;
        uint64_t asked = n->prefetched + n->faults;

        json_put_integer(out, "pid", head->pid);
        json_put_text(out, "method", method_name(head->method));
        json_put_text(out, "why", head->why);
        json_put_integer(out, "pages", (int64_t)head->n_pages);
        json_put_integer(out, "faults", (int64_t)n->faults);
        json_put_integer(out, "prefetched", (int64_t)n->prefetched);
        json_put_integer(out, "copied", (int64_t)n->copied);
        json_put_integer(out, "shared", (int64_t)n->shared);
        json_put_integer(out, "zeroed", (int64_t)n->zeroed);
        json_put_integer(out, "removed", (int64_t)n->removed);
        json_put_integer(out, "working_set", vm->template->has_set ? (int64_t)vm->template->set.n_pages : 0);
        json_put_real(out, "covered", asked ? (double)n->prefetched / (double)asked : NAN);
        json_put_integer(out, "stalls", (int64_t)n->stalls);
        json_put_integer(out, "max_stall_us", (int64_t)n->max_stall_us);
}

void stats_put_offloaded(struct json_out *out, const struct offloaded *one)
{
        struct offload_stats n;
        bool is_over = one->state == OFFLOADED_ENDED || one->state == OFFLOADED_FAILED;

        offload_get_stats(one->session, &n);
        json_enter(out, NULL, '{');
        json_put_text(out, "vm", one->order.vm);
        json_put_text(out, "state", is_over ? "stopped" : one->state == OFFLOADED_SERVING ? "serving" : "listening");
        json_put_text(out, "protocol", "offload");
        json_put_text(out, "reason", one->why ? one->why : "");
        json_put_integer(out, "pid", n.pid);
        json_put_text(out, "method", one->order.is_save ? "save" : "offload");
        json_put_text(out, "why", "its monitor asks over a connection");
        json_put_integer(out, "pages", (int64_t)n.pages);
        json_put_integer(out, "faults", (int64_t)n.faults);
        json_put_integer(out, "prefetched", (int64_t)n.prefetched);
        json_put_integer(out, "copied", (int64_t)n.copied);
        json_put_integer(out, "shared", 0);
        json_put_integer(out, "zeroed", (int64_t)n.zeroed);
        json_put_integer(out, "removed", 0);
        json_put_integer(out, "working_set", one->has_set ? (int64_t)one->set.n_pages : 0);
        json_put_real(out, "covered", n.faults ? (double)n.covered / (double)n.faults : NAN);
        json_put_integer(out, "stalls", (int64_t)n.stalls);
        json_put_integer(out, "max_stall_us", (int64_t)n.max_stall_us);
        json_leave(out, '}');
}

void stats_put_machine(struct json_out *out, const struct machine *machine)
{
        const struct vm *vm = machine->vm;

        json_enter(out, NULL, '{');
        json_put_text(out, "vm", machine->order.vm);
        json_put_text(out, "state", vm && vm->is_stopping ? "stopped" : state_name(machine));
        put_protocol(out, machine->order.protocol);
        json_put_text(out, "reason", vm ? vm->reason : "");
        if (vm)
                put_serving(out, vm);
        json_leave(out, '}');
}
