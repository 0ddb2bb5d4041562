#define _GNU_SOURCE
#include "offload_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fdutil.h"
#include "image.h"

/* The monitor cannot cut away what is still to be written. */
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* A part of one slot's memfd. */
struct span {
        int fd;
        off_t offset;
        uint64_t pages;
};

static int new_memfd(const struct offload_slot *slot)
{
        _cleanup_close_ int fd = FD_NONE;
        char name[32];

        snprintf(name, sizeof(name), "snapstart-slot-%u", slot->number);
        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0 || ftruncate(fd, (off_t)(slot->file_offset + slot->size_bytes)) < 0 ||
            fcntl(fd, F_ADD_SEALS, SEALS) < 0)
                return -errno;
        return TAKE_FD(fd);
}

int offload_memory_open(struct offload_memory *memory, const struct offload_layout *layout)
{
        *memory = (struct offload_memory){ .layout = *layout, .is_open = true };
        pthread_mutex_init(&memory->mutex, NULL);
        for (size_t i = 0; i < OFFLOAD_MAX_SLOTS; i++)
                memory->fds[i] = FD_NONE;
        for (size_t i = 0; i < layout->n_slots; i++) {
                int fd = new_memfd(&layout->slots[i]);

                if (fd < 0)
                        return fd;
                memory->fds[i] = fd;
        }
        memory->installed = calloc(layout->size_bytes / IMAGE_PAGE_BYTES / 64 + 1, sizeof(*memory->installed));
        return memory->installed ? 0 : -ENOMEM;
}

void offload_memory_close(struct offload_memory *memory)
{
        if (!memory->is_open)
                return;
        for (size_t i = 0; i < OFFLOAD_MAX_SLOTS; i++)
                memory->fds[i] = close_fd(memory->fds[i]);
        free(memory->installed);
        pthread_mutex_destroy(&memory->mutex);
        memory->is_open = false;
}

static bool has(const struct offload_memory *memory, uint64_t page)
{
        return (memory->installed[page / 64] >> (page % 64)) & 1;
}

static void mark(struct offload_memory *memory, uint64_t page, uint64_t pages)
{
        for (uint64_t i = page; i < page + pages; i++)
                memory->installed[i / 64] |= UINT64_C(1) << (i % 64);
}

/* Returns where pages from @page on are: at most @pages, up to the end of the slot. */
static struct span span_at(const struct offload_memory *memory, uint64_t page, uint64_t pages)
{
        uint64_t offset = page * IMAGE_PAGE_BYTES;
        size_t i = offload_layout_at(&memory->layout, offset);
        const struct offload_slot *slot = &memory->layout.slots[i];
        uint64_t left = (slot->offset + slot->size_bytes - offset) / IMAGE_PAGE_BYTES;

        return (struct span){
                .fd = memory->fds[i],
                .offset = (off_t)(slot->file_offset + offset - slot->offset),
                .pages = pages < left ? pages : left,
        };
}

static int allocate(const struct span *span)
{
        while (fallocate(span->fd, 0, span->offset, (off_t)(span->pages * IMAGE_PAGE_BYTES)) < 0)
                if (errno != EINTR)
                        return -errno;
        return 0;
}

static int write_span(const struct span *span, const uint8_t *bytes)
{
        size_t left = span->pages * IMAGE_PAGE_BYTES;
        off_t offset = span->offset;

        while (left > 0) {
                ssize_t n = pwrite(span->fd, bytes, left, offset);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : -EIO;
                bytes += n;
                offset += n;
                left -= (size_t)n;
        }
        return 0;
}

bool offload_memory_has(struct offload_memory *memory, uint64_t page, uint64_t pages)
{
        bool has_all = true;

        pthread_mutex_lock(&memory->mutex);
        for (uint64_t i = page; i < page + pages && has_all; i++)
                has_all = has(memory, i);
        pthread_mutex_unlock(&memory->mutex);
        return has_all;
}

/* Returns how many pages from @page on, up to @end, are alike in being installed or not. */
static uint64_t alike(const struct offload_memory *memory, uint64_t page, uint64_t end)
{
        uint64_t at = page + 1;

        while (at < end && has(memory, at) == has(memory, page))
                at++;
        return at - page;
}

/* Install pages none of which is installed. */
static int fill(struct offload_memory *memory, uint64_t page, uint64_t pages, const uint8_t *bytes)
{
        while (pages > 0) {
                struct span span = span_at(memory, page, pages);
                int r = bytes ? write_span(&span, bytes) : allocate(&span);

                if (r)
                        return r;
                mark(memory, page, span.pages);
                *(bytes ? &memory->copied : &memory->zeroed) += span.pages;
                bytes = bytes ? bytes + span.pages * IMAGE_PAGE_BYTES : NULL;
                page += span.pages;
                pages -= span.pages;
        }
        return 0;
}

int64_t offload_memory_install(struct offload_memory *memory, uint64_t page, uint64_t pages, const uint8_t *bytes)
{
        uint64_t at = page, end = page + pages, n;
        int64_t installed = 0;
        int r = 0;

        pthread_mutex_lock(&memory->mutex);
        for (; at < end && r == 0; at += n) {
                n = alike(memory, at, end);
                if (has(memory, at))
                        continue;
                r = fill(memory, at, n, bytes ? bytes + (at - page) * IMAGE_PAGE_BYTES : NULL);
                installed += r == 0 ? (int64_t)n : 0;
        }
        pthread_mutex_unlock(&memory->mutex);
        return r ? r : installed;
}

int offload_memory_keep(struct offload_memory *memory, uint64_t page, uint64_t pages)
{
        while (pages > 0) {
                struct span span = span_at(memory, page, pages);
                int r = allocate(&span);

                if (r)
                        return r;
                page += span.pages;
                pages -= span.pages;
        }
        return 0;
}

int offload_memory_read(const struct offload_memory *memory, uint64_t page, uint8_t *bytes)
{
        struct span span = span_at(memory, page, 1);
        size_t got = 0;

        while (got < IMAGE_PAGE_BYTES) {
                ssize_t n = pread(span.fd, bytes + got, IMAGE_PAGE_BYTES - got, span.offset + (off_t)got);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : -EIO;
                got += (size_t)n;
        }
        return 0;
}

void offload_memory_count(struct offload_memory *memory, uint64_t *ret_copied, uint64_t *ret_zeroed)
{
        pthread_mutex_lock(&memory->mutex);
        *ret_copied = memory->copied;
        *ret_zeroed = memory->zeroed;
        pthread_mutex_unlock(&memory->mutex);
}

void *offload_alloc_locked(size_t n)
{
        void *bytes = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (bytes == MAP_FAILED)
                return NULL;
        if (mlock(bytes, n) < 0) {
                munmap(bytes, n);
                return NULL;
        }
        return bytes;
}

void offload_free_locked(void *bytes, size_t n)
{
        if (bytes)
                munmap(bytes, n);
}
