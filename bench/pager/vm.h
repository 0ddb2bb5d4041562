/* A machine's stand-in, in parts: how its memory gets there, what it does to it. */
#ifndef SNAPSTART_BENCH_PAGER_VM_H
#define SNAPSTART_BENCH_PAGER_VM_H

#include "common.h"

enum kind { RESIDENT, ANONYMOUS, MAPPED, UFFD, MEMFD, N_KINDS };

struct vm {
        enum kind kind;
        const char *image, *socket_path, *listen, *wait, *latencies;
        struct trace trace;
        bool is_eager, is_listening;
        int memfd, control, sock, uffd;
        size_t size;
        uint8_t *memory;
};

/* Map guest memory as its kind says. */
void vm_map(struct vm *vm);

/* Map it, fill all of it from the image, page by page of 4 KiB. */
void vm_fill(struct vm *vm);

/* Make a userfaultfd for it and hand that over. */
void vm_register(struct vm *vm);
void vm_hand_over(struct vm *vm);

void vm_connect_control(struct vm *vm, const char *path);
void vm_close_control(struct vm *vm);

/* Have the page server listen, unless it does, or there is no control socket. */
void vm_listen(struct vm *vm);

/* Wait until the guest may resume. @reply: what the page server says of it, if there is a control socket. */
void vm_wait_resume(struct vm *vm, char *reply, size_t size);

/* Touch what the trace says. @latencies: NULL, or where the nanoseconds of each touch go.
 * @ret_first: when the first one was done. Returns a sum of all that was read. */
uint64_t vm_run_trace(struct vm *vm, uint64_t *latencies, int64_t *ret_first);

/* Returns the sum of the trace's pages as they are now. */
uint64_t vm_digest(const struct vm *vm);

/* Fault all the time for @seconds: read @pages pages in a scattered order, remove them, and again.
 * Prints what was seen. */
void vm_churn(struct vm *vm, double seconds, size_t pages);

#endif
