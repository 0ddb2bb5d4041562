/* Write a machine that stands still into files: its memory, out of the descriptors that hold it, as a sparse
 * image; its configuration; its state. Blocks; done in steps, in a reader's thread. */
#ifndef SNAPSTART_OFFLOAD_COPY_H
#define SNAPSTART_OFFLOAD_COPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "offload_layout.h"
#include "offload_text.h"
#include "whole_file.h"

struct offload_copy {
        const struct offload_layout *layout; /* borrowed */
        int fds[OFFLOAD_MAX_SLOTS]; /* opened anew for reading, in the layout's order; owned */
        size_t slot; /* being copied */
        uint64_t at; /* in it */
        uint64_t data_bytes; /* written: not holes, not zeros */
        uint8_t *buffer; /* owned */
        struct whole_file image;
        bool has_image; /* its file is being written */
        size_t n_kept; /* files that have their names: the texts, then the image */
        const char *why; /* static text for people, of what failed */
};

/* See whether @fd holds guest memory: a memfd or another file on tmpfs or hugetlbfs, whose content no
 * other process can make us wait for. Asks nothing of its file system before that is known.
 * Returns 0, -EMEDIUMTYPE if it does not, or another negative errno. */
int offload_copy_check(int fd);

/* Prepare to write @layout's memory to @path. @layout, @path: must outlive the copy.
 * Returns 0 or a negative errno with why; offload_copy_close() in both cases. */
int offload_copy_open(struct offload_copy *copy, const struct offload_layout *layout, const char *path);

/* Say that the memory of slot @i of the layout is in @fd (borrowed), which is big enough.
 * Returns 0, -EOVERFLOW if it is not, or another negative errno, with why. */
int offload_copy_add(struct offload_copy *copy, size_t i, int fd);

/* Copy some MiB. Returns 1 when all is copied, 0 if there is more, or a negative errno with why. */
int offload_copy_step(struct offload_copy *copy);

/* Write @texts, bring everything to disk and give every file its name.
 * Returns 0 or a negative errno with why: no file has its name then. */
int offload_copy_keep(struct offload_copy *copy, const struct offload_text texts[OFFLOAD_TEXTS]);

/* Remove files that offload_copy_keep() made. */
void offload_copy_undo(struct offload_copy *copy, const struct offload_text texts[OFFLOAD_TEXTS]);

/* Release everything; what was not kept is removed. Zeroed memory is fine. */
void offload_copy_close(struct offload_copy *copy);

#endif
