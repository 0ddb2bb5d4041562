/* What a machine consists of besides its memory: its configuration and its state, each a file. Blocks. */
#ifndef SNAPSTART_OFFLOAD_TEXT_H
#define SNAPSTART_OFFLOAD_TEXT_H

#include <stddef.h>
#include <stdint.h>

#define OFFLOAD_MAX_CONFIG_BYTES (16 * 1024 * 1024)
#define OFFLOAD_MAX_STATE_BYTES (64 * 1024 * 1024)

enum { OFFLOAD_TEXT_CONFIG, OFFLOAD_TEXT_STATE, OFFLOAD_TEXTS };

struct offload_text {
        char *path; /* owned */
        char *bytes; /* owned */
        size_t length;
};

/* Name the two. Returns 0 or -ENOMEM; offload_texts_close() in both cases. */
int offload_texts_name(struct offload_text texts[OFFLOAD_TEXTS], const char *config, const char *state);

/* Read both files. @ret_why: a static text for people when one cannot be used.
 * Returns 0, -EFBIG if one is empty, too long or no file, or another negative errno. */
int offload_texts_read(struct offload_text texts[OFFLOAD_TEXTS], const char **ret_why);

/* Write one to its file, whole, on disk. Returns 0 or a negative errno: then the file does not exist. */
int offload_text_keep(const struct offload_text *text);

/* Release everything. Zeroed memory is fine. */
void offload_texts_close(struct offload_text texts[OFFLOAD_TEXTS]);

#endif
