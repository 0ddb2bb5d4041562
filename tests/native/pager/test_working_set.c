/* A working set is what records agree on, holds what the image holds, and nothing damaged is believed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "working_set.h"
#include "working_set_file.h"

#define PAGE IMAGE_PAGE_BYTES
#define IMAGE_PAGES 700
#define MAX_RECORDS 5
#define TMPFS_MAGIC 0x01021994

static char directory[PATH_MAX];
static const uint8_t digest[WORKING_SET_DIGEST_BYTES] = { 1, 2, 3, [31] = 255 };
static const uint8_t other_digest[WORKING_SET_DIGEST_BYTES] = { 1, 2, 3, [31] = 254 };
static uint64_t state;

static uint64_t splitmix64(uint64_t x)
{
        x += 0x9e3779b97f4a7c15;
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
        x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
        return x ^ (x >> 31);
}

static uint64_t below(uint64_t n)
{
        return splitmix64(state++) % n;
}

/* -- files ----------------------------------------------------------------------------------------- */

static const char *in_directory(const char *name)
{
        static char paths[4][PATH_MAX];
        static unsigned next;
        char *path = paths[next++ % 4];

        CHECK(snprintf(path, PATH_MAX, "%s/%s", directory, name) < PATH_MAX);
        return path;
}

static int count_files(void)
{
        DIR *files = opendir(directory);
        struct dirent *entry;
        int n = 0;

        CHECK(files);
        while ((entry = readdir(files)))
                n += entry->d_name[0] != '.';
        closedir(files);
        return n;
}

static void remove_files(void)
{
        DIR *files = opendir(directory);
        struct dirent *entry;

        CHECK(files);
        while ((entry = readdir(files)))
                if (entry->d_name[0] != '.')
                        CHECK_EQ(unlinkat(dirfd(files), entry->d_name, 0), 0);
        closedir(files);
}

static uint8_t *read_file(const char *path, size_t *ret_n)
{
        FILE *file = fopen(path, "re");
        struct stat st;
        uint8_t *bytes;

        CHECK(file && fstat(fileno(file), &st) == 0);
        bytes = malloc((size_t)st.st_size + 1);
        CHECK(bytes);
        CHECK_EQ(fread(bytes, 1, (size_t)st.st_size, file), st.st_size);
        fclose(file);
        *ret_n = (size_t)st.st_size;
        return bytes;
}

static void write_file(const char *path, const void *bytes, size_t n)
{
        FILE *file = fopen(path, "we");

        CHECK(file);
        CHECK_EQ(fwrite(bytes, 1, n, file), n);
        CHECK_EQ(fclose(file), 0);
}

/* -- images ---------------------------------------------------------------------------------------- */

static void content_of(uint64_t page, uint64_t *words)
{
        for (size_t i = 0; i < PAGE / sizeof(*words); i++)
                words[i] = splitmix64(page * 512 + i);
}

