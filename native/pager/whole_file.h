/* Write a file that has its name only once it is whole.
 *
 * It is made beside its name, with six random characters appended, and renamed when it is on disk. A
 * writer that is killed leaves at most that other file. */
#ifndef SNAPSTART_WHOLE_FILE_H
#define SNAPSTART_WHOLE_FILE_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

struct whole_file {
        int fd; /* owned; for writing, mode 0600 */
        const char *path; /* borrowed */
        char temporary[PATH_MAX];
};

/* @path: must outlive @ret_file. Returns 0 or a negative errno. */
int whole_file_open(const char *path, struct whole_file *ret_file);

/* Write @n bytes at @offset. Returns 0 or a negative errno. */
int whole_file_write(struct whole_file *file, const void *bytes, size_t n, uint64_t offset);

/* Give it its name, replacing what had it; on success both are on disk. Call whole_file_close() after it.
 * Returns 0 or a negative errno. */
int whole_file_keep(struct whole_file *file);

/* Release everything; what was not kept is removed. */
void whole_file_close(struct whole_file *file);

#endif
