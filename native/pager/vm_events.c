#define _GNU_SOURCE
#include "vm_internal.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "deadline.h"
#include "kill_point.h"

#define READS_PER_TURN 4 /* rings full of events, then others have their turn */

/* Record that pages were given back: from here on they are zeros. */
static void note_removal(struct vm *vm, uint64_t start, uint64_t end)
{
        const struct journal_head *head = vm_head(vm);

        for (uint64_t i = 0; i < head->n_regions; i++) {
                const struct region *region = &head->regions[i];
                uint64_t from = start > region->address ? start - region->address : 0, to;

                if (end <= region->address || from >= region->size_bytes)
                        continue;
                to = end - region->address < region->size_bytes ? end - region->address : region->size_bytes;
                journal_mark_range(vm->journal.removed, vm->first_page[i] + from / region->page_bytes,
                                   vm->first_page[i] + (to + region->page_bytes - 1) / region->page_bytes);
                vm_head(vm)->counters.removed += (to - from) / region->page_bytes;
        }
}

/* First of all the removals, whatever their place among the events. Returns false if the machine did what
 * cannot be followed. */
bool vm_note_removals(struct vm *vm)
{
        bool has_any = false, is_sound = true;

        for (int i = 0; i < JOURNAL_RING; i++) {
                const struct uffd_msg *event = &vm_head(vm)->ring[i];

                if (!event->event)
                        break;
                if (event->event == UFFD_EVENT_REMOVE && !has_any) {
                        has_any = true;
                        kill_point(KILL_REMOVE_READ);
                }
                if (event->event == UFFD_EVENT_REMOVE)
                        note_removal(vm, event->arg.remove.start, event->arg.remove.end);
                else if (event->event == UFFD_EVENT_FORK || event->event == UFFD_EVENT_REMAP)
                        is_sound = false;
        }
        journal_order();
        if (has_any)
                kill_point(KILL_REMOVE_RECORDED);
        return is_sound;
}

void vm_clear_ring(struct vm *vm)
{
        journal_order();
        for (int i = 0; i < JOURNAL_RING && vm_head(vm)->ring[i].event; i++)
                memset((void *)&vm_head(vm)->ring[i], 0, sizeof(struct uffd_msg));
        journal_order();
}

static void serve_faults(struct vm *vm, int64_t read_ns)
{
        for (int i = 0; i < JOURNAL_RING && !vm->is_stopping; i++) {
                const struct uffd_msg *event = &vm_head(vm)->ring[i];
                struct parked fault = {
                        .address = event->arg.pagefault.address,
                        .flags = event->arg.pagefault.flags,
                        .read_ns = read_ns,
                };

                if (!event->event)
                        return;
                if (event->event != UFFD_EVENT_PAGEFAULT)
                        continue;
                vm_head(vm)->counters.faults++;
                vm_serve(vm, &fault, true);
        }
}

/* Read once into the ring. Returns the number of events, 0 if there are none, -1 at its end. */
static int read_events(struct vm *vm)
{
        struct iovec ring = {.iov_base = vm_head(vm)->ring, .iov_len = sizeof(vm_head(vm)->ring)};
        /* O_NONBLOCK is the monitor's to clear at any time, and read(2) would then wait for ever. */
        ssize_t n = preadv2(vm->uffd.fd, &ring, 1, -1, RWF_NOWAIT);

        if (n < 0 && errno == EOPNOTSUPP) /* before Linux 6.10 */
                n = read(vm->uffd.fd, ring.iov_base, ring.iov_len);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return 0;
        if (n < 0) {
                vm_stop_with(vm, "reading what it asks for", -errno);
                return -1;
        }
        kill_point(KILL_RECEIVE);
        return (int)(n / (ssize_t)sizeof(struct uffd_msg));
}

void vm_events_ready(struct source *source, uint32_t events)
{
        struct vm *vm = container_of(source, struct vm, uffd);
        uint64_t removed = vm_head(vm)->counters.removed;
        int n = JOURNAL_RING;

        vm_pause_plan(vm); /* which was made for the memory as it is before what is read now */
        if (events & EPOLLERR) {
                vm_stop(vm, "its userfaultfd was made to block whoever reads it");
                return;
        }
        for (int i = 0; i < READS_PER_TURN && n == JOURNAL_RING && !vm->is_stopping; i++) {
                n = read_events(vm);
                if (n <= 0)
                        break;
                if (!vm_note_removals(vm)) {
                        vm_stop(vm, "its address space changed in a way that cannot be followed");
                        break;
                }
                serve_faults(vm, now_ns());
                vm_clear_ring(vm);
        }
        if (vm->n_parked && !vm->is_stopping)
                vm_retry_parked(vm);
        if (vm_head(vm)->counters.removed == removed)
                vm_resume_plan(vm);
        else
                vm_drop_plan(vm);
        vm_check_image(vm);
        loop_linger(vm->host->loop, &vm->lookout);
}
