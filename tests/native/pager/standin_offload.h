/* A stand-in for a Cloud Hypervisor that gives its machine away or gets one, and for its guest.
 *
 * It speaks the local migration protocol from the monitor's side, in the monitor's own manner: blocking, one
 * write for each part of a message, with one thread that serves its userfaultfd by asking over a second
 * connection and that fills memory page after page in between (vm-migration/src/protocol.rs,
 * vmm/src/memory_manager.rs and vmm/src/uffd.rs of Cloud Hypervisor v53, and newer, where that differs).
 * Written without the server's own code, so that both cannot be wrong alike. What it is not: there is no
 * KVM; the guest is whoever reads and writes its memory. */
#ifndef SNAPSTART_STANDIN_OFFLOAD_H
#define SNAPSTART_STANDIN_OFFLOAD_H

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "json_scan.h"
#include "pattern.h"

#define OFF_PAGE PATTERN_PAGE_BYTES
#define OFF_MAX_SLOTS 16
#define OFF_DIE(what)                                                                               \
        do {                                                                                        \
                fprintf(stderr, "standin_offload: %s:%d: %s: %s\n", __FILE__, __LINE__, what, strerror(errno)); \
                exit(1);                                                                            \
        } while (0)

#ifndef UFFD_FEATURE_MINOR_SHMEM
#define UFFD_FEATURE_MINOR_SHMEM (1 << 10)
#endif
#ifndef UFFD_FEATURE_MISSING_SHMEM
#define UFFD_FEATURE_MISSING_SHMEM (1 << 5)
#endif
#define OFF_REGISTER_MINOR (UINT64_C(1) << 2)
#define OFF_CONTINUE 0xc020aa07ul

struct off_continue {
        uint64_t start, length, mode;
        int64_t mapped;
};

enum {
        OFF_START = 1,
        OFF_CONFIG,
        OFF_STATE,
        OFF_MEMORY,
        OFF_COMPLETE,
        OFF_ABANDON,
        OFF_MEMORY_FD,
        OFF_PAUSED,
        OFF_FAULT,
};
enum { OFF_OK = 1, OFF_ERROR = 2, OFF_CLOSED = -1 };

struct off_header {
        uint16_t word;
        uint8_t rest[6];
        uint64_t length;
};

struct off_slot {
        uint32_t number;
        uint64_t gpa, bytes, file_offset;
        uint64_t first_page; /* in the order of the configuration */
        int fd; /* owned */
        uint8_t *memory; /* mapped; owned */
};

struct off_shape {
        size_t n;
        struct off_slot slots[OFF_MAX_SLOTS];
};

/* Memory as of a machine with less than, and with more than, what fits below the hole for devices. */
static inline struct off_shape off_shape(uint64_t low_bytes, uint64_t high_bytes)
{
        struct off_shape shape = {
                .n = high_bytes ? 2 : 1,
                .slots = {
                        { .number = 0, .bytes = low_bytes, .fd = -1 },
                        { .number = 1, .gpa = UINT64_C(1) << 32, .bytes = high_bytes, .file_offset = low_bytes,
                          .first_page = low_bytes / OFF_PAGE, .fd = -1 },
                },
        };

        return shape;
}

static inline uint64_t off_pages(const struct off_shape *shape)
{
        const struct off_slot *last = &shape->slots[shape->n - 1];

        return last->first_page + last->bytes / OFF_PAGE;
}

/* The configuration of a migration, with the members around that are not looked at. Owned by the caller. */
static inline char *off_config(const struct off_shape *shape)
{
        char *text = NULL;
        size_t length;
        FILE *out = open_memstream(&text, &length);

        fprintf(out, "{\"vm_config\":{\"cpus\":{\"boot_vcpus\":1},\"memory\":{\"size\":%llu,\"shared\":true},"
                     "\"disks\":[{\"path\":\"/d\\u00e9\"}],\"net\":null},"
                     "\"common_cpuid\":[{\"function\":0,\"eax\":13}],"
                     "\"memory_manager_data\":{\"memory_ranges\":{\"data\":[]},\"guest_ram_mappings\":[",
                (unsigned long long)(off_pages(shape) * OFF_PAGE));
        for (size_t i = 0; i < shape->n; i++)
                fprintf(out, "%s{\"slot\":%u,\"gpa\":%llu,\"size\":%llu,\"zone_id\":\"mem0\",\"virtio_mem\":false,"
                             "\"file_offset\":%llu}",
                        i ? "," : "", shape->slots[i].number, (unsigned long long)shape->slots[i].gpa,
                        (unsigned long long)shape->slots[i].bytes, (unsigned long long)shape->slots[i].file_offset);
        fprintf(out, "],\"next_memory_slot\":2}}");
        fclose(out);
        return text;
}

