/* One machine's memory, filled page by page or ahead of what its guest asks for.
 *
 * The rules (fs/userfaultfd.c of Linux, Documentation/admin-guide/mm/userfaultfd.rst):
 *
 * - All events are read before a fault is served again: while a removal waits in the queue, every copy on
 *   the same userfaultfd fails with EAGAIN, also to other pages.
 * - A removal wins. Pages the guest gave back are owed as zeros from then on, whatever order the events
 *   were read in. Whoever gives them back waits until the event is read, and drops the pages after that:
 *   what was installed before is dropped with them, what is installed afterwards is zeros.
 * - A monitor that announces no removals (no EVENT_REMOVE) must not give memory back. If it does all the same, a
 *   page that was installed and is missing again is taken as given back, but one that was never installed gets
 *   the image's content, and what was installed at the instant of a death is not known.
 * - EEXIST: somebody was faster, and whoever waits is woken. ENOENT, ESRCH: this machine is over.
 * - Its process is killed, and the userfaultfd closed only when it is gone: a guest never reads zeros
 *   because nobody serves it. */
#ifndef SNAPSTART_VM_H
#define SNAPSTART_VM_H

#include <stdbool.h>
#include <stdint.h>

#include "crew.h"
#include "journal.h"
#include "loop.h"
#include "reader.h"
#include "template.h"

#define VM_REASON_BYTES 160

struct vm;

/* What machines are served with, and who is told of them. All borrowed. */
struct vm_host {
        struct loop *loop;
        struct reader *reader;
        struct crew *crew; /* for what is to be there before guests resume */
        struct templates *templates;
        int journal_fd; /* directory */
        /* What is to be there before the guest resumes is there. */
        void (*ready)(struct vm_host *host, struct vm *vm);
        /* It is over: serve it no longer, call vm_free(). @vm->reason says why, empty if its process ended. */
        void (*over)(struct vm_host *host, struct vm *vm);
};

/* What a machine is served from; moved into it. */
struct vm_parts {
        struct journal journal;
        struct template *template;
        int uffd_fd, pidfd;
};

struct parked {
        uint64_t address, flags;
        int64_t read_ns;
};

struct vm {
        struct source uffd, process;
        struct idler installer;
        struct lookout lookout; /* for its next fault */
        struct timer retry;
        struct warm_waiter warm;
        struct grave grave;
        struct vm_host *host;
        struct vm *next; /* for whoever keeps them */
        struct journal journal;
        struct template *template;
        uint64_t *first_page; /* for each region; owned */
        struct parked *parked; /* faults that could not be served yet; owned */
        size_t n_parked, parked_capacity;
        unsigned n_jobs; /* under way in the reader */
        uint64_t around_left; /* pages that may still be copied unasked for around faults */
        struct plan *plan; /* what the crew helps to install; owned; NULL: nothing */
        bool is_alone; /* it gave memory back before it was ready: nobody helps any more */
        bool is_ready, is_stopping, is_over, is_free;
        char reason[VM_REASON_BYTES];
        struct touch *touches; /* what the guest asked for, in order, while it is recorded; owned */
        size_t n_touches, touches_capacity;
        uint64_t *touched; /* one bit for each page of the image; owned; NULL: not recorded */
};

/* Serve a machine. @parts: owned by it from here on, on failure too. @is_recorded: keep what it touches.
 * @is_successor: take over from a page server that ended: apply what it read last, wake everybody.
 * Returns 0, or a negative errno; the machine is ended then, because nobody else would serve it. */
int vm_open(struct vm_host *host, struct vm_parts *parts, bool is_recorded, bool is_successor,
            struct vm **ret_vm);

/* Begin to install what is to be installed unasked. host->ready() may be called before this returns. */
void vm_begin(struct vm *vm);

/* Returns whether some of what it is to get unasked is not there yet. */
bool vm_is_installing(const struct vm *vm);

/* End the machine: kill its process; over() is called when that is gone. Only the first reason counts. */
void vm_stop(struct vm *vm, const char *reason);

/* Serve it no longer and release everything, leaving its process alone. @is_forgotten: its journal is removed
 * too; without, a successor goes on. */
void vm_free(struct vm *vm, bool is_forgotten);

/* Hand out what was recorded so far. Returns how many touches, in *ret_touches, owned by the caller now;
 * recording is over. -ENODATA if it was not recorded, -ENOMEM. */
int64_t vm_end_recording(struct vm *vm, struct touch **ret_touches);

#endif
