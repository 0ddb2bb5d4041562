/* How a machine's memory gets there: mapped, or handed over to who fills it. */
#define _GNU_SOURCE
#include "vm.h"

#include <inttypes.h>

void vm_map(struct vm *vm)
{
        int flags = MAP_PRIVATE | MAP_NORESERVE, fd = -1;

        if (vm->kind == MAPPED) {
                fd = open(vm->image, O_RDONLY | O_CLOEXEC);
                if (fd < 0)
                        fail("cannot open %s", vm->image);
        } else if (vm->kind == MEMFD) {
                fd = vm->memfd;
        } else {
                flags |= MAP_ANONYMOUS;
        }
        vm->memory = mmap(NULL, vm->size, PROT_READ | PROT_WRITE, flags, fd, 0);
        if (vm->memory == MAP_FAILED)
                fail("cannot map guest memory");
        if (vm->kind == MAPPED)
                close(fd);
}

void vm_fill(struct vm *vm)
{
        int fd = open(vm->image, O_RDONLY | O_CLOEXEC);
        size_t done = 0;

        vm_map(vm);
        madvise(vm->memory, vm->size, MADV_NOHUGEPAGE);
        while (done < vm->size) {
                ssize_t got = pread(fd, vm->memory + done, vm->size - done, done);
                if (got <= 0)
                        fail("cannot read %s", vm->image);
                done += got;
        }
        close(fd);
}

void vm_register(struct vm *vm)
{
        struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
        struct uffdio_register range = {.range = {(uintptr_t)vm->memory, vm->size},
                                        .mode = UFFDIO_REGISTER_MODE_MISSING};

        if (vm->kind == MEMFD) {
                api.features |= UFFD_FEATURE_MINOR_SHMEM;
                range.mode |= UFFDIO_REGISTER_MODE_MINOR;
        }
        vm->uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
        if (vm->uffd < 0 || ioctl(vm->uffd, UFFDIO_API, &api) != 0)
                fail("no userfaultfd");
        if (ioctl(vm->uffd, UFFDIO_REGISTER, &range) != 0)
                fail("cannot register guest memory");
}

void vm_hand_over(struct vm *vm)
{
        static const char region[] =
                "[{\"base_host_virt_addr\":%" PRIuPTR ",\"size\":%zu,\"offset\":0,"
                "\"page_size\":4096,\"page_size_kib\":4096}]";
        struct sockaddr_un where = unix_address(vm->socket_path);
        int fds[2] = {vm->uffd, vm->memfd};
        char regions[256], text[512];

        snprintf(regions, sizeof(regions), region, (uintptr_t)vm->memory, vm->size);
        if (vm->kind == MEMFD)
                snprintf(text, sizeof(text),
                         "{\"protocol\":\"snapstart-memfd\",\"version\":1,\"regions\":%s}", regions);
        else
                strcpy(text, regions);
        vm->sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (vm->sock < 0 || connect(vm->sock, (struct sockaddr *)&where, sizeof(where)) != 0)
                fail("cannot connect to %s", vm->socket_path);
        send_fds(vm->sock, text, fds, vm->kind == MEMFD ? 2 : 1);
}

void vm_connect_control(struct vm *vm, const char *path)
{
        struct sockaddr_un where = unix_address(path);

        vm->control = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (vm->control < 0 || connect(vm->control, (struct sockaddr *)&where, sizeof(where)) != 0)
                fail("cannot connect to the control socket %s", path);
}

void vm_close_control(struct vm *vm)
{
        if (vm->control >= 0)
                close(vm->control);
        vm->control = -1;
}

/* Say @line on the control socket. @reply: its answer, without the newline. */
static void ask(struct vm *vm, const char *line, char *reply, size_t size)
{
        size_t got = 0;

        if (dprintf(vm->control, "%s\n", line) < 0)
                fail("cannot write to the control socket");
        while (got == 0 || reply[got - 1] != '\n') {
                ssize_t n = got < size - 1 ? read(vm->control, reply + got, size - 1 - got) : 0;
                if (n <= 0)
                        fail("no answer on the control socket to %s", line);
                got += n;
        }
        reply[got - 1] = '\0';
        if (strncmp(reply, "{\"ok\":true", 10) != 0) {
                errno = 0;
                fail("the page server answered %s to %s", reply, line);
        }
}

void vm_wait_resume(struct vm *vm, char *reply, size_t size)
{
        char byte;

        if (vm->control >= 0)
                ask(vm, vm->wait, reply, size);
        else if (read(vm->sock, &byte, 1) != 1)
                fail("the page server did not say that the guest may resume");
}

void vm_listen(struct vm *vm)
{
        char reply[4096];

        if (vm->control < 0 || vm->is_listening)
                return;
        ask(vm, vm->listen, reply, sizeof(reply));
        vm->is_listening = true;
}