/* ---- bytes */

static inline bool off_write(int fd, const void *bytes, size_t n)
{
        const char *at = bytes;

        while (n > 0) {
                ssize_t put = send(fd, at, n, MSG_NOSIGNAL);

                if (put < 0 && errno == EINTR)
                        continue;
                if (put <= 0)
                        return false;
                at += put;
                n -= (size_t)put;
        }
        return true;
}

static inline bool off_read(int fd, void *bytes, size_t n)
{
        char *at = bytes;

        while (n > 0) {
                ssize_t got = read(fd, at, n);

                if (got < 0 && errno == EINTR)
                        continue;
                if (got <= 0)
                        return false;
                at += got;
                n -= (size_t)got;
        }
        return true;
}

static inline bool off_say(int fd, int word, uint64_t length)
{
        struct off_header header = { .word = (uint16_t)word, .length = length };

        return off_write(fd, &header, sizeof(header));
}

/* Returns the status of the answer, OFF_CLOSED at the end of the stream. */
static inline int off_hear(int fd)
{
        struct off_header header;

        return off_read(fd, &header, sizeof(header)) ? header.word : OFF_CLOSED;
}

/* Send @bytes with @n_fds descriptors. */
static inline bool off_pass(int fd, const void *bytes, size_t n, const int *fds, size_t n_fds)
{
        struct iovec iov = { (void *)bytes, n };
        char control[CMSG_SPACE(16 * sizeof(int))] __attribute__((aligned(8))) = { 0 };
        struct msghdr message = {
                .msg_iov = &iov,
                .msg_iovlen = 1,
                .msg_control = control,
                .msg_controllen = CMSG_SPACE(n_fds * sizeof(int)),
        };
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);

        *header = (struct cmsghdr){
                .cmsg_level = SOL_SOCKET,
                .cmsg_type = SCM_RIGHTS,
                .cmsg_len = CMSG_LEN(n_fds * sizeof(int)),
        };
        memcpy(CMSG_DATA(header), fds, n_fds * sizeof(int));
        return sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)n;
}

static inline bool off_say_slot(int fd, uint32_t number, int memfd)
{
        return off_say(fd, OFF_MEMORY_FD, sizeof(number)) && off_pass(fd, &number, sizeof(number), &memfd, 1);
}

static inline struct sockaddr_un off_address(const char *path)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
        return address;
}

static inline int off_connect(const char *path)
{
        struct sockaddr_un address = off_address(path);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
                return fd;
        close(fd);
        return -1;
}

static inline int off_listen(const char *path)
{
        struct sockaddr_un address = off_address(path);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 128) < 0)
                OFF_DIE(path);
        return fd;
}

/* ---- giving a machine away (vm.send-migration) */

/* Make the memory of a machine that has run: one memfd for all slots, as of one memory zone. */
static inline void off_fill(struct off_shape *shape, uint64_t seed, double zero_share)
{
        uint64_t words[PATTERN_PAGE_WORDS], end = 0;
        int fd = memfd_create("standin-zone", MFD_CLOEXEC);

        for (size_t i = 0; i < shape->n; i++)
                end = shape->slots[i].file_offset + shape->slots[i].bytes > end
                              ? shape->slots[i].file_offset + shape->slots[i].bytes
                              : end;
        if (fd < 0 || ftruncate(fd, (off_t)end) < 0)
                OFF_DIE("memfd");
        for (size_t i = 0; i < shape->n; i++) {
                struct off_slot *slot = &shape->slots[i];

                slot->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
                for (uint64_t p = 0; p < slot->bytes / OFF_PAGE; p++) {
                        if (pattern_is_zero(seed, slot->first_page + p, zero_share))
                                continue;
                        pattern_fill(seed, slot->first_page + p, words);
                        if (pwrite(fd, words, OFF_PAGE, (off_t)(slot->file_offset + p * OFF_PAGE)) != OFF_PAGE)
                                OFF_DIE("pwrite");
                }
        }
        close(fd);
}

