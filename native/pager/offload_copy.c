#define _GNU_SOURCE
#include "offload_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fdutil.h"
#include "image.h"

#define PIECE_BYTES (1024 * 1024)
#define STEP_PIECES 16 /* a reader's thread is for others too */

int offload_copy_check(int fd)
{
        /* Only files in memory have seals. The answer is in the kernel, of whatever kind the file is. */
        if (fcntl(fd, F_GET_SEALS) < 0)
                return errno == EINVAL ? -EMEDIUMTYPE : -errno;
        return 0;
}

static int fail(struct offload_copy *copy, int error, const char *why)
{
        copy->why = why;
        return error;
}

int offload_copy_open(struct offload_copy *copy, const struct offload_layout *layout, const char *path)
{
        int r;

        *copy = (struct offload_copy){ .layout = layout };
        for (size_t i = 0; i < OFFLOAD_MAX_SLOTS; i++)
                copy->fds[i] = FD_NONE;
        copy->buffer = malloc(PIECE_BYTES);
        if (!copy->buffer)
                return fail(copy, -ENOMEM, "there is no memory to copy with");
        r = whole_file_open(path, &copy->image);
        if (r)
                return fail(copy, r, "the image could not be created");
        copy->has_image = true;
        if (ftruncate(copy->image.fd, (off_t)layout->size_bytes) < 0)
                return fail(copy, -errno, "the image could not be made as long as the memory");
        return 0;
}

/* Open what @fd names for reading, with a position of our own: the monitor's must not move. */
static int open_anew(int fd)
{
        char path[32];
        int anew;

        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        anew = open(path, O_RDONLY | O_CLOEXEC);
        return anew < 0 ? -errno : anew;
}

int offload_copy_add(struct offload_copy *copy, size_t i, int fd)
{
        const struct offload_slot *slot = &copy->layout->slots[i];
        struct stat st;
        int anew = open_anew(fd);

        if (anew < 0)
                return fail(copy, anew, "a memory slot cannot be read");
        copy->fds[i] = anew;
        if (fstat(anew, &st) < 0)
                return fail(copy, -errno, "a memory slot cannot be read");
        if ((uint64_t)st.st_size < slot->file_offset + slot->size_bytes)
                return fail(copy, -EOVERFLOW, "a memory slot is shorter than the configuration says");
        return 0;
}

/* A part of a slot's file, in whole pages. */
struct extent {
        uint64_t from, end;
};

/* Find the next data in @extent. hugetlbfs knows no holes and says it is all data.
 * Returns 1 with @extent set to it, 0 if there is none, or a negative errno. */
static int next_data(int fd, struct extent *extent)
{
        off_t data = lseek(fd, (off_t)extent->from, SEEK_DATA), hole;
        uint64_t end;

        if (data < 0)
                return errno == ENXIO ? 0 : -errno;
        if ((uint64_t)data >= extent->end)
                return 0;
        hole = lseek(fd, data, SEEK_HOLE);
        if (hole < 0)
                return -errno;
        end = ((uint64_t)hole + IMAGE_PAGE_BYTES - 1) / IMAGE_PAGE_BYTES * IMAGE_PAGE_BYTES;
        extent->from = (uint64_t)data / IMAGE_PAGE_BYTES * IMAGE_PAGE_BYTES;
        extent->end = end < extent->end ? end : extent->end;
        return 1;
}

static int read_all(int fd, uint8_t *bytes, size_t n, uint64_t offset)
{
        while (n > 0) {
                ssize_t got = pread(fd, bytes, n, (off_t)offset);

                if (got < 0 && errno == EINTR)
                        continue;
                if (got <= 0)
                        return got < 0 ? -errno : -ENODATA;
                bytes += got;
                offset += (uint64_t)got;
                n -= (size_t)got;
        }
        return 0;
}

static bool is_zero(const uint8_t *page)
{
        static const uint8_t zeros[IMAGE_PAGE_BYTES];

        return memcmp(page, zeros, sizeof(zeros)) == 0;
}

