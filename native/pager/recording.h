/* Write down what a machine touched, without keeping the loop: the machine's memory is compared with the
 * image, which tells what was written, and the record goes to a file. */
#ifndef SNAPSTART_RECORDING_H
#define SNAPSTART_RECORDING_H

#include "reader.h"
#include "vm.h"

struct recording {
        struct job job;
        struct template *template; /* held */
        struct templates *templates;
        struct region *regions; /* owned */
        size_t n_regions;
        int pid;
        struct touch *touches; /* owned */
        size_t n_touches, n_written;
        char path[JOURNAL_PATH_BYTES];
        int error;
        uint64_t serial;
        void *context;
        void (*ended)(struct recording *recording);
};

/* End the recording of @vm and write it to @path. @ended: called in the loop, with error, n_touches and n_written,
 * unless this fails; the recording is released after that.
 * Returns 0, -ENODATA if it is not recorded, or another negative errno. */
int recording_end(struct vm *vm, const char *path, uint64_t serial, void *context,
                  void (*ended)(struct recording *recording));

#endif