static inline void off_release(struct off_shape *shape)
{
        for (size_t i = 0; i < shape->n; i++) {
                if (shape->slots[i].memory)
                        munmap(shape->slots[i].memory, shape->slots[i].bytes);
                if (shape->slots[i].fd >= 0)
                        close(shape->slots[i].fd);
                shape->slots[i].memory = NULL;
                shape->slots[i].fd = -1;
        }
}

/* Send everything up to and with State. Returns the last status: OFF_OK if all was accepted. */
static inline int off_send(int fd, const struct off_shape *shape, const char *config, const char *state,
                           size_t state_bytes)
{
        int status;

        off_say(fd, OFF_START, 0);
        status = off_hear(fd);
        for (size_t i = 0; i < shape->n && status == OFF_OK; i++) {
                /* A hash map gives them in any order. */
                const struct off_slot *slot = &shape->slots[shape->n - 1 - i];

                off_say_slot(fd, slot->number, slot->fd);
                status = off_hear(fd);
        }
        if (status != OFF_OK)
                return status;
        off_say(fd, OFF_CONFIG, strlen(config));
        off_write(fd, config, strlen(config));
        status = off_hear(fd);
        if (status != OFF_OK)
                return status;
        off_say(fd, OFF_STATE, state_bytes);
        off_write(fd, state, state_bytes);
        return off_hear(fd);
}

/* ---- getting a machine (vm.receive-migration with memory_mode Postcopy) */

struct monitor {
        bool is_v53; /* registers no minor faults, wakes only */
        uint64_t page_bytes; /* of its memory zone: what it asks for */
        bool sweeps_first; /* has all of its memory before it answers State */
        int listener_fd, control_fd, fault_fd, uffd_fd, stop_fd; /* owned */
        struct off_shape shape;
        char *state; /* as received; owned */
        uint64_t state_bytes;
        bool has_thread, is_resumed;
        pthread_t thread;
        uint8_t *served; /* for each page of its own size */
        atomic_ullong n_demand, n_swept;
        atomic_bool gave_up; /* the sweep, after an error */
        atomic_bool has_all; /* the sweep is done: it asks no more */
        atomic_bool is_dead; /* as if the process had ended */
};

/* Read the machine's memory out of the configuration. */
static inline bool off_take_config(struct monitor *monitor, const char *text, size_t length)
{
        struct off_shape received = { 0 };
        struct json object, mappings, rest, mapping, value;
        uint64_t page = 0;

        if (json_parse(text, length, &object) < 0 ||
            json_find(object, "memory_manager_data.guest_ram_mappings", &mappings) < 0 ||
            json_elements(mappings, &rest) < 0)
                return false;
        while (json_next_element(&rest, &mapping) > 0) {
                struct off_slot *slot = &received.slots[received.n++];
                uint64_t number = 0;

                if (json_find(mapping, "slot", &value) < 0 || json_unsigned(value, &number) < 0 ||
                    json_find(mapping, "gpa", &value) < 0 || json_unsigned(value, &slot->gpa) < 0 ||
                    json_find(mapping, "size", &value) < 0 || json_unsigned(value, &slot->bytes) < 0 ||
                    json_find(mapping, "file_offset", &value) < 0 || json_unsigned(value, &slot->file_offset) < 0)
                        return false;
                slot->number = (uint32_t)number;
                slot->first_page = page;
                page += slot->bytes / OFF_PAGE;
                slot->fd = -1;
                for (size_t i = 0; i < monitor->shape.n; i++)
                        if (monitor->shape.slots[i].number == slot->number)
                                slot->fd = monitor->shape.slots[i].fd;
                if (slot->fd < 0)
                        return false;
        }
        monitor->shape = received;
        for (size_t i = 0; i < received.n; i++) {
                struct off_slot *slot = &monitor->shape.slots[i];

                slot->memory = mmap(NULL, slot->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, slot->fd,
                                    (off_t)slot->file_offset);
                if (slot->memory == MAP_FAILED)
                        OFF_DIE("mmap");
        }
        return true;
}

