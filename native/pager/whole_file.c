#define _GNU_SOURCE
#include "whole_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fdutil.h"

int whole_file_open(const char *path, struct whole_file *ret_file)
{
        struct whole_file file = { .path = path };
        int n = snprintf(file.temporary, sizeof(file.temporary), "%s.XXXXXX", path);

        if (n < 0 || (size_t)n >= sizeof(file.temporary))
                return -ENAMETOOLONG;
        file.fd = mkostemp(file.temporary, O_CLOEXEC);
        if (file.fd < 0)
                return -errno;
        *ret_file = file;
        return 0;
}

int whole_file_write(struct whole_file *file, const void *bytes, size_t n, uint64_t offset)
{
        const char *at = bytes;

        while (n > 0) {
                ssize_t put = pwrite(file->fd, at, n, (off_t)offset);

                if (put < 0 && errno == EINTR)
                        continue;
                if (put <= 0)
                        return put < 0 ? -errno : -EIO;
                at += put;
                offset += (uint64_t)put;
                n -= (size_t)put;
        }
        return 0;
}

/* Make the name in the directory survive a power failure. */
static int sync_directory(const char *path)
{
        char directory[PATH_MAX] = ".";
        const char *slash = strrchr(path, '/');
        _cleanup_close_ int fd = FD_NONE;

        if (slash)
                snprintf(directory, sizeof(directory), "%.*s", slash == path ? 1 : (int)(slash - path), path);
        fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        return fsync(fd) < 0 ? -errno : 0;
}

int whole_file_keep(struct whole_file *file)
{
        if (fsync(file->fd) < 0 || rename(file->temporary, file->path) < 0)
                return -errno;
        file->temporary[0] = '\0';
        return sync_directory(file->path);
}

void whole_file_close(struct whole_file *file)
{
        if (file->temporary[0] && file->fd >= 0)
                unlink(file->temporary);
        file->fd = close_fd(file->fd);
}
