/* What fuzz targets share: a scratch file on tmpfs, edits of a file that was valid.
 *
 * A target is one fuzz_NAME.c with LLVMFuzzerTestOneInput(), the entry that libFuzzer and AFL++ know;
 * replay_corpus.c calls it for files without either. Inputs worth keeping are in corpus/NAME. */
#ifndef SNAPSTART_FUZZ_H
#define SNAPSTART_FUZZ_H

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What must hold whatever the input is. */
#define REQUIRE(condition)                                                                     \
        do {                                                                                   \
                if (!(condition)) {                                                            \
                        fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
                        abort();                                                               \
                }                                                                              \
        } while (0)

/* Bytes of an input that were not used yet. */
struct fuzz_input {
        const uint8_t *at;
        size_t left;
};

/* Take @bytes (at most 8), little-endian; zeros once nothing is left. */
static inline uint64_t fuzz_take(struct fuzz_input *input, size_t bytes)
{
        uint64_t value = 0;

        for (size_t i = 0; i < bytes && input->left > 0; i++, input->left--)
                value |= (uint64_t)*input->at++ << (8 * i);
        return value;
}

#define FUZZ_FILE_BYTES (1024 * 1024)

/* A file that is to be written. */
struct fuzz_file {
        size_t length;
        uint8_t bytes[FUZZ_FILE_BYTES];
};

/* What an edit does, from the bits of its first byte. */
enum {
        EDIT_WIDTH = 3, /* a number of 1 << these bytes is written */
        EDIT_LENGTH = 4, /* instead the file is cut there, or grows by that much */
        EDIT_AT_END = 8, /* the place is counted from the end; a length is added */
        EDIT_CORE = 16, /* the place is among the 256 bytes that matter most */
};

static inline void fuzz_resize(struct fuzz_file *file, size_t length)
{
        length = length < FUZZ_FILE_BYTES ? length : FUZZ_FILE_BYTES;
        if (length > file->length)
                memset(file->bytes + file->length, 0, length - file->length);
        file->length = length;
}

/* Change @file as @input says, so that a few bytes of input reach what lies behind magic numbers and
 * lengths. @core: where the 256 bytes that matter most begin. */
static inline void fuzz_edit(struct fuzz_file *file, size_t core, struct fuzz_input *input)
{
        while (input->left > 0) {
                uint64_t kind = fuzz_take(input, 1), place = fuzz_take(input, 2), value;
                size_t bytes = (size_t)1 << (kind & EDIT_WIDTH);

                if (kind & EDIT_LENGTH) {
                        fuzz_resize(file, kind & EDIT_AT_END ? file->length + place : place % (file->length + 1));
                        continue;
                }
                value = fuzz_take(input, bytes);
                if (file->length < bytes)
                        continue;
                place = kind & EDIT_CORE ? core + place % 256 : place;
                place %= file->length - bytes + 1;
                memcpy(file->bytes + (kind & EDIT_AT_END ? file->length - bytes - place : place), &value, bytes);
        }
}

/* Where files of this process go: below TMPDIR, which whoever runs it empties. */
static inline const char *fuzz_directory(void)
{
        static char path[512];
        const char *parent = getenv("TMPDIR");

        if (!path[0]) {
                snprintf(path, sizeof(path), "%s/fuzz-XXXXXX", parent ? parent : "/tmp");
                REQUIRE(mkdtemp(path));
        }
        return path;
}

/* Returns the path of the file called @name there, until the next call. */
static inline const char *fuzz_path(const char *name)
{
        static char path[640];

        snprintf(path, sizeof(path), "%s/%s", fuzz_directory(), name);
        return path;
}

/* Write @file under @name, replacing what was there. */
static inline void fuzz_write(const char *name, const struct fuzz_file *file)
{
        int fd = open(fuzz_path(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        REQUIRE(fd >= 0);
        REQUIRE(write(fd, file->bytes, file->length) == (ssize_t)file->length);
        close(fd);
}

/* Read the file called @name. */
static inline void fuzz_read(const char *name, struct fuzz_file *file)
{
        int fd = open(fuzz_path(name), O_RDONLY | O_CLOEXEC);
        ssize_t n;

        REQUIRE(fd >= 0);
        n = read(fd, file->bytes, sizeof(file->bytes));
        REQUIRE(n > 0 && n < FUZZ_FILE_BYTES);
        file->length = (size_t)n;
        close(fd);
}

#endif