/* Returns a userfaultfd, or -1 where this process may not have one. */
static inline int off_new_uffd(bool with_minor)
{
        struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM };
        int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

        if (with_minor)
                api.features |= UFFD_FEATURE_MINOR_SHMEM;
        if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) < 0) {
                close(fd);
                return -1;
        }
        return fd;
}

static inline void off_register(struct monitor *monitor)
{
        monitor->uffd_fd = off_new_uffd(!monitor->is_v53);
        if (monitor->uffd_fd < 0)
                OFF_DIE("userfaultfd");
        for (size_t i = 0; i < monitor->shape.n; i++) {
                struct uffdio_register range = {
                        .range = { (uint64_t)(uintptr_t)monitor->shape.slots[i].memory, monitor->shape.slots[i].bytes },
                        .mode = UFFDIO_REGISTER_MODE_MISSING | (monitor->is_v53 ? 0 : OFF_REGISTER_MINOR),
                };

                if (ioctl(monitor->uffd_fd, UFFDIO_REGISTER, &range) < 0)
                        OFF_DIE("UFFDIO_REGISTER");
        }
}

static inline void off_wake(const struct monitor *monitor, const uint8_t *at)
{
        struct uffdio_range range = { (uint64_t)(uintptr_t)at, monitor->page_bytes };

        ioctl(monitor->uffd_fd, UFFDIO_WAKE, &range);
}

/* Ask for a page and map it. Returns 1, 0 if it has to be tried again, or -1. */
static inline int off_resolve(struct monitor *monitor, const struct off_slot *slot, uint64_t page)
{
        uint64_t range[2] = { slot->gpa + page * monitor->page_bytes, monitor->page_bytes };
        uint8_t *at = slot->memory + page * monitor->page_bytes;
        struct off_continue go_on = { (uint64_t)(uintptr_t)at, monitor->page_bytes, 0, 0 };
        struct off_header answer;

        if (!off_say(monitor->fault_fd, OFF_FAULT, sizeof(range)) ||
            !off_write(monitor->fault_fd, range, sizeof(range)) ||
            !off_read(monitor->fault_fd, &answer, sizeof(answer)) || answer.word != OFF_OK || answer.length != 0)
                return -1;
        if (monitor->is_v53) {
                off_wake(monitor, at);
                return 1;
        }
        if (ioctl(monitor->uffd_fd, OFF_CONTINUE, &go_on) == 0)
                return 1;
        if (errno == EEXIST) {
                off_wake(monitor, at);
                return 1;
        }
        return errno == EAGAIN ? 0 : -1;
}

/* Its process ends: its memory and its userfaultfd with it. Whoever waits in a fault here goes on with zeros,
 * which is_dead, set before, tells not to look at. */
static inline void off_exit(struct monitor *monitor)
{
        monitor->is_dead = true;
        close(monitor->uffd_fd);
        monitor->uffd_fd = -1;
        shutdown(monitor->fault_fd, SHUT_RDWR);
}

static inline bool off_demand(struct monitor *monitor, uint64_t address)
{
        for (size_t i = 0; i < monitor->shape.n; i++) {
                const struct off_slot *slot = &monitor->shape.slots[i];
                uint64_t start = (uint64_t)(uintptr_t)slot->memory, page;
                int r;

                if (address < start || address >= start + slot->bytes)
                        continue;
                page = (address - start) / monitor->page_bytes;
                while ((r = off_resolve(monitor, slot, page)) == 0)
                        sched_yield();
                monitor->served[slot->first_page * OFF_PAGE / monitor->page_bytes + page] = 1;
                monitor->n_demand += r > 0;
                return r > 0;
        }
        return false;
}

struct off_cursor {
        bool is_over;
        size_t slot;
        uint64_t page;
};

