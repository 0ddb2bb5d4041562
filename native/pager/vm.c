#define _GNU_SOURCE
#include "vm_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fdutil.h"
#include "kill_point.h"
#include "process.h"
#include "uffd.h"

#define AROUND_SHARE 16 /* of its memory, a guest may get this part that it never asked for */

void vm_stop(struct vm *vm, const char *reason)
{
        if (vm->is_stopping || vm->is_over)
                return;
        vm->is_stopping = true;
        snprintf(vm->reason, sizeof(vm->reason), "%s", reason);
        loop_remove(vm->host->loop, &vm->uffd);
        loop_idle(vm->host->loop, &vm->installer);
        loop_unset(vm->host->loop, &vm->retry);
        kill_process(vm->process.fd);
}

void vm_stop_with(struct vm *vm, const char *what, int error)
{
        char reason[VM_REASON_BYTES];

        snprintf(reason, sizeof(reason), "%s: %s", what, strerror(-error));
        vm_stop(vm, reason);
}

static void process_ended(struct source *source, uint32_t events)
{
        struct vm *vm = container_of(source, struct vm, process);

        (void)events;
        vm->is_over = true;
        vm->host->over(vm->host, vm);
}

/* What a call on its userfaultfd said: 0 to go on, 1 to try again later, -1 if that was its end. */
int vm_classify(struct vm *vm, int64_t result)
{
        if (result >= 0)
                return 0;
        if (result == -EAGAIN)
                return 1;
        if (result == -ESRCH)
                return -1; /* its process is ending, and will say so */
        if (result == -EFAULT)
                vm_stop(vm, "the image cannot be read where the guest needs it");
        else
                vm_stop_with(vm, result == -ENOENT ? "its memory is not mapped any more" : "filling its memory",
                          (int)result);
        return -1;
}

/* Each time, because that is cheap: a timer that does it less often makes every sleep of the loop cost more. */
void vm_check_image(struct vm *vm)
{
        if (vm->is_stopping)
                return;
        if (image_check(&vm->template->image))
                vm_stop(vm, "its image was changed or cut while it ran");
        else if (vm_head(vm)->from_data && vm->template->has_set && working_set_check(&vm->template->set))
                vm_stop(vm, "its working set was changed or cut while it was installed");
}


static int number_pages(struct vm *vm)
{
        const struct journal_head *head = vm_head(vm);
        uint64_t page = 0;

        vm->first_page = calloc(head->n_regions, sizeof(*vm->first_page));
        if (!vm->first_page)
                return -ENOMEM;
        for (uint64_t i = 0; i < head->n_regions; i++) {
                vm->first_page[i] = page;
                page += head->regions[i].size_bytes / head->regions[i].page_bytes;
        }
        return 0;
}

/* What the page server that ended had read is applied; faults come again once their threads are woken. */
static int succeed(struct vm *vm)
{
        const struct journal_head *head = vm_head(vm);

        if (!vm_note_removals(vm))
                return -EPROTO;
        vm_clear_ring(vm);
        if (planted(PLANT_FORGET_REMOVE))
                memset(vm->journal.removed, 0, (head->n_pages / 64 + 1) * sizeof(uint64_t));
        kill_point(KILL_WAKE);
        for (uint64_t i = 0; i < head->n_regions; i++)
                uffd_wake(vm->uffd.fd, head->regions[i].address, head->regions[i].size_bytes);
        return 0;
}

static int watch(struct vm *vm)
{
        int r = loop_add(vm->host->loop, &vm->uffd, EPOLLIN);

        return r ? r : loop_add(vm->host->loop, &vm->process, EPOLLIN);
}

static int begin(struct vm *vm, bool is_recorded, bool is_successor)
{
        int r = number_pages(vm);

        if (!r && is_recorded) {
                vm->touched = calloc(vm->template->image.pages / 64 + 1, sizeof(*vm->touched));
                r = vm->touched ? 0 : -ENOMEM;
        }
        r = r || !is_successor ? r : succeed(vm);
        r = r ? r : watch(vm);
        return r;
}

static void release_vm(struct grave *grave)
{
        struct vm *vm = container_of(grave, struct vm, grave);

        template_release(vm->host->templates, vm->template);
        free(vm->first_page);
        free(vm->parked);
        free(vm->touches);
        free(vm->touched);
        free(vm);
}

int vm_open(struct vm_host *host, struct vm_parts *parts, bool is_recorded, bool is_successor, struct vm **ret_vm)
{
        struct vm *vm = calloc(1, sizeof(*vm));
        int r;

        if (!vm) {
                journal_close(&parts->journal);
                template_release(host->templates, parts->template);
                close_fd(parts->uffd_fd);
                close_fd(parts->pidfd);
                return -ENOMEM;
        }
        vm->host = host;
        vm->journal = parts->journal;
        vm->template = parts->template;
        vm->uffd = (struct source){.ready = vm_events_ready, .fd = parts->uffd_fd};
        vm->process = (struct source){.ready = process_ended, .fd = parts->pidfd};
        vm->installer.step = vm_install_some;
        vm->retry.due = vm_retry_due;
        vm->warm.warmed = vm_warmed;
        vm->grave.release = release_vm;
        vm->around_left = vm->journal.head->n_pages / AROUND_SHARE;
        r = begin(vm, is_recorded, is_successor);
        if (r) {
                process_end(vm->process.fd, PROCESS_END_SOON_MS);
                vm_free(vm, true);
                return r;
        }
        *ret_vm = vm;
        return 0;
}

void vm_begin(struct vm *vm)
{
        if (vm_is_installing(vm))
                vm_install_more(vm);
        if (!vm_is_installing(vm) || vm_head(vm)->method == METHOD_INSTALL_WHILE)
                vm_make_ready(vm);
}

void vm_free(struct vm *vm, bool is_forgotten)
{
        struct loop *loop = vm->host->loop;

        vm->is_over = vm->is_stopping = true;
        vm_drop_plan(vm);
        loop_look_away(loop, &vm->lookout);
        loop_remove(loop, &vm->uffd);
        loop_remove(loop, &vm->process);
        loop_idle(loop, &vm->installer);
        loop_unset(loop, &vm->retry);
        if (vm->template)
                template_unwait(vm->template, &vm->warm);
        if (is_forgotten)
                journal_remove(vm->host->journal_fd, vm_head(vm)->vm);
        journal_close(&vm->journal);
        vm->uffd.fd = close_fd(vm->uffd.fd);
        vm->process.fd = close_fd(vm->process.fd);
        vm->is_free = true;
        /* A reader may still read for it; the last of them buries it then. */
        if (vm->n_jobs == 0)
                loop_later(loop, &vm->grave);
}
