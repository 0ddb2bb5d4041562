/* Make the working set of one of Kuasar's images, by `snap-pager working-set`: a process of its own, so that
 * whatever becomes of it, and however long a disk keeps it, nothing of that is the page server's. */
#ifndef SNAPSTART_KUASAR_MERGE_H
#define SNAPSTART_KUASAR_MERGE_H

#include "kuasar_files.h"

#define KUASAR_RECORDS_MAX 16
#define KUASAR_MERGE_SAID_BYTES 512

struct kuasar_merge {
        const char *directory, *image_path; /* borrowed */
        uint8_t digest[WORKING_SET_DIGEST_BYTES];
        unsigned n_records; /* 1 to KUASAR_RECORDS_MAX */
        uint64_t budget_pages;
};

/* Merge the records of an image, and remove them. Blocks.
 * @ret_said: what the process said, KUASAR_MERGE_SAID_BYTES: working_set_command.h has the line; when it fails, why,
 * or nothing. Written always.
 * Returns 0, -ESTALE if the image is not what it was, -EPROTO if the process failed, or another negative
 * errno. There is a working set if, and only if, this succeeds. */
int kuasar_merge(const struct kuasar_merge *merge, char *ret_said);

#endif
