#include "merge.h"

#include <errno.h>
#include <stdlib.h>

/* Mean ranks are compared as whole numbers, so that every machine orders them alike. */
#define RANK_SCALE 1024

/* A page that one record touched. */
struct mention {
        uint32_t page, flags;
        size_t record, rank;
};

/* A page that any record touched. */
struct member {
        uint32_t page, flags; /* of the page in the image; written if any record says so */
        uint64_t count; /* of records that touched it */
        uint64_t rank; /* mean; UINT64_MAX: it is there because its neighbours are */
        bool is_in;
};

struct members {
        struct member *all; /* by page; owned */
        size_t n, n_records;
        uint64_t n_in, dropped;
};

static int compare(uint64_t a, uint64_t b)
{
        return a < b ? -1 : a > b;
}

static int by_page_and_record(const void *a, const void *b)
{
        const struct mention *left = a, *right = b;
        int order = compare(left->page, right->page);

        return order ? order : compare(left->record, right->record);
}

static int by_rank(const void *a, const void *b)
{
        const struct member *left = *(struct member *const *)a, *right = *(struct member *const *)b;
        int order = compare(left->rank, right->rank);

        return order ? order : compare(left->page, right->page);
}

/* -- from records to members ----------------------------------------------------------------------- */

/* Returns how many mentions were put, or -EINVAL. */
static ssize_t put_mentions(const struct record *records, size_t n, size_t without, const struct image *image,
                            struct mention *mentions)
{
        size_t at = 0;

        for (size_t i = 0; i < n; i++) {
                for (size_t rank = 0; i != without && rank < records[i].n; rank++) {
                        const struct touch *touch = &records[i].touches[rank];

                        if (touch->page >= image->pages)
                                return -EINVAL;
                        mentions[at++] = (struct mention){ touch->page, touch->flags, i, rank };
                }
        }
        qsort(mentions, at, sizeof(*mentions), by_page_and_record);
        for (size_t i = 1; i < at; i++)
                if (by_page_and_record(&mentions[i - 1], &mentions[i]) == 0)
                        return -EINVAL;
        return (ssize_t)at;
}

/* Put one member for each page, from @n mentions by page. Returns how many. */
static size_t put_members(const struct mention *mentions, size_t n, const struct image *image, struct member *members)
{
        size_t n_members = 0;

        for (size_t i = 0; i < n;) {
                struct member *member = &members[n_members++];

                *member = (struct member){ .page = mentions[i].page };
                member->flags = image_holds_zeros(image, member->page) == 1 ? TOUCH_ZERO : 0;
                for (; i < n && mentions[i].page == member->page; i++) {
                        member->flags |= mentions[i].flags & TOUCH_WRITTEN;
                        member->rank += mentions[i].rank;
                        member->count++;
                }
                member->rank = member->rank * RANK_SCALE / member->count;
        }
        return n_members;
}

static int gather(const struct record *records, size_t n, size_t without, const struct image *image,
                  struct members *ret_members)
{
        struct members members = { .n_records = without < n ? n - 1 : n };
        struct mention *mentions;
        size_t n_mentions = 1; /* so that nothing of size zero is allocated */
        ssize_t r = -ENOMEM;

        for (size_t i = 0; i < n; i++)
                n_mentions += i != without ? records[i].n : 0;
        mentions = calloc(n_mentions, sizeof(*mentions));
        members.all = calloc(n_mentions, sizeof(*members.all));
        if (mentions && members.all)
                r = put_mentions(records, n, without, image, mentions);
        if (r >= 0)
                members.n = put_members(mentions, (size_t)r, image, members.all);
        free(mentions);
        if (r < 0) {
                free(members.all);
                return (int)r;
        }
        *ret_members = members;
        return 0;
}

/* -- which of them are in ---------------------------------------------------------------------------- */

/* Take what more than half touched, the first @budget_pages of it. */
static int take_majority(struct members *members, uint64_t budget_pages)
{
        struct member **wanted = calloc(members->n + 1, sizeof(*wanted));
        size_t n = 0;

        if (!wanted)
                return -ENOMEM;
        for (size_t i = 0; i < members->n; i++)
                if (2 * members->all[i].count > members->n_records)
                        wanted[n++] = &members->all[i];
        qsort(wanted, n, sizeof(*wanted), by_rank);
        members->n_in = n < budget_pages ? n : budget_pages;
        members->dropped = n - members->n_in;
        for (size_t i = 0; i < members->n_in; i++)
                wanted[i]->is_in = true;
        free(wanted);
        return 0;
}

/* Returns whether everything between two members is worth taking: of the same kind, none missing. */
static bool is_worth_it(const struct members *members, size_t from, size_t to)
{
        const struct member *all = members->all;

        if (to - from - 1 != all[to].page - all[from].page - 1 || to - from - 1 > MERGE_GAP_PAGES)
                return false;
        for (size_t i = from + 1; i <= to; i++)
                if (all[i].flags != all[from].flags || all[i].count * MERGE_RARE < members->n_records)
                        return false;
        return true;
}

