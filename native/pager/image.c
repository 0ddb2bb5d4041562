#define _GNU_SOURCE
#include "image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fdutil.h"

#define RESIDENT_MAX_PAGES 512
#define NEEDED_SEALS (F_SEAL_SHRINK | F_SEAL_WRITE)
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

static struct image_identity identity_of(const struct stat *st)
{
        return (struct image_identity){
                .device = st->st_dev,
                .inode = st->st_ino,
                .size_bytes = (uint64_t)st->st_size,
                .modified_s = st->st_mtim.tv_sec,
                .modified_ns = st->st_mtim.tv_nsec,
        };
}

static bool is_same(const struct image_identity *a, const struct image_identity *b)
{
        return a->device == b->device && a->inode == b->inode && a->size_bytes == b->size_bytes &&
               a->modified_s == b->modified_s && a->modified_ns == b->modified_ns;
}

static void set_bits(uint64_t *bits, uint64_t from, uint64_t to)
{
        for (; from < to; from++)
                bits[from / 64] |= UINT64_C(1) << (from % 64);
}

/* Mark the pages that lie wholly in holes. */
static int find_holes(struct image *image)
{
        off_t at = 0, end = (off_t)image->identity.size_bytes;

        while (at < end) {
                off_t data = lseek(image->fd, at, SEEK_DATA), hole;

                if (data < 0 && errno != ENXIO)
                        return -errno;
                data = data < 0 ? end : data;
                set_bits(image->zeros, ((uint64_t)at + IMAGE_PAGE_BYTES - 1) / IMAGE_PAGE_BYTES,
                         data == end ? image->pages : (uint64_t)data / IMAGE_PAGE_BYTES);
                if (data >= end)
                        break;
                hole = lseek(image->fd, data, SEEK_HOLE);
                if (hole < 0)
                        return -errno;
                at = hole;
        }
        return 0;
}

static int map(struct image *image)
{
        void *memory = mmap(NULL, image->identity.size_bytes, PROT_READ, MAP_SHARED, image->fd, 0);

        if (memory == MAP_FAILED)
                return -errno;
        image->memory = memory;
        /* One page is asked for at a time: what the kernel would read around it was not. */
        madvise(memory, image->identity.size_bytes, MADV_RANDOM);
        image->zeros = calloc(image->pages / 64 + 1, sizeof(*image->zeros));
        return image->zeros ? find_holes(image) : -ENOMEM;
}

static bool is_sealed(int fd)
{
        int seals = fcntl(fd, F_GET_SEALS);

        return seals >= 0 && (seals & NEEDED_SEALS) == NEEDED_SEALS;
}

int image_open_fd(int fd, struct image *ret_image)
{
        struct image image = {.fd = fd};
        struct stat st;
        int r;

        if (fstat(fd, &st) < 0)
                r = -errno;
        else if (!S_ISREG(st.st_mode) || st.st_size <= 0)
                r = -EINVAL;
        else {
                image.identity = identity_of(&st);
                image.pages = (image.identity.size_bytes + IMAGE_PAGE_BYTES - 1) / IMAGE_PAGE_BYTES;
                image.is_sealed = is_sealed(fd);
                r = map(&image);
        }
        if (r) {
                image_close(&image);
                return r;
        }
        *ret_image = image;
        return 0;
}

int image_open(const char *path, struct image *ret_image)
{
        /* Of something that is no file, a FIFO say, opening must not wait. */
        int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

        return fd < 0 ? -errno : image_open_fd(fd, ret_image);
}

void image_close(struct image *image)
{
        if (image->memory)
                munmap((void *)image->memory, image->identity.size_bytes);
        free(image->zeros);
        close_fd(image->fd);
        *image = (struct image){.fd = FD_NONE};
}

int image_check(const struct image *image)
{
        struct image_identity now;
        struct stat st;

        if (image->is_sealed)
                return 0;
        if (fstat(image->fd, &st) < 0)
                return -errno;
        now = identity_of(&st);
        return is_same(&now, &image->identity) ? 0 : -ESTALE;
}

static uint64_t clipped(const struct image *image, uint64_t page, uint64_t pages)
{
        uint64_t left = page < image->pages ? image->pages - page : 0;

        return pages < left ? pages : left;
}

bool image_is_resident(const struct image *image, uint64_t page, uint64_t pages)
{
        unsigned char there[RESIDENT_MAX_PAGES];

        pages = clipped(image, page, pages < RESIDENT_MAX_PAGES ? pages : RESIDENT_MAX_PAGES);
        if (mincore((void *)(image->memory + page * IMAGE_PAGE_BYTES), pages * IMAGE_PAGE_BYTES, there) < 0)
                return false;
        for (uint64_t i = 0; i < pages; i++)
                if (!(there[i] & 1))
                        return false;
        return true;
}

int image_populate(const struct image *image, uint64_t page, uint64_t pages)
{
        void *at = (void *)(image->memory + page * IMAGE_PAGE_BYTES);

        pages = clipped(image, page, pages);
        while (madvise(at, pages * IMAGE_PAGE_BYTES, MADV_POPULATE_READ) < 0) {
                if (errno == EINTR || errno == EAGAIN)
                        continue;
                /* The kernel's words for an access that would be a SIGBUS. */
                return errno == EHWPOISON ? -EIO : -errno;
        }
        return 0;
}
