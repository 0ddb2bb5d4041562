#include "working_set.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fdutil.h"
#include "whole_file.h"
#include "working_set_file.h"

#define KNOWN_FLAGS ((uint32_t)(TOUCH_WRITTEN | TOUCH_ZERO))

/* Returns 1 if every touch names a page of the image, none of them twice; 0 if not; or a negative errno. */
static int are_sound(const struct touch *touches, size_t n, const struct image *image)
{
        uint64_t *seen = calloc(image->pages / 64 + 1, sizeof(*seen));
        bool is_sound = true;

        if (!seen)
                return -ENOMEM;
        for (size_t i = 0; i < n && is_sound; i++) {
                uint32_t page = touches[i].page;
                uint64_t bit = UINT64_C(1) << (page % 64);

                is_sound = page < image->pages && !(touches[i].flags & ~KNOWN_FLAGS) && !(seen[page / 64] & bit);
                if (is_sound)
                        seen[page / 64] |= bit;
        }
        free(seen);
        return is_sound;
}

static int write_whole(const char *path, const void *bytes, size_t n_bytes)
{
        struct whole_file file;
        int r = whole_file_open(path, &file);

        if (r)
                return r;
        r = whole_file_write(&file, bytes, n_bytes, 0);
        r = r ? r : whole_file_keep(&file);
        whole_file_close(&file);
        return r;
}

int record_write(const char *path, const struct image *image, const uint8_t *digest, const struct touch *touches,
                 size_t n)
{
        int r = n <= image->pages ? are_sound(touches, n, image) : 0;
        size_t n_bytes = sizeof(struct record_header) + n * sizeof(*touches);
        struct record_header *header;

        if (r <= 0)
                return r ? r : -EINVAL;
        header = malloc(n_bytes);
        if (!header)
                return -ENOMEM;
        *header = (struct record_header){ .tie = file_tie(RECORD_MAGIC, image, digest), .n_touches = n };
        if (n > 0)
                memcpy(header + 1, touches, n * sizeof(*touches));
        header->hash = head_hash(header, n_bytes, sizeof(*header));
        r = write_whole(path, header, n_bytes);
        free(header);
        return r;
}

/* Read all of a file that begins with @header. @bytes: as many as it has. */
static int read_checked(int fd, const struct record_header *header, void *bytes, size_t n_bytes)
{
        int r = file_read(fd, bytes, n_bytes, 0);

        if (r)
                return r;
        if (memcmp(bytes, header, sizeof(*header)) || header->hash != head_hash(bytes, n_bytes, sizeof(*header)))
                return -EBADMSG;
        return 0;
}

/* Move the touches behind @header to the front of their allocation. */
static int take_touches(struct record_header *header, const struct image *image, struct record *ret_record)
{
        size_t n = header->n_touches;
        struct touch *touches = memmove(header, header + 1, n * sizeof(*touches));
        int r = are_sound(touches, n, image);

        if (r <= 0)
                return r ? r : -EBADMSG;
        *ret_record = (struct record){ .touches = touches, .n = n };
        return 0;
}

static int read_touches(int fd, const struct record_header *header, uint64_t file_bytes, const struct image *image,
                        struct record *ret_record)
{
        size_t n_bytes = sizeof(*header) + header->n_touches * sizeof(struct touch);
        void *bytes;
        int r;

        if (header->n_touches > image->pages || file_bytes != n_bytes)
                return -EBADMSG;
        bytes = malloc(n_bytes);
        if (!bytes)
                return -ENOMEM;
        r = read_checked(fd, header, bytes, n_bytes);
        r = r ? r : take_touches(bytes, image, ret_record);
        if (r)
                free(bytes);
        return r;
}

int record_read(const char *path, const struct image *image, const uint8_t *digest, struct record *ret_record)
{
        struct file_tie expected = file_tie(RECORD_MAGIC, image, digest);
        _cleanup_close_ int fd = FD_NONE;
        struct image_identity identity;
        struct record_header header;
        int r = file_open(path, &fd, &identity);

        r = r ? r : file_read(fd, &header, sizeof(header), 0);
        r = r ? r : file_tie_check(&header.tie, &expected);
        return r ? r : read_touches(fd, &header, identity.size_bytes, image, ret_record);
}

void record_release(struct record *record)
{
        free(record->touches);
        *record = (struct record){ 0 };
}