/* An image of @pages pages in which those with a bit in @zeros are holes; the last one may be cut. */
static int image_file(uint64_t pages, const bool *zeros, uint64_t cut_bytes)
{
        static uint64_t words[PAGE / 8];
        int fd = open(in_directory("image"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        CHECK(fd >= 0);
        CHECK_EQ(ftruncate(fd, (off_t)(pages * PAGE - cut_bytes)), 0);
        for (uint64_t page = 0; page < pages; page++) {
                size_t n = page == pages - 1 ? PAGE - cut_bytes : PAGE;

                content_of(page, words);
                if (!zeros[page])
                        CHECK_EQ(pwrite(fd, words, n, (off_t)(page * PAGE)), (ssize_t)n);
        }
        return fd;
}

static struct image open_image(uint64_t pages, const bool *zeros, uint64_t cut_bytes)
{
        struct image image;

        CHECK_EQ(image_open_fd(image_file(pages, zeros, cut_bytes), &image), 0);
        return image;
}

/* Pages 3, 13, 23 and so on are holes. */
static struct image simple_image(uint64_t pages)
{
        bool zeros[IMAGE_PAGES];

        for (uint64_t page = 0; page < pages; page++)
                zeros[page] = page % 10 == 3;
        return open_image(pages, zeros, 0);
}

/* -- records --------------------------------------------------------------------------------------- */

static const struct touch some_touches[] = { { 7, TOUCH_WRITTEN }, { 6, 0 }, { 3, TOUCH_ZERO }, { 0, 0 } };
#define N_TOUCHES (sizeof(some_touches) / sizeof(*some_touches))

static void write_some_record(const struct image *image)
{
        CHECK_EQ(record_write(in_directory("record"), image, digest, some_touches, N_TOUCHES), 0);
}

static int try_record(const struct image *image)
{
        struct record record = { .n = 99 };
        int r = record_read(in_directory("record"), image, digest, &record);

        if (r == 0)
                record_release(&record);
        else
                CHECK(record.n == 99 && !record.touches);
        return r;
}

static void test_record_comes_back(void)
{
        struct image image = simple_image(10);
        struct record record;
        struct stat st;

        write_some_record(&image);
        CHECK_EQ(record_read(in_directory("record"), &image, digest, &record), 0);
        CHECK_EQ(record.n, N_TOUCHES);
        CHECK(memcmp(record.touches, some_touches, sizeof(some_touches)) == 0);
        record_release(&record);
        record_release(&record);
        CHECK_EQ(stat(in_directory("record"), &st), 0);
        CHECK_EQ(st.st_mode & 0777, 0600);
        CHECK_EQ(record_write(in_directory("record"), &image, digest, NULL, 0), 0);
        CHECK_EQ(record_read(in_directory("record"), &image, digest, &record), 0);
        CHECK_EQ(record.n, 0);
        record_release(&record);
        CHECK_EQ(count_files(), 2);
        image_close(&image);
        remove_files();
}

static void test_record_of_impossible_touches_is_not_written(void)
{
        struct image image = simple_image(10);
        const struct touch bad[][2] = {
                { { 1, 0 }, { 1, TOUCH_WRITTEN } },
                { { 1, 0 }, { 10, 0 } },
                { { 1, 0 }, { UINT32_MAX, 0 } },
                { { 1, 0 }, { 2, 4 } },
        };

        for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
                CHECK_EQ(record_write(in_directory("record"), &image, digest, bad[i], 2), -EINVAL);
        CHECK_EQ(record_write(in_directory("record"), &image, digest, some_touches, 11), -EINVAL);
        CHECK_EQ(record_write(in_directory("none/record"), &image, digest, some_touches, 1), -ENOENT);
        CHECK_EQ(count_files(), 1);
        image_close(&image);
        remove_files();
}

static void test_damaged_record_is_refused_at_every_byte(void)
{
        struct image image = simple_image(10);
        uint8_t *bytes;
        size_t n;

        write_some_record(&image);
        bytes = read_file(in_directory("record"), &n);
        CHECK_EQ(n, sizeof(struct record_header) + sizeof(some_touches));
        for (size_t at = 0; at < n; at++) {
                bool is_tie = at >= offsetof(struct file_tie, digest) && at < sizeof(struct file_tie);

                bytes[at] ^= 1 << (at % 8);
                write_file(in_directory("record"), bytes, n);
                CHECK_EQ(try_record(&image), is_tie ? -ESTALE : -EBADMSG);
                bytes[at] ^= 1 << (at % 8);
        }
        for (size_t length = 0; length < n; length++) {
                write_file(in_directory("record"), bytes, length);
                CHECK_EQ(try_record(&image), -EBADMSG);
        }
        bytes[n] = 0;
        write_file(in_directory("record"), bytes, n + 1);
        CHECK_EQ(try_record(&image), -EBADMSG);
        write_file(in_directory("record"), bytes, n);
        CHECK_EQ(try_record(&image), 0);
        free(bytes);
        image_close(&image);
        remove_files();
}

static void test_record_that_is_no_file_is_refused(void)
{
        struct image image = simple_image(10);

        CHECK_EQ(try_record(&image), -ENOENT);
        CHECK_EQ(mkfifo(in_directory("record"), 0600), 0);
        CHECK_EQ(try_record(&image), -EBADMSG);
        CHECK_EQ(unlink(in_directory("record")), 0);
        CHECK_EQ(symlink("image", in_directory("record")), 0);
        CHECK_EQ(try_record(&image), -ELOOP);
        image_close(&image);
        remove_files();
}

/* Write a record whose hash is right, whatever it says. */
static void forge_record(const struct image *image, uint64_t n_says, const struct touch *touches, size_t n)
{
        uint8_t bytes[sizeof(struct record_header) + 8 * sizeof(struct touch)];
        struct record_header header = { .tie = file_tie(RECORD_MAGIC, image, digest), .n_touches = n_says };
        size_t n_bytes = sizeof(header) + n * sizeof(*touches);

        memcpy(bytes, &header, sizeof(header));
        memcpy(bytes + sizeof(header), touches, n * sizeof(*touches));
        header.hash = head_hash(bytes, n_bytes, sizeof(header));
        memcpy(bytes, &header, sizeof(header));
        write_file(in_directory("record"), bytes, n_bytes);
}

static void test_record_with_sound_hash_and_wrong_content_is_refused(void)
{
        struct image image = simple_image(10);
        const struct touch twice[] = { { 1, 0 }, { 1, 0 } };
        const struct touch outside[] = { { 1, 0 }, { 10, 0 } };
        const struct touch unknown[] = { { 1, 0 }, { 2, 1u << 31 } };
        const struct touch good[] = { { 1, 0 }, { 2, 0 } };

        forge_record(&image, 2, twice, 2);
        CHECK_EQ(try_record(&image), -EBADMSG);
        forge_record(&image, 2, outside, 2);
        CHECK_EQ(try_record(&image), -EBADMSG);
        forge_record(&image, 2, unknown, 2);
        CHECK_EQ(try_record(&image), -EBADMSG);
        forge_record(&image, UINT64_MAX, good, 2);
        CHECK_EQ(try_record(&image), -EBADMSG);
        forge_record(&image, 2 + (UINT64_C(1) << 61), good, 2); /* the length fits once it has overflown */
        CHECK_EQ(try_record(&image), -EBADMSG);
        forge_record(&image, 1, good, 2);
        CHECK_EQ(try_record(&image), -EBADMSG);
        forge_record(&image, 2, good, 2);
        CHECK_EQ(try_record(&image), 0);
        image_close(&image);
        remove_files();
}

static void test_record_of_another_image_is_told_from_a_damaged_one(void)
{
        struct image image = simple_image(10), shorter;
        struct record record;

        write_some_record(&image);
        CHECK_EQ(record_read(in_directory("record"), &image, other_digest, &record), -ESTALE);
        image_close(&image);
        shorter = simple_image(2);
        CHECK_EQ(try_record(&shorter), -ESTALE);
        image_close(&shorter);
        remove_files();
}

/* -- merging: cases by hand ------------------------------------------------------------------------ */

struct listed {
        const char *name;
        const char *records[8]; /* pages in order; "w" behind one: written */
        uint64_t budget_pages;
        const char *runs; /* page+pages and flags, in order */
};

/* Pages 3, 13, 23 and so on are zero. */
static const struct listed listed[] = {
        { "one record is taken whole, in its order", { "20 10 11 30" }, 99, "20+1 10+2 30+1" },
        { "what lies beside each other is one run, as early as its earliest page", { "12 40 10 11" }, 99, "10+3 40+1" },
        { "two must agree", { "10 20", "20 30" }, 99, "20+1" },
        { "more than half of three", { "10 20 30", "10 20", "20" }, 99, "10+1 20+1" },
        { "half of four is not enough", { "10 20", "10 20", "20", "20" }, 99, "20+1" },
        { "the place is the mean rank", { "10 20 30", "10 30 20", "30 10 20" }, 99, "10+1 30+1 20+1" },
        { "equal ranks go by page", { "30 10", "10 30" }, 99, "10+1 30+1" },
        { "written if any wrote it", { "10w 11", "10 11w", "10 11" }, 99, "10+2w" },
        { "zero pages are runs of their own", { "11 12 13 14" }, 99, "11+2 13+1z 14+1" },
        { "a written zero page is both", { "13w" }, 99, "13+1wz" },
        { "the last in time go beyond the budget", { "10 20 30 40" }, 2, "10+1 20+1" },
        { "a budget of nothing", { "10 20" }, 0, "" },
        { "nothing touched", { "" }, 99, "" },
        { "a gap that one of three touched is taken", { "10 11 12", "10 12", "10 12" }, 99, "10+3" },
        { "a gap of four is taken", { "24 25 26 27 28 29", "24 29", "24 29" }, 99, "24+6" },
        { "a gap of five is not", { "24 25 26 27 28 29 30", "24 30", "24 30" }, 99, "24+1 30+1" },
        { "a gap with one page that nobody touched", { "19 20 22", "19 22", "19 22" }, 99, "19+1 22+1" },
        { "a gap that was written, beside what was not", { "10 11w 12", "10 12", "10 12" }, 99, "10+1 12+1" },
        { "a written gap between written pages", { "10w 11w 12w", "10w 12w", "10w 12w" }, 99, "10+3w" },
        { "an unwritten gap between written pages", { "10w 11 12w", "10w 12w", "10w 12w" }, 99, "10+1w 12+1w" },
        { "a gap before what was written, beside what was not", { "10 11 12w", "10 12w", "10 12w" }, 99, "10+1 12+1w" },
        { "a zero page is no bridge between data", { "12 13 14", "12 14", "12 14" }, 99, "12+1 14+1" },
        { "one record in six is enough", { "10 11 12", "10 12", "10 12", "10 12", "10 12", "10 12" }, 99, "10+3" },
        { "one record in seven is not",
          { "10 11 12", "10 12", "10 12", "10 12", "10 12", "10 12", "10 12" }, 99, "10+1 12+1" },
        { "a gap takes what the budget leaves", { "10 11 12", "10 12", "10 12" }, 3, "10+3" },
        { "and no more", { "10 11 12", "10 12", "10 12" }, 2, "10+1 12+1" },
        { "a page at the edge of a run is no gap", { "10 11", "10", "10" }, 99, "10+1" },
};

static void parse_record(const char *text, struct record *ret_record)
{
        struct record record = { .touches = calloc(64, sizeof(struct touch)) };

        CHECK(record.touches);
        while (*text) {
                char *end;

                record.touches[record.n].page = (uint32_t)strtoul(text, &end, 10);
                record.touches[record.n++].flags = *end == 'w' ? TOUCH_WRITTEN : 0;
                text = end + (*end == 'w');
                text += *text == ' ';
        }
        *ret_record = record;
}

static void print_runs(const struct working_set *set, char *text, size_t capacity)
{
        *text = '\0';
        for (size_t i = 0; i < set->n_runs; i++) {
                size_t n = strlen(text);

                snprintf(text + n, capacity - n, "%s%u+%u%s%s", i ? " " : "", set->runs[i].page, set->runs[i].pages,
                         set->runs[i].flags & TOUCH_WRITTEN ? "w" : "", set->runs[i].flags & TOUCH_ZERO ? "z" : "");
        }
}

static struct working_set open_set(const struct image *image)
{
        struct working_set set;

        CHECK_EQ(working_set_open(in_directory("set"), image, digest, &set), 0);
        return set;
}

static void check_listed(const struct listed *row, const struct image *image)
{
        struct record records[8];
        struct working_set_report report;
        struct working_set set;
        char text[400];
        size_t n = 0;

        for (; n < 8 && row->records[n]; n++)
                parse_record(row->records[n], &records[n]);
        CHECK_EQ(working_set_build(records, n, image, digest, row->budget_pages, in_directory("set"), &report), 0);
        set = open_set(image);
        print_runs(&set, text, sizeof(text));
        if (strcmp(text, row->runs)) {
                fprintf(stderr, "%s: %s, not %s\n", row->name, text, row->runs);
                exit(1);
        }
        working_set_close(&set);
        while (n-- > 0)
                record_release(&records[n]);
}

static void test_records_merge_as_listed(void)
{
        struct image image = simple_image(50);

        for (size_t i = 0; i < sizeof(listed) / sizeof(*listed); i++)
                check_listed(&listed[i], &image);
        image_close(&image);
        remove_files();
}

static void test_report_counts_what_was_dropped_and_how_well_it_fits(void)
{
        struct image image = simple_image(50);
        struct working_set_report report;
        struct working_set set;
        struct record records[3];

        parse_record("10 20 33 44", &records[0]);
        parse_record("10 20", &records[1]);
        parse_record("10 20 33 40", &records[2]);
        CHECK_EQ(working_set_build(records, 3, &image, digest, 2, in_directory("set"), &report), 0);
        CHECK_EQ(report.pages, 2);
        CHECK_EQ(report.runs, 2);
        CHECK_EQ(report.data_bytes, 2 * PAGE);
        CHECK_EQ(report.dropped_pages, 1);
        /* Any two agree on 10, 20 (and 33, beyond the budget): all of it is right; 2/4, 2/2, 2/4 is had. */
        CHECK_EQ((int)(report.precision * 1000 + 0.5), 1000);
        CHECK_EQ((int)(report.recall * 1000 + 0.5), 667);
        set = open_set(&image);
        CHECK_EQ((int)(set.recall * 1000 + 0.5), 667);
        working_set_close(&set);
        CHECK_EQ(working_set_build(records, 3, &image, digest, 99, in_directory("set"), &report), 0);
        CHECK_EQ(report.dropped_pages, 0);
        /* Without the second: 10, 20, 33, of which it touched two. */
        CHECK_EQ((int)(report.precision * 1000 + 0.5), 889);
        CHECK_EQ(working_set_build(records, 1, &image, digest, 99, in_directory("set"), &report), 0);
        CHECK(report.precision < 0 && report.recall < 0);
        set = open_set(&image);
        CHECK(set.recall < 0);
        working_set_close(&set);
        for (size_t i = 0; i < 3; i++)
                record_release(&records[i]);
        image_close(&image);
        remove_files();
}

static void test_impossible_records_are_refused(void)
{
        struct image image = simple_image(10);
        struct touch outside = { 10, 0 }, twice[] = { { 1, 0 }, { 2, 0 }, { 1, 0 } };
        struct record good = { &(struct touch){ 1, 0 }, 1 };
        struct record bad[][2] = { { good, { &outside, 1 } }, { { twice, 3 }, good } };
        struct working_set_report report = { .pages = 77 };
        struct image vast = image;

        CHECK_EQ(working_set_build(NULL, 0, &image, digest, 9, in_directory("set"), &report), -EINVAL);
        for (size_t i = 0; i < 2; i++)
                CHECK_EQ(working_set_build(bad[i], 2, &image, digest, 9, in_directory("set"), &report), -EINVAL);
        vast.pages = UINT64_C(1) << 32;
        CHECK_EQ(working_set_build(&good, 1, &vast, digest, 9, in_directory("set"), &report), -EFBIG);
        CHECK_EQ(report.pages, 77);
        CHECK_EQ(count_files(), 1);
        image_close(&image);
        remove_files();
}

/* -- merging: properties --------------------------------------------------------------------------- */

struct world {
        bool zeros[IMAGE_PAGES];
        uint64_t cut_bytes;
        size_t n;
        struct record records[MAX_RECORDS];
        uint64_t budget_pages;
};

/* Most of what a machine touches is the same each time, in clusters, in nearly the same order. */
static void make_record(const struct world *world, uint64_t common_seed, struct record *ret_record)
{
        struct record record = { .touches = calloc(IMAGE_PAGES, sizeof(struct touch)) };
        bool seen[IMAGE_PAGES] = { false };

        CHECK(record.touches);
        for (size_t cluster = 0; cluster < 12; cluster++) {
                uint64_t saved = state, page, end;
                bool is_common = below(10) < 8;

                state = is_common ? common_seed + cluster * 10 : state;
                page = below(IMAGE_PAGES);
                end = page + 1 + below(cluster == 0 ? 600 : 20); /* one that is longer than a run */
                state = saved + 1000;
                for (; page < end && page < IMAGE_PAGES; page++) {
                        if (seen[page] || below(30) == 0)
                                continue;
                        seen[page] = true;
                        record.touches[record.n++] = (struct touch){
                                .page = (uint32_t)page,
                                .flags = (page / 60 % 3 == 0 || below(60) == 0 ? TOUCH_WRITTEN : 0) |
                                         (world->zeros[page] ? TOUCH_ZERO : 0),
                        };
                }
        }
        *ret_record = record;
}

static void make_world(uint64_t seed, struct world *ret_world)
{
        struct world world = { 0 };

        state = seed * 1000003;
        for (size_t page = 0, end; page < IMAGE_PAGES; page = end) {
                bool is_zero = below(3) == 0;

                end = page + 1 + below(40);
                for (size_t at = page; at < end && at < IMAGE_PAGES; at++)
                        world.zeros[at] = is_zero;
        }
        world.cut_bytes = below(2) ? below(PAGE) : 0;
        world.n = 1 + below(MAX_RECORDS);
        world.budget_pages = below(3) ? IMAGE_PAGES : 1 + below(300);
        for (size_t i = 0; i < world.n; i++)
                make_record(&world, seed, &world.records[i]);
        *ret_world = world;
}

static void release_world(struct world *world)
{
        for (size_t i = 0; i < world->n; i++)
                record_release(&world->records[i]);
}

/* What is known of each page, by the slowest of ways. */
struct page_model {
        unsigned count;
        double rank_sum;
        bool is_written;
};

static void model(const struct world *world, size_t without, struct page_model *pages)
{
        memset(pages, 0, IMAGE_PAGES * sizeof(*pages));
        for (size_t i = 0; i < world->n; i++)
                for (size_t rank = 0; i != without && rank < world->records[i].n; rank++) {
                        struct touch touch = world->records[i].touches[rank];

                        pages[touch.page].count++;
                        pages[touch.page].rank_sum += (double)rank;
                        pages[touch.page].is_written |= touch.flags & TOUCH_WRITTEN;
                }
}

static double mean_rank(const struct page_model *page)
{
        return page->rank_sum / page->count;
}

/* Mean ranks are kept in 1/1024. */
static bool is_before(const struct page_model *a, const struct page_model *b)
{
        return mean_rank(a) < mean_rank(b) - 1.0 / 512;
}

/* Returns how many pages are in the set, having checked each for itself; @ret_in: which. */
static uint64_t check_pages(const struct working_set *set, const struct world *world, const struct page_model *pages,
                            bool *ret_in)
{
        uint64_t n = 0;

        memset(ret_in, 0, IMAGE_PAGES * sizeof(*ret_in));
        for (size_t i = 0; i < set->n_runs; i++) {
                const struct run *run = &set->runs[i];

                CHECK(run->pages >= 1 && run->pages <= WORKING_SET_RUN_MAX_PAGES);
                for (uint64_t page = run->page; page < (uint64_t)run->page + run->pages; page++, n++) {
                        CHECK(page < IMAGE_PAGES && !ret_in[page]);
                        ret_in[page] = true;
                        CHECK(pages[page].count > 0);
                        CHECK_EQ(!!(run->flags & TOUCH_ZERO), world->zeros[page]);
                        CHECK_EQ(!!(run->flags & TOUCH_WRITTEN), pages[page].is_written);
                }
        }
        return n;
}

/* Every page that more than half touched is in, or the budget is used up by earlier ones. */
static uint64_t check_choice(const struct world *world, const struct page_model *pages, const bool *in)
{
        uint64_t dropped = 0;

        for (size_t page = 0; page < IMAGE_PAGES; page++) {
                bool is_wanted = 2 * pages[page].count > world->n;

                dropped += is_wanted && !in[page];
                for (size_t other = 0; is_wanted && !in[page] && other < IMAGE_PAGES; other++)
                        CHECK(!in[other] || !is_before(&pages[page], &pages[other]));
        }
        /* What fewer touched is there only between others of a run. */
        for (size_t page = 0; page < IMAGE_PAGES; page++)
                if (in[page] && 2 * pages[page].count <= world->n) {
                        CHECK_EQ(dropped, 0);
                        CHECK(page > 0 && page < IMAGE_PAGES - 1 && in[page - 1] && in[page + 1]);
                }
        return dropped;
}

static double first_use(const struct world *world, const struct run *run, const struct page_model *pages)
{
        double first = 1e9;

        for (size_t page = run->page; page < (size_t)run->page + run->pages; page++)
                if (2 * pages[page].count > world->n && mean_rank(&pages[page]) < first)
                        first = mean_rank(&pages[page]);
        return first;
}

static void check_order(const struct working_set *set, const struct world *world, const struct page_model *pages)
{
        for (size_t i = 1; i < set->n_runs; i++)
                CHECK(first_use(world, &set->runs[i - 1], pages) <=
                      first_use(world, &set->runs[i], pages) + 1.0 / 512);
}

static void check_content(const struct working_set *set, const struct world *world)
{
        uint64_t words[PAGE / 8], at = 0;

        CHECK_EQ((uintptr_t)set->data % PAGE, 0);
        CHECK_EQ(working_set_populate(set, 0, UINT64_MAX), 0);
        for (size_t i = 0; i < set->n_runs; i++)
                for (uint64_t j = 0; j < set->runs[i].pages && !(set->runs[i].flags & TOUCH_ZERO); j++, at++) {
                        content_of(set->runs[i].page + j, words);
                        if (set->runs[i].page + j == IMAGE_PAGES - 1)
                                memset((uint8_t *)words + PAGE - world->cut_bytes, 0, world->cut_bytes);
                        CHECK(memcmp(set->data + at * PAGE, words, PAGE) == 0);
                }
        CHECK_EQ(at, set->n_data_pages);
}

/* Returns the average over the records of how much of each is in a set of the others. */
static double model_recall(const struct world *world, const struct image *image)
{
        double sum = 0;

        for (size_t left_out = 0; left_out < world->n; left_out++) {
                struct record others[MAX_RECORDS];
                struct working_set_report report;
                struct page_model pages[IMAGE_PAGES];
                struct working_set set;
                bool in[IMAGE_PAGES];
                size_t n = 0, common = 0;

                for (size_t i = 0; i < world->n; i++)
                        if (i != left_out)
                                others[n++] = world->records[i];
                CHECK_EQ(working_set_build(others, n, image, digest, world->budget_pages, in_directory("others"),
                                           &report), 0);
                CHECK_EQ(working_set_open(in_directory("others"), image, digest, &set), 0);
                model(world, left_out, pages);
                check_pages(&set, world, pages, in);
                for (size_t i = 0; i < world->records[left_out].n; i++)
                        common += in[world->records[left_out].touches[i].page];
                sum += (double)common / (double)world->records[left_out].n;
                working_set_close(&set);
        }
        return sum / (double)world->n;
}

/* What the worlds had: properties that hold of nothing are no properties. */
struct seen {
        unsigned long_runs, filled_gaps, short_budgets;
};

static void look_at(const struct working_set *set, const struct world *world, const struct page_model *pages,
                    uint64_t dropped, struct seen *seen)
{
        seen->short_budgets += dropped > 0;
        for (size_t i = 0; i < set->n_runs; i++) {
                seen->long_runs += set->runs[i].pages > 20;
                for (size_t j = 0; j < set->runs[i].pages; j++)
                        seen->filled_gaps += 2 * pages[set->runs[i].page + j].count <= world->n;
        }
}

static void check_world(uint64_t seed, struct seen *seen)
{
        struct world world;
        struct image image;
        struct working_set_report report;
        struct page_model pages[IMAGE_PAGES];
        struct working_set set;
        bool in[IMAGE_PAGES];

        make_world(seed, &world);
        image = open_image(IMAGE_PAGES, world.zeros, world.zeros[IMAGE_PAGES - 1] ? 0 : world.cut_bytes);
        CHECK_EQ(working_set_build(world.records, world.n, &image, digest, world.budget_pages, in_directory("set"),
                                   &report), 0);
        set = open_set(&image);
        model(&world, SIZE_MAX, pages);
        CHECK_EQ(check_pages(&set, &world, pages, in), set.n_pages);
        CHECK_EQ(check_choice(&world, pages, in), report.dropped_pages);
        check_order(&set, &world, pages);
        check_content(&set, &world);
        look_at(&set, &world, pages, report.dropped_pages, seen);
        CHECK(set.n_pages <= world.budget_pages);
        CHECK_EQ(report.pages, set.n_pages);
        CHECK_EQ(report.runs, set.n_runs);
        CHECK_EQ(report.data_bytes, set.n_data_pages * PAGE);
        if (world.n > 1)
                CHECK_EQ((int)(report.recall * 1e6 + 0.5), (int)(model_recall(&world, &image) * 1e6 + 0.5));
        working_set_close(&set);
        release_world(&world);
        image_close(&image);
        remove_files();
}

static void test_set_has_its_properties_in_many_worlds(void)
{
        struct seen seen = { 0 };

        for (uint64_t seed = 0; seed < 100; seed++)
                check_world(seed, &seen);
        CHECK(seen.long_runs > 10 && seen.filled_gaps > 10 && seen.short_budgets > 10);
}

static void test_longest_run_is_split_where_the_format_ends(void)
{
        static struct touch touches[IMAGE_PAGES];
        bool zeros[IMAGE_PAGES] = { false };
        struct image image = open_image(IMAGE_PAGES, zeros, 0);
        struct record record = { touches, IMAGE_PAGES };
        struct working_set_report report;
        struct working_set set;
        char text[100];

        for (uint32_t i = 0; i < IMAGE_PAGES; i++)
                touches[i].page = IMAGE_PAGES - 1 - i; /* backwards: the second part is used first */
        CHECK_EQ(working_set_build(&record, 1, &image, digest, IMAGE_PAGES, in_directory("set"), &report), 0);
        set = open_set(&image);
        print_runs(&set, text, sizeof(text));
        CHECK(strcmp(text, "512+188 0+512") == 0);
        working_set_close(&set);
        image_close(&image);
        remove_files();
}

static void test_equal_input_makes_equal_files(void)
{
        struct working_set_report report;
        struct world world;
        struct image image;
        uint8_t *first, *second;
        size_t n, n_second;

        make_world(11, &world);
        image = open_image(IMAGE_PAGES, world.zeros, 0);
        CHECK_EQ(working_set_build(world.records, world.n, &image, digest, 400, in_directory("set"), &report), 0);
        first = read_file(in_directory("set"), &n);
        CHECK_EQ(working_set_build(world.records, world.n, &image, digest, 400, in_directory("set"), &report), 0);
        second = read_file(in_directory("set"), &n_second);
        CHECK(n == n_second && memcmp(first, second, n) == 0);
        CHECK_EQ(count_files(), 2);
        free(first);
        free(second);
        release_world(&world);
        image_close(&image);
        remove_files();
}

/* -- opening --------------------------------------------------------------------------------------- */

/* An image of 300 pages and a set of the first 150, 135 of which have content: three chunks. */
static struct image image_with_set(void)
{
        struct image image = simple_image(300);
        struct touch touches[150];
        struct record record = { touches, 150 };
        struct working_set_report report;

        for (uint32_t i = 0; i < 150; i++)
                touches[i] = (struct touch){ i, i / 40 % 2 ? TOUCH_WRITTEN : 0 };
        CHECK_EQ(working_set_build(&record, 1, &image, digest, 999, in_directory("set"), &report), 0);
        CHECK_EQ(report.data_bytes, 135 * PAGE);
        return image;
}

static int try_set(const struct image *image)
{
        struct working_set set = { .n_runs = 99 };
        int r = working_set_open(in_directory("set"), image, digest, &set);

        if (r == 0)
                working_set_close(&set);
        else
                CHECK(set.n_runs == 99 && !set.mapping);
        return r;
}

static int populate(const struct image *image, uint64_t page, uint64_t pages)
{
        struct working_set set = open_set(image);
        int r = working_set_populate(&set, page, pages);

        working_set_close(&set);
        return r;
}

static void test_damaged_head_is_refused_at_every_byte(void)
{
        struct image image = image_with_set();
        uint8_t *bytes;
        size_t n;

        bytes = read_file(in_directory("set"), &n);
        for (size_t at = 0; at < n - 135 * PAGE; at++) {
                bool is_tie = at >= offsetof(struct file_tie, digest) && at < sizeof(struct file_tie);

                bytes[at] ^= 1 << (at % 8);
                write_file(in_directory("set"), bytes, n);
                CHECK_EQ(try_set(&image), is_tie ? -ESTALE : -EBADMSG);
                bytes[at] ^= 1 << (at % 8);
        }
        write_file(in_directory("set"), bytes, n);
        CHECK_EQ(try_set(&image), 0);
        free(bytes);
        image_close(&image);
        remove_files();
}

static void test_set_of_another_length_is_refused(void)
{
        struct image image = image_with_set();
        uint8_t *bytes;
        size_t n;

        bytes = read_file(in_directory("set"), &n);
        for (size_t length = 0; length < n; length += length < 300 ? 1 : PAGE / 4) {
                CHECK_EQ(truncate(in_directory("set"), (off_t)length), 0);
                CHECK_EQ(try_set(&image), -EBADMSG);
                write_file(in_directory("set"), bytes, n);
        }
        CHECK_EQ(truncate(in_directory("set"), (off_t)n + 1), 0);
        CHECK_EQ(try_set(&image), -EBADMSG);
        CHECK_EQ(truncate(in_directory("set"), (off_t)n + PAGE), 0);
        CHECK_EQ(try_set(&image), -EBADMSG);
        free(bytes);
        image_close(&image);
        remove_files();
}

static void test_damaged_content_is_found_where_it_is(void)
{
        struct image image = image_with_set();
        size_t n;
        uint8_t *bytes = read_file(in_directory("set"), &n);

        bytes[n - 45 * PAGE + 5] ^= 0x10; /* page 90 of the content */
        write_file(in_directory("set"), bytes, n);
        CHECK_EQ(try_set(&image), 0);
        CHECK_EQ(populate(&image, 0, 64), 0);
        CHECK_EQ(populate(&image, 63, 1), 0);
        CHECK_EQ(populate(&image, 63, 2), -EBADMSG);
        CHECK_EQ(populate(&image, 64, 1), -EBADMSG);
        CHECK_EQ(populate(&image, 127, 1), -EBADMSG);
        CHECK_EQ(populate(&image, 0, UINT64_MAX), -EBADMSG);
        CHECK_EQ(populate(&image, 128, 7), 0);
        CHECK_EQ(populate(&image, 135, 1), 0); /* there is no such page to be wrong */
        CHECK_EQ(populate(&image, UINT64_MAX, UINT64_MAX), 0);
        bytes[n - 45 * PAGE + 5] ^= 0x10;
        write_file(in_directory("set"), bytes, n);
        CHECK_EQ(populate(&image, 0, 135), 0);
        free(bytes);
        image_close(&image);
        remove_files();
}

static void test_set_that_is_no_file_or_of_another_image_is_refused(void)
{
        struct image image = image_with_set(), shorter;
        struct working_set set;

        CHECK_EQ(working_set_open(in_directory("set"), &image, other_digest, &set), -ESTALE);
        image_close(&image);
        shorter = simple_image(299);
        CHECK_EQ(try_set(&shorter), -ESTALE);
        write_some_record(&shorter);
        CHECK_EQ(rename(in_directory("record"), in_directory("set")), 0);
        CHECK_EQ(try_set(&shorter), -EBADMSG);
        CHECK_EQ(unlink(in_directory("set")), 0);
        CHECK_EQ(try_set(&shorter), -ENOENT);
        CHECK_EQ(mkfifo(in_directory("set"), 0600), 0);
        CHECK_EQ(try_set(&shorter), -EBADMSG);
        image_close(&shorter);
        remove_files();
}

/* What a header may say, whose hash is right. */
struct forged {
        const char *name;
        struct run runs[3];
        uint64_t n_runs, n_pages, n_data_pages, recall;
        int expected;
};

#define Z TOUCH_ZERO
static const struct forged forged[] = {
        { "sound", { { 4, 3, 0 }, { 13, 1, Z } }, 2, 4, 3, 500000, 0 },
        { "recall unknown", { { 4, 1, 0 } }, 1, 1, 1, RECALL_UNKNOWN, 0 },
        { "recall beyond one", { { 4, 1, 0 } }, 1, 1, 1, RECALL_SCALE + 1, -EBADMSG },
        { "a run of no pages", { { 4, 0, 0 }, { 5, 2, 0 } }, 2, 2, 2, 0, -EBADMSG },
        { "a run that is too long", { { 4, 513, 0 } }, 1, 513, 513, 0, -EBADMSG },
        { "a run that overlaps another", { { 4, 2, 0 }, { 5, 1, 0 } }, 2, 3, 3, 0, -EBADMSG },
        { "a run behind the image", { { 50, 1, 0 } }, 1, 1, 1, 0, -EBADMSG },
        { "a run across the image's end", { { 49, 2, 0 } }, 1, 2, 2, 0, -EBADMSG },
        { "a run at the end of numbers", { { UINT32_MAX, 2, 0 } }, 1, 2, 2, 0, -EBADMSG },
        { "an unknown flag", { { 4, 1, 4 } }, 1, 1, 1, 0, -EBADMSG },
        { "zeros that the file system does not know of", { { 4, 1, Z } }, 1, 1, 0, 0, 0 },
        { "a hole called data", { { 13, 1, 0 } }, 1, 1, 1, 0, -EBADMSG },
        { "a hole in the middle of data", { { 12, 3, 0 } }, 1, 3, 3, 0, -EBADMSG },
        { "fewer pages than the runs have", { { 4, 2, 0 } }, 1, 1, 1, 0, -EBADMSG },
        { "more pages than the runs have", { { 4, 2, 0 } }, 1, 3, 2, 0, -EBADMSG },
        { "less content than the runs have", { { 4, 2, 0 } }, 1, 2, 1, 0, -EBADMSG },
        { "more content than pages", { { 4, 2, 0 } }, 1, 2, 3, 0, -EBADMSG },
        { "more pages than the image", { { 4, 2, 0 } }, 1, 51, 2, 0, -EBADMSG },
        { "more runs than pages", { { 4, 2, 0 }, { 6, 0, 0 }, { 7, 0, 0 } }, 3, 2, 2, 0, -EBADMSG },
        { "as many runs as there are numbers", { { 4, 1, 0 } }, UINT64_MAX, 1, 1, 0, -EBADMSG },
        { "content beyond all files", { { 4, 1, 0 } }, 1, 1, UINT64_MAX, 0, -EBADMSG },
};

static void check_forged(const struct forged *row, const struct image *image)
{
        uint8_t *bytes = calloc(600, PAGE);
        struct working_set_header header = {
                .tie = file_tie(WORKING_SET_MAGIC, image, digest),
                .n_runs = row->n_runs,
                .n_pages = row->n_pages,
                .n_data_pages = row->n_data_pages,
                .recall = row->recall,
        };
        uint64_t n_data = row->n_data_pages < 599 ? row->n_data_pages : 1;
        int r;

        CHECK(bytes);
        memcpy(bytes, &header, sizeof(header));
        memcpy(bytes + sizeof(header), row->runs, sizeof(row->runs));
        header.hash = head_hash(bytes, PAGE, sizeof(header));
        memcpy(bytes, &header, sizeof(header));
        write_file(in_directory("set"), bytes, (1 + n_data) * PAGE);
        free(bytes);
        r = try_set(image);
        if (r != row->expected) {
                fprintf(stderr, "%s: %d, not %d\n", row->name, r, row->expected);
                exit(1);
        }
}

static void test_sound_hash_does_not_make_it_true(void)
{
        struct image image = simple_image(50);

        for (size_t i = 0; i < sizeof(forged) / sizeof(*forged); i++)
                check_forged(&forged[i], &image);
        image_close(&image);
        remove_files();
}

static void test_file_that_changes_after_it_was_opened_changes_nothing_unnoticed(void)
{
        struct image image = image_with_set();
        struct working_set set = open_set(&image);
        struct run before = set.runs[0];
        uint8_t *bytes;
        size_t n;
        int fd;

        CHECK_EQ(working_set_populate(&set, 0, 135), 0);
        CHECK_EQ(working_set_check(&set), 0);
        bytes = read_file(in_directory("set"), &n);
        memset(bytes, 0xff, n);
        fd = open(in_directory("set"), O_WRONLY | O_CLOEXEC);
        CHECK_EQ(pwrite(fd, bytes, n, 0), (ssize_t)n);
        CHECK(memcmp(&set.runs[0], &before, sizeof(before)) == 0);
        CHECK_EQ(working_set_check(&set), -ESTALE);
        CHECK_EQ(working_set_populate(&set, 0, 1), -EBADMSG);
        CHECK_EQ(ftruncate(fd, 0), 0);
        CHECK(memcmp(&set.runs[0], &before, sizeof(before)) == 0);
        CHECK_EQ(working_set_check(&set), -ESTALE);
        CHECK_EQ(working_set_populate(&set, 0, 135), -EBADMSG); /* not a SIGBUS */
        close(fd);
        free(bytes);
        working_set_close(&set);
        image_close(&image);
        remove_files();
}

static void test_another_file_under_the_name_leaves_the_open_one_alone(void)
{
        struct image image = image_with_set();
        struct working_set set = open_set(&image);
        struct touch touch = { 9, 0 };
        struct record record = { &touch, 1 };
        struct working_set_report report;

        CHECK_EQ(working_set_build(&record, 1, &image, digest, 9, in_directory("set"), &report), 0);
        CHECK_EQ(working_set_check(&set), 0);
        CHECK_EQ(working_set_populate(&set, 0, 135), 0);
        CHECK_EQ(set.n_pages, 150);
        working_set_close(&set);
        set = open_set(&image);
        CHECK_EQ(set.n_pages, 1);
        working_set_close(&set);
        image_close(&image);
        remove_files();
}

static void test_closing_what_was_never_opened_closes_nothing(void)
{
        struct working_set set = { 0 };
        int before = count_fds();

        working_set_close(&set); /* its descriptor is 0, which is not ours */
        working_set_close(&set);
        CHECK_EQ(count_fds(), before);
}

/* -- cached or not --------------------------------------------------------------------------------- */

static void drop_cache(const char *name)
{
        int fd = open(in_directory(name), O_RDWR | O_CLOEXEC);

        CHECK(fd >= 0);
        CHECK_EQ(fsync(fd), 0);
        CHECK_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
        close(fd);
}

static void test_sample_says_what_is_in_the_page_cache(void)
{
        struct image image = image_with_set();
        struct working_set set;
        struct statfs fs;

        CHECK_EQ(statfs(directory, &fs), 0);
        if (fs.f_type != TMPFS_MAGIC) { /* where a file can be anywhere else */
                drop_cache("set");
                drop_cache("image");
                set = open_set(&image);
                CHECK(working_set_data_resident(&set) < 0.9);
                CHECK(working_set_image_resident(&set, &image) < 0.9);
                working_set_close(&set);
        }
        set = open_set(&image);
        CHECK_EQ(working_set_populate(&set, 0, 135), 0);
        CHECK_EQ((int)(working_set_data_resident(&set) * 100), 100);
        CHECK_EQ(image_populate(&image, 0, 150), 0);
        CHECK_EQ((int)(working_set_image_resident(&set, &image) * 100), 100);
        working_set_close(&set);
        image_close(&image);
        remove_files();
}

static void test_set_of_zeros_has_no_content(void)
{
        struct image image = simple_image(50);
        struct touch touches[] = { { 3, 0 }, { 13, 0 } };
        struct record record = { touches, 2 };
        struct working_set_report report;
        struct working_set set;

        CHECK_EQ(working_set_build(&record, 1, &image, digest, 9, in_directory("set"), &report), 0);
        set = open_set(&image);
        CHECK_EQ(set.n_pages, 2);
        CHECK_EQ(set.n_data_pages, 0);
        CHECK_EQ((int)working_set_data_resident(&set), 1);
        CHECK_EQ((int)working_set_image_resident(&set, &image), 1);
        CHECK_EQ(working_set_populate(&set, 0, 1), 0);
        working_set_close(&set);
        image_close(&image);
        remove_files();
}

static void test_zeros_that_were_written_are_zeros_too(void)
{
        static const uint8_t zeros[PAGE];
        struct image image = simple_image(50);
        struct touch touches[] = { { 4, 0 }, { 5, 0 }, { 13, 0 } };
        struct record record = { touches, 3 };
        struct working_set_report report;
        struct working_set set;
        char text[100];

        CHECK_EQ(pwrite(image.fd, zeros, PAGE, 5 * PAGE), PAGE);
        image_close(&image);
        CHECK_EQ(image_open(in_directory("image"), &image), 0);
        CHECK(!image_is_zero(&image, 5));
        CHECK_EQ(working_set_build(&record, 1, &image, digest, 9, in_directory("set"), &report), 0);
        set = open_set(&image);
        print_runs(&set, text, sizeof(text));
        CHECK(strcmp(text, "4+1 5+1z 13+1z") == 0);
        CHECK_EQ(set.n_data_pages, 1);
        working_set_close(&set);
        image_close(&image);
        remove_files();
}

/* -- failing half way ------------------------------------------------------------------------------ */

static void test_changed_image_makes_no_set(void)
{
        struct image image = simple_image(50);
        struct touch touch = { 4, 0 };
        struct record record = { &touch, 1 };
        struct working_set_report report;

        CHECK_EQ(pwrite(image.fd, "x", 1, 4 * PAGE), 1);
        CHECK_EQ(working_set_build(&record, 1, &image, digest, 9, in_directory("set"), &report), -ESTALE);
        CHECK_EQ(ftruncate(image.fd, PAGE), 0);
        CHECK_EQ(working_set_build(&record, 1, &image, digest, 9, in_directory("set"), &report), -ESTALE);
        CHECK_EQ(count_files(), 1);
        image_close(&image);
        remove_files();
}

static void set_file_limit(uint64_t bytes)
{
        struct rlimit limit;

        CHECK_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
        limit.rlim_cur = bytes;
        CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void test_full_disk_leaves_the_old_set(void)
{
        struct image image = image_with_set();
        struct touch touches[] = { { 9, 0 }, { 10, 0 } };
        struct record record = { touches, 2 };
        struct working_set_report report;
        struct working_set set;

        CHECK(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
        for (uint64_t limit = 0; limit < 3 * PAGE; limit += PAGE) {
                set_file_limit(limit);
                CHECK_EQ(working_set_build(&record, 1, &image, digest, 9, in_directory("set"), &report), -EFBIG);
        }
        set_file_limit(RLIM_INFINITY);
        CHECK(signal(SIGXFSZ, SIG_DFL) != SIG_ERR);
        CHECK_EQ(count_files(), 2);
        set = open_set(&image);
        CHECK_EQ(set.n_pages, 150);
        working_set_close(&set);
        image_close(&image);
        remove_files();
}

/* Write another set in a child that dies of SIGXFSZ at a byte. Returns whether it died. */
static bool is_killed_writing(const struct image *image, uint64_t at_byte)
{
        int status;
        pid_t pid = fork();

        CHECK(pid >= 0);
        if (pid == 0) {
                struct touch touches[] = { { 9, 0 }, { 10, 0 } };
                struct record record = { touches, 2 };
                struct working_set_report report;
                struct rlimit none = { 0, 0 };

                setrlimit(RLIMIT_CORE, &none);
                set_file_limit(at_byte);
                _exit(working_set_build(&record, 1, image, digest, 9, in_directory("set"), &report) ? 1 : 0);
        }
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGXFSZ : WEXITSTATUS(status) == 0);
        return WIFSIGNALED(status);
}

static void test_killed_writer_leaves_no_half_file_under_the_name(void)
{
        struct image image = image_with_set();
        struct working_set set;
        uint64_t at;

        for (at = 0; is_killed_writing(&image, at); at += PAGE / 2) {
                set = open_set(&image);
                CHECK_EQ(set.n_pages, 150);
                CHECK_EQ(working_set_populate(&set, 0, 135), 0);
                working_set_close(&set);
        }
        CHECK(at >= 3 * PAGE); /* head and two pages: it was killed at each of them */
        set = open_set(&image);
        CHECK_EQ(set.n_pages, 2);
        CHECK_EQ(working_set_populate(&set, 0, 2), 0);
        working_set_close(&set);
        image_close(&image);
        remove_files();
}

int main(void)
{
        const char *parent = getenv("TMPDIR");
        int fds = count_fds();

        snprintf(directory, sizeof(directory), "%s/working-set-XXXXXX", parent ? parent : "/tmp");
        CHECK(mkdtemp(directory));
        test_record_comes_back();
        test_record_of_impossible_touches_is_not_written();
        test_damaged_record_is_refused_at_every_byte();
        test_record_that_is_no_file_is_refused();
        test_record_with_sound_hash_and_wrong_content_is_refused();
        test_record_of_another_image_is_told_from_a_damaged_one();
        test_records_merge_as_listed();
        test_report_counts_what_was_dropped_and_how_well_it_fits();
        test_impossible_records_are_refused();
        test_set_has_its_properties_in_many_worlds();
        test_longest_run_is_split_where_the_format_ends();
        test_equal_input_makes_equal_files();
        test_damaged_head_is_refused_at_every_byte();
        test_set_of_another_length_is_refused();
        test_damaged_content_is_found_where_it_is();
        test_set_that_is_no_file_or_of_another_image_is_refused();
        test_sound_hash_does_not_make_it_true();
        test_file_that_changes_after_it_was_opened_changes_nothing_unnoticed();
        test_another_file_under_the_name_leaves_the_open_one_alone();
        test_closing_what_was_never_opened_closes_nothing();
        test_sample_says_what_is_in_the_page_cache();
        test_set_of_zeros_has_no_content();
        test_zeros_that_were_written_are_zeros_too();
        test_changed_image_makes_no_set();
        test_full_disk_leaves_the_old_set();
        test_killed_writer_leaves_no_half_file_under_the_name();
        CHECK_EQ(rmdir(directory), 0);
        CHECK_EQ(count_fds(), fds);
        return 0;
}
