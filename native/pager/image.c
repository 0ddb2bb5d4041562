#define _GNU_SOURCE
#include "image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fdutil.h"

#define RESIDENT_MAX_PAGES 512
#define HUGE_PAGE_BYTES (UINT64_C(1) << 21)
#define BLOCK_BYTES 512 /* stat(2)'s */
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

/* Returns whether a memfd has no holes: as many blocks as pages. Looking through 512 MiB of it takes 14 ms. Of
 * one that is no multiple of a huge page, blocks may lie behind its end. */
static bool is_dense(const struct image *image)
{
        struct stat st;

        return image->is_sealed && image->identity.size_bytes % HUGE_PAGE_BYTES == 0 && fstat(image->fd, &st) == 0 &&
               (uint64_t)st.st_blocks * BLOCK_BYTES == image->identity.size_bytes;
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

int image_map(struct image *image)
{
        void *memory = mmap(NULL, image->identity.size_bytes, PROT_READ, MAP_SHARED, image->fd, 0);

        if (memory == MAP_FAILED)
                return -errno;
        image->memory = memory;
        /* One page is asked for at a time: what the kernel would read around it was not. */
        madvise(memory, image->identity.size_bytes, MADV_RANDOM);
        image->zeros = calloc(image->pages / 64 + 1, sizeof(*image->zeros));
        if (!image->zeros)
                return -ENOMEM;
        return is_dense(image) ? 0 : find_holes(image);
}

static bool is_sealed(int fd)
{
        int seals = fcntl(fd, F_GET_SEALS);

        return seals >= 0 && (seals & NEEDED_SEALS) == NEEDED_SEALS;
}

int image_take_fd(int fd, struct image *ret_image)
{
        struct stat st;
        int r = 0;

        if (fstat(fd, &st) < 0)
                r = -errno;
        else if (!S_ISREG(st.st_mode) || st.st_size <= 0)
                r = -EINVAL;
        else if ((uint64_t)st.st_size > IMAGE_MAX_BYTES)
                r = -EFBIG;
        if (r) {
                close_fd(fd);
                return r;
        }
        *ret_image = (struct image){
                .fd = fd,
                .identity = identity_of(&st),
                .is_sealed = is_sealed(fd),
                .pages = ((uint64_t)st.st_size + IMAGE_PAGE_BYTES - 1) / IMAGE_PAGE_BYTES,
        };
        return 0;
}

int image_take(const char *path, struct image *ret_image)
{
        /* Of something that is no file, a FIFO say, opening must not wait. */
        int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

        return fd < 0 ? -errno : image_take_fd(fd, ret_image);
}

static int map_taken(int taken, struct image *image, struct image *ret_image)
{
        int r = taken ? taken : image_map(image);

        if (r && !taken)
                image_close(image);
        if (!r)
                *ret_image = *image;
        return r;
}

int image_open_fd(int fd, struct image *ret_image)
{
        struct image image;

        return map_taken(image_take_fd(fd, &image), &image, ret_image);
}

int image_open(const char *path, struct image *ret_image)
{
        struct image image;

        return map_taken(image_take(path, &image), &image, ret_image);
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

int image_holds_zeros(const struct image *image, uint64_t page)
{
        static const uint8_t zeros[IMAGE_PAGE_BYTES];
        uint8_t content[IMAGE_PAGE_BYTES];
        ssize_t n;

        if (image_is_zero(image, page))
                return 1;
        /* Not through the mapping: of a file that was cut that would be a signal. */
        n = pread(image->fd, content, sizeof(content), (off_t)(page * IMAGE_PAGE_BYTES));
        if (n <= 0)
                return n < 0 ? -errno : -ENODATA;
        return memcmp(content, zeros, (size_t)n) == 0;
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
        /* In one go: the mapping is read a page at a time. */
        if (pages > 1)
                posix_fadvise(image->fd, (off_t)(page * IMAGE_PAGE_BYTES), (off_t)(pages * IMAGE_PAGE_BYTES),
                              POSIX_FADV_WILLNEED);
        while (madvise(at, pages * IMAGE_PAGE_BYTES, MADV_POPULATE_READ) < 0) {
                if (errno == EINTR || errno == EAGAIN)
                        continue;
                /* The kernel's words for an access that would be a SIGBUS. */
                return errno == EHWPOISON ? -EIO : -errno;
        }
        return 0;
}