static void take_between(struct members *members, uint64_t budget_pages)
{
        size_t last = members->n;

        for (size_t i = 0; i < members->n; i++) {
                if (!members->all[i].is_in)
                        continue;
                if (last < i && i - last - 1 <= budget_pages - members->n_in && is_worth_it(members, last, i)) {
                        members->n_in += i - last - 1;
                        for (size_t j = last + 1; j < i; j++) {
                                members->all[j].is_in = true;
                                members->all[j].rank = UINT64_MAX;
                        }
                }
                last = i;
        }
}

/* -- from members to runs ---------------------------------------------------------------------------- */

struct ranked_run {
        struct run run;
        uint64_t rank;
};

static int by_first_use(const void *a, const void *b)
{
        const struct ranked_run *left = a, *right = b;
        int order = compare(left->rank, right->rank);

        return order ? order : compare(left->run.page, right->run.page);
}

static bool continues(const struct run *run, const struct member *member)
{
        return run->page + run->pages == member->page && run->flags == member->flags &&
               run->pages < WORKING_SET_RUN_MAX_PAGES;
}

/* Put members by page into runs. Returns how many. */
static size_t put_runs(const struct members *members, struct ranked_run *runs)
{
        struct ranked_run *last = NULL;
        size_t n = 0;

        for (size_t i = 0; i < members->n; i++) {
                const struct member *member = &members->all[i];

                if (!member->is_in)
                        continue;
                if (!last || !continues(&last->run, member)) {
                        last = &runs[n++];
                        *last = (struct ranked_run){ { member->page, 0, (uint16_t)member->flags }, member->rank };
                }
                last->run.pages++;
                last->rank = member->rank < last->rank ? member->rank : last->rank;
        }
        qsort(runs, n, sizeof(*runs), by_first_use);
        return n;
}

static int to_runs(const struct members *members, struct merged *ret_merged)
{
        struct ranked_run *ranked = calloc(members->n_in + 1, sizeof(*ranked));
        struct merged merged = { .n_pages = members->n_in, .dropped_pages = members->dropped };

        merged.runs = calloc(members->n_in + 1, sizeof(*merged.runs));
        if (!ranked || !merged.runs) {
                free(ranked);
                free(merged.runs);
                return -ENOMEM;
        }
        merged.n_runs = put_runs(members, ranked);
        for (size_t i = 0; i < merged.n_runs; i++) {
                merged.runs[i] = ranked[i].run;
                merged.n_data_pages += ranked[i].run.flags & TOUCH_ZERO ? 0 : ranked[i].run.pages;
        }
        free(ranked);
        *ret_merged = merged;
        return 0;
}

int merge_records(const struct record *records, size_t n, size_t without, const struct image *image,
                  uint64_t budget_pages, struct merged *ret_merged)
{
        struct members members = {0};
        int r = image->pages > UINT32_MAX ? -EFBIG : gather(records, n, without, image, &members);

        if (r)
                return r;
        r = take_majority(&members, budget_pages);
        if (r == 0) {
                take_between(&members, budget_pages);
                r = to_runs(&members, ret_merged);
        }
        free(members.all);
        return r;
}

void merged_release(struct merged *merged)
{
        free(merged->runs);
        *merged = (struct merged){ 0 };
}

/* -- how well it fits -------------------------------------------------------------------------------- */

/* Returns how many touches of @record are in @merged, or -ENOMEM. */
static int64_t count_common(const struct merged *merged, const struct record *record, const struct image *image)
{
        uint64_t *in = calloc(image->pages / 64 + 1, sizeof(*in));
        int64_t n = 0;

        if (!in)
                return -ENOMEM;
        for (size_t i = 0; i < merged->n_runs; i++)
                for (uint64_t j = 0; j < merged->runs[i].pages; j++)
                        in[(merged->runs[i].page + j) / 64] |= UINT64_C(1) << ((merged->runs[i].page + j) % 64);
        for (size_t i = 0; i < record->n; i++)
                n += (in[record->touches[i].page / 64] >> (record->touches[i].page % 64)) & 1;
        free(in);
        return n;
}

/* Of nothing everything is right. */
static double share(int64_t part, uint64_t whole)
{
        return whole ? (double)part / (double)whole : 1;
}

int merge_fit(const struct record *records, size_t n, const struct image *image, uint64_t budget_pages,
              double *ret_precision, double *ret_recall)
{
        double precision = 0, recall = 0;

        for (size_t i = 0; i < n && n > 1; i++) {
                struct merged others;
                int64_t common;
                int r = merge_records(records, n, i, image, budget_pages, &others);

                if (r)
                        return r;
                common = count_common(&others, &records[i], image);
                precision += share(common, others.n_pages);
                recall += share(common, records[i].n);
                merged_release(&others);
                if (common < 0)
                        return (int)common;
        }
        *ret_precision = n > 1 ? precision / (double)n : -1;
        *ret_recall = n > 1 ? recall / (double)n : -1;
        return 0;
}
