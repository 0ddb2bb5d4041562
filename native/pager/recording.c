#define _GNU_SOURCE
#include "recording.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* Where a page of the image is in the machine. Returns false if no region holds it. */
static bool find_address(const struct recording *recording, uint64_t page, uint64_t *ret_address)
{
        uint64_t offset = page * IMAGE_PAGE_BYTES;

        for (size_t i = 0; i < recording->n_regions; i++) {
                const struct region *region = &recording->regions[i];

                if (offset - region->offset < region->size_bytes) {
                        *ret_address = region->address + (offset - region->offset);
                        return true;
                }
        }
        return false;
}

/* Returns whether the guest changed the page. One that cannot be read any more was not. */
static bool was_written(const struct recording *recording, uint64_t page)
{
        uint8_t now[IMAGE_PAGE_BYTES], then[IMAGE_PAGE_BYTES];
        struct iovec here = {.iov_base = now, .iov_len = sizeof(now)}, there = {.iov_len = sizeof(now)};
        uint64_t address;

        if (!find_address(recording, page, &address))
                return false;
        there.iov_base = (void *)(uintptr_t)address;
        if (process_vm_readv(recording->pid, &here, 1, &there, 1, 0) != sizeof(now))
                return false;
        /* Not through the mapping: of an image that was cut that would be a signal. */
        if (pread(recording->template->image.fd, then, sizeof(then), (off_t)(page * IMAGE_PAGE_BYTES)) != sizeof(then))
                return false;
        return memcmp(now, then, sizeof(now)) != 0;
}

/* In a reader thread. */
static void write_down(struct job *job)
{
        struct recording *recording = container_of(job, struct recording, job);
        const struct template *template = recording->template;

        recording->error = image_check(&template->image);
        for (size_t i = 0; i < recording->n_touches && !recording->error; i++) {
                struct touch *touch = &recording->touches[i];

                if (!(touch->flags & TOUCH_WRITTEN) && was_written(recording, touch->page))
                        touch->flags |= TOUCH_WRITTEN;
                if (image_holds_zeros(&template->image, touch->page) == 1)
                        touch->flags |= TOUCH_ZERO;
                recording->n_written += touch->flags & TOUCH_WRITTEN ? 1 : 0;
        }
        if (!recording->error)
                recording->error = record_write(recording->path, &template->image, template->digest,
                                                recording->touches, recording->n_touches);
}

static void release(struct recording *recording)
{
        template_release(recording->templates, recording->template);
        free(recording->regions);
        free(recording->touches);
        free(recording);
}

static void written_down(struct job *job)
{
        struct recording *recording = container_of(job, struct recording, job);

        recording->ended(recording);
        release(recording);
}

int recording_end(struct vm *vm, const char *path, uint64_t serial, void *context,
                  void (*ended)(struct recording *recording))
{
        const struct journal_head *head = vm->journal.head;
        struct recording *recording;
        int64_t n;

        if (!vm->touched)
                return -ENODATA;
        recording = calloc(1, sizeof(*recording));
        if (!recording)
                return -ENOMEM;
        recording->regions = calloc(head->n_regions, sizeof(struct region));
        if (!recording->regions) {
                free(recording);
                return -ENOMEM;
        }
        memcpy(recording->regions, head->regions, head->n_regions * sizeof(struct region));
        recording->n_regions = head->n_regions;
        recording->pid = head->pid;
        recording->job = (struct job){.work = write_down, .done = written_down};
        recording->serial = serial;
        recording->context = context;
        recording->ended = ended;
        memcpy(recording->path, path, strlen(path) + 1);
        recording->templates = vm->host->templates;
        recording->template = vm->template;
        recording->template->users++;
        n = vm_end_recording(vm, &recording->touches);
        recording->n_touches = (size_t)n;
        reader_submit(vm->host->reader, &recording->job);
        return 0;
}