/* Fill one page of those that were not served. Returns whether the monitor asks for more. */
static inline bool off_sweep(struct monitor *monitor, struct off_cursor *cursor)
{
        const struct off_slot *slot = &monitor->shape.slots[cursor->slot];

        while (cursor->page >= slot->bytes / monitor->page_bytes ||
               monitor->served[slot->first_page * OFF_PAGE / monitor->page_bytes + cursor->page]) {
                if (cursor->page < slot->bytes / monitor->page_bytes) {
                        cursor->page++;
                        continue;
                }
                if (++cursor->slot == monitor->shape.n) {
                        monitor->has_all = true;
                        return false;
                }
                slot = &monitor->shape.slots[cursor->slot];
                cursor->page = 0;
        }
        if (off_resolve(monitor, slot, cursor->page) < 0) {
                monitor->gave_up = cursor->is_over = true;
                return true;
        }
        monitor->served[slot->first_page * OFF_PAGE / monitor->page_bytes + cursor->page] = 1;
        cursor->page++;
        monitor->n_swept++;
        return true;
}

/* uffd_handler_loop() */
static inline void *off_serve(void *data)
{
        struct monitor *monitor = data;
        struct off_cursor cursor = { 0 };

        for (;;) {
                struct pollfd fds[2] = {
                        { .fd = monitor->stop_fd, .events = POLLIN },
                        { .fd = monitor->uffd_fd, .events = POLLIN },
                };
                struct uffd_msg message;

                if (poll(fds, 2, cursor.is_over ? -1 : 0) < 0)
                        continue;
                if (fds[0].revents)
                        break;
                if (!(fds[1].revents & POLLIN)) {
                        if (!cursor.is_over && !off_sweep(monitor, &cursor))
                                break;
                        continue;
                }
                if (read(monitor->uffd_fd, &message, sizeof(message)) != sizeof(message) ||
                    message.event != UFFD_EVENT_PAGEFAULT)
                        continue;
                if (!off_demand(monitor, message.arg.pagefault.address)) {
                        off_exit(monitor);
                        return NULL;
                }
        }
        close(monitor->uffd_fd);
        monitor->uffd_fd = -1;
        shutdown(monitor->fault_fd, SHUT_RDWR);
        return NULL;
}

static inline bool off_take_slot(struct monitor *monitor)
{
        struct off_slot *slot = &monitor->shape.slots[monitor->shape.n];
        uint32_t number = 0;
        struct iovec iov = { &number, sizeof(number) };
        char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
        struct msghdr message = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
        };
        struct cmsghdr *header;

        if (recvmsg(monitor->control_fd, &message, MSG_CMSG_CLOEXEC) != sizeof(number))
                return false;
        header = CMSG_FIRSTHDR(&message);
        if (!header || header->cmsg_type != SCM_RIGHTS)
                return false;
        memcpy(&slot->fd, CMSG_DATA(header), sizeof(int));
        slot->number = number;
        monitor->shape.n++;
        return true;
}

static inline bool off_take_state(struct monitor *monitor, uint64_t length)
{
        uint16_t role;

        /* The connection for faults, then its thread, then the content: nothing of the guest exists before. */
        monitor->fault_fd = accept4(monitor->listener_fd, NULL, NULL, SOCK_CLOEXEC);
        if (monitor->fault_fd < 0 || !off_read(monitor->fault_fd, &role, sizeof(role)) || role != 2)
                return false;
        off_register(monitor);
        monitor->served = calloc(off_pages(&monitor->shape) + 1, 1);
        if (pthread_create(&monitor->thread, NULL, off_serve, monitor))
                OFF_DIE("pthread_create");
        monitor->has_thread = true;
        monitor->state = malloc(length);
        monitor->state_bytes = length;
        if (!off_read(monitor->control_fd, monitor->state, length))
                return false;
        while (monitor->sweeps_first && !monitor->has_all)
                usleep(500);
        return true;
}

