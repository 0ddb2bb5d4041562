#define _GNU_SOURCE
#include "uffd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fdutil.h"

#define KIND "anon_inode:[userfaultfd]"
#define INITIALIZED (UINT64_C(1) << 31) /* the kernel's own mark among the features */
#define FDINFO_BYTES 1024

static ssize_t read_whole(const char *path, char *buffer, size_t capacity)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n;

        if (fd < 0)
                return -errno;
        n = read(fd, buffer, capacity - 1);
        if (n < 0)
                return -errno;
        buffer[n] = '\0';
        return n;
}

static bool is_uffd(const char *path)
{
        char target[sizeof(KIND)];
        ssize_t n = readlink(path, target, sizeof(target));

        return n == sizeof(KIND) - 1 && memcmp(target, KIND, sizeof(KIND) - 1) == 0;
}

/* The line is "API:\taa:<wanted>:<offered>", in hexadecimal (fs/userfaultfd.c). */
static int read_features(int fd, uint64_t *ret_features)
{
        char path[64], text[FDINFO_BYTES];
        const char *line;
        uint64_t features;
        ssize_t n;

        snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
        n = read_whole(path, text, sizeof(text));
        if (n < 0)
                return (int)n;
        line = strstr(text, "API:");
        if (!line || sscanf(line, "API: %*x:%" SCNx64, &features) != 1)
                return -EPROTO;
        if (!(features & INITIALIZED))
                return -EPROTO;
        *ret_features = features & ~INITIALIZED;
        return 0;
}

int uffd_inspect(int fd, struct uffd_facts *ret_facts)
{
        struct uffd_facts facts;
        char path[64];
        struct stat st;
        int r;

        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        if (!is_uffd(path))
                return -EBADF;
        if (fstat(fd, &st) < 0)
                return -errno;
        facts.device = st.st_dev;
        facts.inode = st.st_ino;
        r = read_features(fd, &facts.features);
        if (r)
                return r;
        *ret_facts = facts;
        return 0;
}

int uffd_wake(int fd, uint64_t address, uint64_t bytes)
{
        struct uffdio_range range = {.start = address, .len = bytes};

        return ioctl(fd, UFFDIO_WAKE, &range) < 0 ? -errno : 0;
}

/* What an ioctl that filled @done bytes, or none and says @error, comes to. */
static int64_t outcome(int fd, uint64_t address, uint64_t bytes, int error, int64_t done)
{
        if (!error)
                return (int64_t)bytes;
        if (done > 0)
                return done;
        if (error != EEXIST)
                return -error;
        /* Somebody was faster: whoever waits for the page may have missed that wake. */
        uffd_wake(fd, address, bytes);
        return 0;
}

int64_t uffd_copy(int fd, uint64_t address, const void *source, uint64_t bytes)
{
        struct uffdio_copy copy = {.dst = address, .src = (uint64_t)(uintptr_t)source, .len = bytes};
        int error = ioctl(fd, UFFDIO_COPY, &copy) < 0 ? errno : 0;

        return outcome(fd, address, bytes, error, copy.copy);
}

int64_t uffd_zero(int fd, uint64_t address, uint64_t bytes)
{
        struct uffdio_zeropage zero = {.range = {.start = address, .len = bytes}};
        int error = ioctl(fd, UFFDIO_ZEROPAGE, &zero) < 0 ? errno : 0;

        return outcome(fd, address, bytes, error, zero.zeropage);
}

int64_t uffd_continue(int fd, uint64_t address, uint64_t bytes)
{
        struct uffdio_continue go = {.range = {.start = address, .len = bytes}};
        int error = ioctl(fd, UFFDIO_CONTINUE, &go) < 0 ? errno : 0;

        return outcome(fd, address, bytes, error, go.mapped);
}

static bool is_the_one(const struct stat *st, uint64_t device, uint64_t inode)
{
        return st->st_dev == device && st->st_ino == inode;
}

int fd_find_in(int pid, uint64_t device, uint64_t inode)
{
        char path[64];
        struct dirent *entry;
        int found = -ENOENT;
        struct stat st;
        DIR *directory;

        snprintf(path, sizeof(path), "/proc/%d/fd", pid);
        directory = opendir(path);
        if (!directory)
                return -errno;
        while (found < 0 && (entry = readdir(directory)))
                if (entry->d_name[0] != '.' && fstatat(dirfd(directory), entry->d_name, &st, 0) == 0 &&
                    is_the_one(&st, device, inode))
                        found = atoi(entry->d_name);
        closedir(directory);
        return found;
}

int fd_take_from(int pidfd, int number, uint64_t device, uint64_t inode)
{
        _cleanup_close_ int fd = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        return is_the_one(&st, device, inode) ? TAKE_FD(fd) : -ESTALE;
}
