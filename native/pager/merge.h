/* What several records of an image agree on. Reads nothing but whether pages of the image hold zeros.
 *
 * A page belongs to the set if more than half of the records touched it. Pages that lie beside each other in
 * the image and are of the same kind (written, zero) make a run, which is as early as the earliest of them:
 * copying 16 pages with one call takes a quarter less time than one by one, and that is more than a place
 * some milliseconds earlier is worth.
 *
 * What at least one record in MERGE_RARE touched is taken too where it lies between two runs, in a gap of
 * at most MERGE_GAP_PAGES that it fills. A fault that is missing costs as much as MERGE_RARE pages that are
 * installed in bulk, so such a page pays in time on average; elsewhere it does not join two runs, and
 * memory is the reason to leave it out. Pages that nobody touched are never taken: joining two runs
 * saves 0.5 us, a page costs 1.6 us and its memory in every machine. */
#ifndef SNAPSTART_MERGE_H
#define SNAPSTART_MERGE_H

#include "working_set.h"

#define MERGE_GAP_PAGES 4
#define MERGE_RARE 6
#define MERGE_ALL SIZE_MAX

struct merged {
        struct run *runs; /* in the order of first use; owned */
        size_t n_runs;
        uint64_t n_pages, n_data_pages; /* of all runs; of those that are not zero */
        uint64_t dropped_pages; /* those that came last and did not fit into the budget */
};

/* Merge @n records but the @without-th (MERGE_ALL: none is left out).
 * Returns 0, -EINVAL if a record names a page twice or one that @image does not have, -EFBIG if the image
 * has more pages than a run can name, or -ENOMEM. */
int merge_records(const struct record *records, size_t n, size_t without, const struct image *image,
                  uint64_t budget_pages, struct merged *ret_merged);

/* Release everything. */
void merged_release(struct merged *merged);

/* Compare each record with what the others agree on; averages of all, below 0 for a single record.
 * @records: merge_records() has accepted all of them. Returns as merge_records(). */
int merge_fit(const struct record *records, size_t n, const struct image *image, uint64_t budget_pages,
              double *ret_precision, double *ret_recall);

#endif
