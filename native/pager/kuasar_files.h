/* The directory where Kuasar's images have their working sets: names, what belongs to which image, what is
 * removed. Kuasar's images have no digest: size, inode and time of change stand for it, and are the
 * beginning of every name in the directory.
 *
 *     IMAGE.path        where the image was: one text
 *     IMAGE.N.record    what one machine touched; removed once it is merged
 *     IMAGE.set         the working set
 *
 * What belongs to an image that is not at its path any more, or was changed, is removed. Other files are
 * left alone. Everything here but the pure parts may wait for a disk. */
#ifndef SNAPSTART_KUASAR_FILES_H
#define SNAPSTART_KUASAR_FILES_H

#include <stdbool.h>

#include "image.h"
#include "journal.h"
#include "working_set.h"

#define KUASAR_HEX_BYTES (2 * WORKING_SET_DIGEST_BYTES + 1)
#define KUASAR_SET "set"
#define KUASAR_PATH "path"
#define KUASAR_SPOILT "spoilt" /* a set that was put aside, to be removed */

/* What working sets and records of an image are tied to: all that tells one state of a file from every other. Pure. */
void kuasar_digest(const struct image_identity *identity, uint8_t *ret_digest);

/* @ret_hex: KUASAR_HEX_BYTES. Pure. */
void kuasar_hex(const uint8_t *digest, char *ret_hex);

/* The name of a file. @ret_path: JOURNAL_PATH_BYTES; kuasar_files_open() has seen that it suffices. Pure. */
void kuasar_file(const char *directory, const uint8_t *digest, const char *suffix, char *ret_path);

/* As kuasar_file(), of the @index-th record. Pure. */
void kuasar_record(const char *directory, const uint8_t *digest, unsigned index, char *ret_path);

/* Where the mark is that says that the template of @image_path serves one machine and no other. Pure.
 * Returns false if the path is too short for one. @ret_path: JOURNAL_PATH_BYTES. */
bool kuasar_used_up_mark(const char *image_path, char *ret_path);

/* See that there is such a directory, making it if need be. @path: absolute.
 * Returns 0, -ENAMETOOLONG, -ENOTDIR or another negative errno. */
int kuasar_files_open(const char *path);

/* Write down where an image is. Returns 0 or a negative errno. */
int kuasar_files_note(const char *directory, const uint8_t *digest, const char *image_path);

/* Remove what belongs to one image. Returns 0 or a negative errno. */
int kuasar_files_drop(const char *directory, const uint8_t *digest);

/* Remove the records of one image. Returns 0 or a negative errno. */
int kuasar_files_drop_records(const char *directory, const uint8_t *digest);

/* Remove what belongs to images that are gone or were changed. Returns 0 or a negative errno. */
int kuasar_files_sweep(const char *directory);

/* As kuasar_files_sweep(), and also what a page server that was killed left half done. Nobody else may be
 * writing there. */
int kuasar_files_tidy(const char *directory);

#endif
