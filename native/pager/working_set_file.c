#define _GNU_SOURCE
#include "working_set_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "fdutil.h"

struct file_tie file_tie(const char *magic, const struct image *image, const uint8_t *digest)
{
        struct file_tie tie = { .version = FILE_VERSION, .image_bytes = image->identity.size_bytes };

        memcpy(tie.magic, magic, sizeof(tie.magic));
        memcpy(tie.digest, digest, sizeof(tie.digest));
        return tie;
}

int file_tie_check(const struct file_tie *tie, const struct file_tie *expected)
{
        if (memcmp(tie->magic, expected->magic, sizeof(tie->magic)) || tie->version != expected->version ||
            tie->unused)
                return -EBADMSG;
        return memcmp(tie, expected, sizeof(*tie)) ? -ESTALE : 0;
}

struct image_identity file_identity(const struct stat *st)
{
        return (struct image_identity){
                .device = st->st_dev,
                .inode = st->st_ino,
                .size_bytes = (uint64_t)st->st_size,
                .modified_s = st->st_mtim.tv_sec,
                .modified_ns = st->st_mtim.tv_nsec,
        };
}

int file_open(const char *path, int *ret_fd, struct image_identity *ret_identity)
{
        /* Of something that is no file, a FIFO say, opening must not wait. */
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -EBADMSG;
        *ret_fd = TAKE_FD(fd);
        *ret_identity = file_identity(&st);
        return 0;
}

int file_read(int fd, void *bytes, size_t n, uint64_t offset)
{
        char *at = bytes;

        while (n > 0) {
                ssize_t got = pread(fd, at, n, (off_t)offset);

                if (got < 0 && errno == EINTR)
                        continue;
                if (got <= 0)
                        return got < 0 ? -errno : -EBADMSG;
                at += got;
                offset += (uint64_t)got;
                n -= (size_t)got;
        }
        return 0;
}

uint64_t head_hash(const void *head, size_t n_bytes, size_t header_bytes)
{
        uint64_t before = XXH3_64bits(head, header_bytes - sizeof(uint64_t));

        return XXH3_64bits_withSeed((const uint8_t *)head + header_bytes, n_bytes - header_bytes, before);
}

uint64_t chunk_hash(const void *content, size_t n_bytes)
{
        return XXH3_64bits(content, n_bytes);
}
