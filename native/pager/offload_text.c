#define _GNU_SOURCE
#include "offload_text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fdutil.h"
#include "whole_file.h"

int offload_texts_name(struct offload_text texts[OFFLOAD_TEXTS], const char *config, const char *state)
{
        texts[OFFLOAD_TEXT_CONFIG].path = strdup(config);
        texts[OFFLOAD_TEXT_STATE].path = strdup(state);
        return texts[OFFLOAD_TEXT_CONFIG].path && texts[OFFLOAD_TEXT_STATE].path ? 0 : -ENOMEM;
}

static int read_all(int fd, struct offload_text *text)
{
        size_t got = 0;

        while (got < text->length) {
                ssize_t n = read(fd, text->bytes + got, text->length - got);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : -ENODATA;
                got += (size_t)n;
        }
        return 0;
}

static int read_text(struct offload_text *text, uint64_t max_bytes)
{
        _cleanup_close_ int fd = open(text->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode) || st.st_size <= 0 || (uint64_t)st.st_size > max_bytes)
                return -EFBIG;
        text->length = (size_t)st.st_size;
        text->bytes = malloc(text->length);
        return text->bytes ? read_all(fd, text) : -ENOMEM;
}

int offload_texts_read(struct offload_text texts[OFFLOAD_TEXTS], const char **ret_why)
{
        int r = read_text(&texts[OFFLOAD_TEXT_CONFIG], OFFLOAD_MAX_CONFIG_BYTES);

        if (r) {
                *ret_why = "the file of the configuration cannot be read, is empty or too long";
                return r;
        }
        r = read_text(&texts[OFFLOAD_TEXT_STATE], OFFLOAD_MAX_STATE_BYTES);
        if (r)
                *ret_why = "the file of the state cannot be read, is empty or too long";
        return r;
}

int offload_text_keep(const struct offload_text *text)
{
        struct whole_file file;
        int r = whole_file_open(text->path, &file);

        if (r)
                return r;
        r = whole_file_write(&file, text->bytes, text->length, 0);
        r = r ? r : whole_file_keep(&file);
        whole_file_close(&file);
        /* It may have its name and yet not survive a power failure. */
        if (r)
                unlink(text->path);
        return r;
}

void offload_texts_close(struct offload_text texts[OFFLOAD_TEXTS])
{
        for (size_t i = 0; i < OFFLOAD_TEXTS; i++) {
                free(texts[i].path);
                free(texts[i].bytes);
                texts[i] = (struct offload_text){ 0 };
        }
}