static inline bool off_take(struct monitor *monitor, const struct off_header *request)
{
        bool ok;
        char *text;

        switch (request->word) {
        case OFF_START:
                return request->rest[0] == 0 && request->rest[1] == 0 && request->length == 0;
        case OFF_MEMORY_FD:
                return request->length == 4 && off_take_slot(monitor);
        case OFF_CONFIG:
                text = malloc(request->length);
                ok = off_read(monitor->control_fd, text, request->length) &&
                     off_take_config(monitor, text, request->length);
                free(text);
                return ok;
        case OFF_STATE:
                return off_take_state(monitor, request->length);
        case OFF_COMPLETE:
                monitor->is_resumed = true;
                return true;
        case OFF_PAUSED:
                return true;
        default:
                return false;
        }
}

static inline void off_monitor(struct monitor *monitor, const char *path, bool is_v53, uint64_t page_bytes)
{
        memset(monitor, 0, sizeof(*monitor));
        monitor->is_v53 = is_v53;
        monitor->page_bytes = page_bytes;
        monitor->control_fd = monitor->fault_fd = monitor->uffd_fd = -1;
        monitor->stop_fd = eventfd(0, EFD_CLOEXEC);
        monitor->listener_fd = off_listen(path);
}

/* Receive the machine. @refused: answer this command with an error; 0: none. Returns whether it came. */
static inline bool off_receive(struct monitor *monitor, int refused)
{
        struct off_header request = { 0 };

        monitor->control_fd = accept4(monitor->listener_fd, NULL, NULL, SOCK_CLOEXEC);
        while (request.word != OFF_COMPLETE && request.word != OFF_PAUSED) {
                bool ok = off_read(monitor->control_fd, &request, sizeof(request));

                if (!ok)
                        return false;
                ok = request.word != refused && off_take(monitor, &request);
                if (!off_say(monitor->control_fd, ok ? OFF_OK : OFF_ERROR, 0) || !ok)
                        return false;
        }
        close(monitor->control_fd);
        monitor->control_fd = -1;
        return true;
}

/* Returns where page @page of the machine is. */
static inline uint8_t *off_page(const struct monitor *monitor, uint64_t page)
{
        size_t i = monitor->shape.n - 1;

        while (monitor->shape.slots[i].first_page > page)
                i--;
        return monitor->shape.slots[i].memory + (page - monitor->shape.slots[i].first_page) * OFF_PAGE;
}

/* Returns how many words of page @page are not what they were in an image of this seed. */
static inline unsigned off_wrong(const struct monitor *monitor, uint64_t page, uint64_t seed, double zero_share)
{
        const volatile uint64_t *words = (const volatile uint64_t *)off_page(monitor, page);
        bool is_zero = pattern_is_zero(seed, page, zero_share);
        unsigned wrong = 0;

        for (unsigned i = 0; i < PATTERN_PAGE_WORDS; i++)
                wrong += words[i] != (is_zero ? 0 : pattern_word(seed, page, i));
        return wrong;
}

/* Give pages back as a balloon does. */
static inline void off_give_back(const struct monitor *monitor, uint64_t page, uint64_t pages)
{
        for (size_t i = 0; i < monitor->shape.n; i++) {
                const struct off_slot *slot = &monitor->shape.slots[i];

                if (page < slot->first_page || page >= slot->first_page + slot->bytes / OFF_PAGE)
                        continue;
                if (fallocate(slot->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                              (off_t)(slot->file_offset + (page - slot->first_page) * OFF_PAGE),
                              (off_t)(pages * OFF_PAGE)) < 0 ||
                    madvise(off_page(monitor, page), pages * OFF_PAGE, MADV_DONTNEED) < 0)
                        OFF_DIE("punch");
        }
}

/* End as a process does, and release everything. */
static inline void off_finish(struct monitor *monitor)
{
        uint64_t one = 1;

        if (monitor->has_thread) {
                if (write(monitor->stop_fd, &one, sizeof(one)) < 0)
                        OFF_DIE("eventfd");
                shutdown(monitor->fault_fd, SHUT_RDWR);
                pthread_join(monitor->thread, NULL);
        }
        if (monitor->control_fd >= 0)
                close(monitor->control_fd);
        if (monitor->fault_fd >= 0)
                close(monitor->fault_fd);
        close(monitor->listener_fd);
        close(monitor->stop_fd);
        off_release(&monitor->shape);
        free(monitor->state);
        free(monitor->served);
}

#endif