/* Returns how many bytes from @at on are pages alike in being zeros or not. */
static size_t alike(const uint8_t *bytes, size_t at, size_t n)
{
        bool zero = is_zero(bytes + at);
        size_t end = at + IMAGE_PAGE_BYTES;

        while (end < n && is_zero(bytes + end) == zero)
                end += IMAGE_PAGE_BYTES;
        return end - at;
}

/* Write the pages of the buffer that are not zeros. */
static int write_data(struct offload_copy *copy, size_t n, uint64_t offset)
{
        for (size_t at = 0, length; at < n; at += length) {
                int r;

                length = alike(copy->buffer, at, n);
                if (is_zero(copy->buffer + at))
                        continue;
                r = whole_file_write(&copy->image, copy->buffer + at, length, offset + at);
                if (r)
                        return fail(copy, r, "the image could not be written");
                copy->data_bytes += length;
        }
        return 0;
}

/* Copy the next data of the slot. Returns 1 at its end, 0 if there is more, or a negative errno. */
static int copy_piece(struct offload_copy *copy)
{
        const struct offload_slot *slot = &copy->layout->slots[copy->slot];
        struct extent data = { slot->file_offset + copy->at, slot->file_offset + slot->size_bytes };
        int fd = copy->fds[copy->slot], r = next_data(fd, &data);
        size_t n;

        if (r <= 0)
                return r < 0 ? fail(copy, r, "the holes of the memory cannot be found") : 1;
        n = data.end - data.from < PIECE_BYTES ? (size_t)(data.end - data.from) : PIECE_BYTES;
        r = read_all(fd, copy->buffer, n, data.from);
        if (r)
                return fail(copy, r, "the memory could not be read: it was cut or cannot be reached");
        copy->at = data.from + n - slot->file_offset;
        r = write_data(copy, n, slot->offset + data.from - slot->file_offset);
        return r ? r : copy->at == slot->size_bytes;
}

int offload_copy_step(struct offload_copy *copy)
{
        for (int i = 0; i < STEP_PIECES; i++) {
                int r = copy_piece(copy);

                if (r < 0)
                        return r;
                if (r == 0)
                        continue;
                copy->at = 0;
                if (++copy->slot == copy->layout->n_slots)
                        return 1;
        }
        return 0;
}

/* As whole_file_keep(); what has its name but may not survive a power failure loses it again. */
static int keep_image(struct whole_file *image)
{
        int r = whole_file_keep(image);

        if (r && !image->temporary[0])
                unlink(image->path);
        return r;
}

int offload_copy_keep(struct offload_copy *copy, const struct offload_text texts[OFFLOAD_TEXTS])
{
        int r = 0;

        for (; copy->n_kept < OFFLOAD_TEXTS && r == 0; copy->n_kept += r == 0)
                r = offload_text_keep(&texts[copy->n_kept]);
        /* The image last: whoever sees it sees the others. */
        r = r ? r : keep_image(&copy->image);
        if (r == 0) {
                copy->n_kept++;
                return 0;
        }
        offload_copy_undo(copy, texts);
        return fail(copy, r, "the files could not be brought to disk");
}

void offload_copy_undo(struct offload_copy *copy, const struct offload_text texts[OFFLOAD_TEXTS])
{
        for (; copy->n_kept > 0; copy->n_kept--)
                unlink(copy->n_kept > OFFLOAD_TEXTS ? copy->image.path : texts[copy->n_kept - 1].path);
}

void offload_copy_close(struct offload_copy *copy)
{
        /* Zeroed memory names descriptor 0, and was never opened. */
        for (size_t i = 0; copy->layout && i < OFFLOAD_MAX_SLOTS; i++)
                copy->fds[i] = close_fd(copy->fds[i]);
        if (copy->has_image)
                whole_file_close(&copy->image);
        copy->has_image = false;
        free(copy->buffer);
        copy->buffer = NULL;
}
