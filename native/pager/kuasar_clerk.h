/* Whoever does for Kuasar's working sets what may wait for a disk: one thread of its own, one errand after the
 * other, so that no page of a machine ever waits for one. */
#ifndef SNAPSTART_KUASAR_CLERK_H
#define SNAPSTART_KUASAR_CLERK_H

#include "kuasar_files.h"
#include "kuasar_merge.h"
#include "reader.h"

enum kuasar_order {
        KUASAR_TIDY, /* make the directory what it should be after whatever death */
        KUASAR_NOTE, /* write down where an image is; remove what belongs to others that are gone */
        KUASAR_MERGE, /* make the working set of an image */
        KUASAR_DROP, /* remove a working set that was put aside */
};

/* An errand that was done. */
struct kuasar_done {
        void *context;
        const uint8_t *digest; /* WORKING_SET_DIGEST_BYTES; borrowed until the call returns, as what follows */
        const char *image_path;
        const char *said; /* what kuasar_merge() heard */
        int error; /* 0 or a negative errno */
};

struct kuasar_errand {
        enum kuasar_order order;
        const uint8_t *digest; /* NULL: of no image */
        const char *image_path; /* NULL: of no image */
        void *context;
        void (*done)(const struct kuasar_done *done); /* called in the loop; NULL: nobody asks */
};

struct kuasar_clerk {
        struct reader reader;
        const char *directory; /* borrowed */
        unsigned n_records; /* of an image */
        uint64_t budget_pages; /* of a working set */
        unsigned n_errands; /* not done yet */
};

/* directory, n_records and budget_pages are set by the caller. @loop: must outlive it.
 * Returns 0 or a negative errno. */
int kuasar_clerk_open(struct kuasar_clerk *clerk, struct loop *loop);

/* Give it an errand, copying what that names. Returns 0 or -ENOMEM; done() is not called then. */
int kuasar_clerk_send(struct kuasar_clerk *clerk, const struct kuasar_errand *errand);

/* Release it. Returns false if it has an errand, which may be waiting for a disk: then it is left as it is, its memory
 * must stay, and this process must be about to end, which ends the wait too. */
bool kuasar_clerk_close(struct kuasar_clerk *clerk);

#endif
