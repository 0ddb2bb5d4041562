/* Kuasar's machines: whose an image is, who is recorded, what is kept in the directory of working sets. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "fdutil.h"
#include "kuasar.h"
#include "kuasar_clerk.h"
#include "kuasar_files.h"
#include "kuasar_merge.h"
#include "kuasar_images.h"
#include "working_set_command.h"
#include "working_set_file.h"

#define PAGES 64
#define PATH_BYTES JOURNAL_PATH_BYTES

/* -- whose image ----------------------------------------------------------------------------------- */

static void check_sandbox(const char *path, const char *directory, const char *expected)
{
        char vm[JOURNAL_ID_BYTES] = "untouched";

        CHECK_EQ(kuasar_find_sandbox(path, directory, vm), expected != NULL);
        CHECK(strcmp(vm, expected ? expected : "untouched") == 0);
}

static void test_image_names_its_sandbox(void)
{
        check_sandbox("/run/k/ab-1_2.c/restore/memory.img", "/run/k", "ab-1_2.c");
        check_sandbox("/run/k/a/restore/memory.img", "/run/k/", "a");
        check_sandbox("/run/k/a/restore/memory.img", "/run/k///", "a");
        check_sandbox("/run/k/a/restore/memory.img", "/", "a");
        check_sandbox("/run/k/deeper/a/restore/memory.img", "/run/k", "a");
        check_sandbox("/run/k/restore/memory.img/restore/memory.img", "/run/k", "memory.img");
}

static void test_image_elsewhere_names_none(void)
{
        static const char *const paths[] = {
                "",
                "/",
                "/run/k",
                "/restore/memory.img",
                "/run/k/restore/memory.img",
                "/run/k//restore/memory.img",
                "/run/ka/a/restore/memory.img",
                "/run/other/a/restore/memory.img",
                "/run/k/a/restore/memory.img2",
                "/run/k/a/restore/memory.im",
                "/run/k/a/memory.img",
                "/run/k/../other/a/restore/memory.img",
                "/run/k/a/../../b/restore/memory.img",
                "/run/k/.hidden/restore/memory.img",
                "/run/k/with space/restore/memory.img",
                "/run/k/caf\xc3\xa9/restore/memory.img",
        };

        for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++)
                check_sandbox(paths[i], "/run/k", NULL);
}

static void test_sandbox_id_fits_its_buffer(void)
{
        char id[JOURNAL_ID_BYTES + 1], path[JOURNAL_ID_BYTES + 64];

        memset(id, 'f', sizeof(id));
        id[JOURNAL_ID_BYTES - 1] = '\0';
        snprintf(path, sizeof(path), "/run/k/%s/restore/memory.img", id);
        check_sandbox(path, "/run/k", id);
        id[JOURNAL_ID_BYTES - 1] = 'f';
        id[JOURNAL_ID_BYTES] = '\0';
        snprintf(path, sizeof(path), "/run/k/%s/restore/memory.img", id);
        check_sandbox(path, "/run/k", NULL);
}

/* -- who is recorded ------------------------------------------------------------------------------- */

static const struct kuasar_facts GOOD = {.is_tidy = true, .is_linked = true, .has_small_pages = true, .wanted = 3};

static void test_first_record_that_nobody_makes_is_made(void)
{
        static const struct {
                uint32_t taken;
                unsigned wanted;
                int expected;
        } cases[] = {{0, 1, 0},  {0, 3, 0},   {1, 3, 1}, {3, 3, 2},       {5, 3, 1},
                     {7, 3, -1}, {1, 1, -1}, {8, 3, 0}, {0x7fff, 16, 15}};

        for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
                struct kuasar_facts facts = GOOD;

                facts.taken = cases[i].taken;
                facts.wanted = cases[i].wanted;
                CHECK_EQ(kuasar_choose_record(&facts), cases[i].expected);
        }
}

static void test_nobody_is_recorded_in_vain(void)
{
        struct kuasar_facts facts[5] = {GOOD, GOOD, GOOD, GOOD, GOOD};

        facts[0].is_tidy = false;
        facts[1].is_linked = false;
        facts[2].is_used_up = true;
        facts[3].has_small_pages = false;
        facts[4].is_given_up = true;
        for (size_t i = 0; i < 5; i++)
                CHECK_EQ(kuasar_choose_record(&facts[i]), -1);
}

/* -- names ----------------------------------------------------------------------------------------- */

static void test_every_part_of_an_images_identity_is_in_its_name(void)
{
        struct image_identity identity = {.device = 1, .inode = 2, .size_bytes = 3, .modified_s = 4, .modified_ns = 5};
        uint8_t first[WORKING_SET_DIGEST_BYTES], other[WORKING_SET_DIGEST_BYTES];
        struct image_identity others[5] = {identity, identity, identity, identity, identity};
        char hex[KUASAR_HEX_BYTES];

        kuasar_digest(&identity, first);
        kuasar_hex(first, hex);
        CHECK(strcmp(hex, "00000000000000010000000000000002000000000000000300000000ee6b2805") == 0);
        others[0].device++;
        others[1].inode++;
        others[2].size_bytes++;
        others[3].modified_s--;
        others[4].modified_ns++;
        for (size_t i = 0; i < 5; i++) {
                kuasar_digest(&others[i], other);
                CHECK(memcmp(first, other, sizeof(first)) != 0);
        }
}

static void check_mark(const char *image_path, const char *expected)
{
        char path[PATH_BYTES] = "";

        CHECK_EQ(kuasar_used_up_mark(image_path, path), expected != NULL);
        CHECK(!expected || strcmp(path, expected) == 0);
}

static void test_mark_of_a_template_that_is_used_up_is_beside_its_snapshot(void)
{
        check_mark("/pool/warmfork/t1/snapshot/memory.img", "/pool/warmfork/t1/consumed");
        check_mark("/t1/memory.img", "/consumed");
        check_mark("/memory.img", NULL);
        check_mark("memory.img", NULL);
        check_mark("", NULL);
}

/* -- the directory --------------------------------------------------------------------------------- */

/* A directory of working sets, and an image. */
struct place {
        char root[32], sets[48], image[48];
        uint8_t digest[WORKING_SET_DIGEST_BYTES];
};

static void identify(struct place *place)
{
        struct image image;

        CHECK_EQ(image_take(place->image, &image), 0);
        kuasar_digest(&image.identity, place->digest);
        image_close(&image);
}

static void write_file(const char *path, const void *bytes, size_t n)
{
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        CHECK(fd >= 0);
        CHECK_EQ(write(fd, bytes, n), n);
        close_fd(fd);
}

static void write_image(struct place *place, uint8_t fill)
{
        uint8_t content[PAGES * IMAGE_PAGE_BYTES];

        for (size_t i = 0; i < sizeof(content); i++)
                content[i] = (uint8_t)(fill + i / IMAGE_PAGE_BYTES);
        /* Another file, whatever the clock says. */
        snprintf(place->image, sizeof(place->image), "%s/image-%d", place->root, fill);
        write_file(place->image, content, sizeof(content));
        identify(place);
}

static struct place make_place(void)
{
        struct place place = {.root = "/tmp/test-kuasar-XXXXXX"};

        CHECK(mkdtemp(place.root));
        snprintf(place.sets, sizeof(place.sets), "%s/sets", place.root);
        CHECK_EQ(kuasar_files_open(place.sets), 0);
        write_image(&place, 1);
        return place;
}

static void remove_all(const char *directory)
{
        DIR *listing = opendir(directory);
        struct dirent *entry;
        char path[PATH_BYTES];

        CHECK(listing);
        while ((entry = readdir(listing))) {
                if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
                        continue;
                snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
                if (unlink(path) < 0)
                        remove_all(path);
        }
        closedir(listing);
        CHECK_EQ(rmdir(directory), 0);
}

static void put(const struct place *place, const char *suffix)
{
        char path[PATH_BYTES];

        kuasar_file(place->sets, place->digest, suffix, path);
        write_file(path, "x", 1);
}

static bool has(const struct place *place, const char *suffix)
{
        char path[PATH_BYTES];

        kuasar_file(place->sets, place->digest, suffix, path);
        return access(path, F_OK) == 0;
}

static void note(const struct place *place)
{
        CHECK_EQ(kuasar_files_note(place->sets, place->digest, place->image), 0);
}

static void test_files_of_an_image_that_is_there_stay(void)
{
        struct place place = make_place();

        note(&place);
        put(&place, "set");
        put(&place, "0.record");
        CHECK_EQ(kuasar_files_sweep(place.sets), 0);
        CHECK(has(&place, "path") && has(&place, "set") && has(&place, "0.record"));
        remove_all(place.root);
}

static void test_files_of_an_image_that_is_gone_or_another_are_removed(void)
{
        for (int is_replaced = 0; is_replaced < 2; is_replaced++) {
                struct place place = make_place(), old;

                note(&place);
                put(&place, "set");
                put(&place, "12.record");
                old = place;
                write_image(&place, 2);
                if (is_replaced)
                        CHECK_EQ(rename(place.image, old.image), 0);
                else
                        CHECK_EQ(unlink(old.image), 0);
                CHECK_EQ(kuasar_files_sweep(place.sets), 0);
                CHECK(!has(&old, "path") && !has(&old, "set") && !has(&old, "12.record"));
                remove_all(place.root);
        }
}

static void test_image_that_cannot_be_looked_at_is_not_taken_for_gone(void)
{
        struct place place = make_place();
        char loop[PATH_BYTES];

        snprintf(loop, sizeof(loop), "%s/loop", place.root);
        CHECK_EQ(symlink(loop, loop), 0);
        CHECK_EQ(kuasar_files_note(place.sets, place.digest, loop), 0);
        put(&place, "set");
        CHECK_EQ(kuasar_files_sweep(place.sets), 0);
        CHECK(has(&place, "set"));
        remove_all(place.root);
}

static void test_what_belongs_to_no_image_stays_until_it_is_tidied(void)
{
        struct place place = make_place();

        put(&place, "set");
        put(&place, "0.record");
        CHECK_EQ(kuasar_files_sweep(place.sets), 0);
        CHECK(has(&place, "set") && has(&place, "0.record"));
        CHECK_EQ(kuasar_files_tidy(place.sets), 0);
        CHECK(!has(&place, "set") && !has(&place, "0.record"));
        remove_all(place.root);
}

static void test_what_a_kill_left_half_done_is_tidied(void)
{
        static const char *const halves[] = {"set.AbCdEf", "1.record.AbCdEf", "path.AbCdEf",
                                             "spoilt",     "record",          "x.record"};
        struct place place = make_place();

        note(&place);
        put(&place, "0.record");
        for (size_t i = 0; i < sizeof(halves) / sizeof(*halves); i++)
                put(&place, halves[i]);
        CHECK_EQ(kuasar_files_tidy(place.sets), 0);
        for (size_t i = 0; i < sizeof(halves) / sizeof(*halves); i++)
                CHECK(!has(&place, halves[i]));
        CHECK(has(&place, "path") && has(&place, "0.record"));
        put(&place, "set"); /* made of it */
        CHECK_EQ(kuasar_files_tidy(place.sets), 0);
        CHECK(has(&place, "path") && has(&place, "set") && !has(&place, "0.record"));
        remove_all(place.root);
}

static void test_files_of_others_are_left_alone(void)
{
        static const char *const names[] = {
                "set", ".set", "README", "0123456789abcdef.set",
                "0000000000000001000000000000000200000000000000030000000000000004",
                "000000000000000100000000000000020000000000000003000000000000000G.set",
                "00000000000000010000000000000002000000000000000300000000000000044.set",
        };
        struct place place = make_place();
        char path[PATH_BYTES];

        note(&place);
        CHECK_EQ(unlink(place.image), 0);
        for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
                snprintf(path, sizeof(path), "%s/%s", place.sets, names[i]);
                write_file(path, "x", 1);
        }
        CHECK_EQ(kuasar_files_tidy(place.sets), 0);
        for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
                snprintf(path, sizeof(path), "%s/%s", place.sets, names[i]);
                CHECK_EQ(access(path, F_OK), 0);
        }
        CHECK(!has(&place, "path"));
        remove_all(place.root);
}

static void test_images_are_dropped_one_by_one(void)
{
        struct place place = make_place(), other;

        note(&place);
        put(&place, "set");
        put(&place, "0.record");
        other = place;
        write_image(&other, 2);
        note(&other);
        put(&other, "set");
        put(&other, "0.record");
        CHECK_EQ(kuasar_files_drop_records(place.sets, place.digest), 0);
        CHECK(has(&place, "set") && has(&place, "path") && !has(&place, "0.record"));
        CHECK_EQ(kuasar_files_drop(place.sets, place.digest), 0);
        CHECK(!has(&place, "set") && !has(&place, "path"));
        CHECK(has(&other, "set") && has(&other, "path") && has(&other, "0.record"));
        CHECK_EQ(kuasar_files_drop(place.sets, place.digest), 0);
        remove_all(place.root);
}

static void test_directory_is_made_or_refused(void)
{
        struct place place = make_place();
        char path[PATH_BYTES], longest[PATH_BYTES];

        snprintf(path, sizeof(path), "%s/new", place.root);
        CHECK_EQ(kuasar_files_open(path), 0);
        CHECK_EQ(kuasar_files_open(path), 0);
        CHECK_EQ(kuasar_files_open(place.image), -ENOTDIR);
        snprintf(path, sizeof(path), "%s/no/new", place.root);
        CHECK_EQ(kuasar_files_open(path), -ENOENT);
        CHECK_EQ(kuasar_files_sweep(path), -ENOENT);
        CHECK_EQ(kuasar_files_tidy(path), -ENOENT);
        CHECK_EQ(kuasar_files_note(path, place.digest, place.image), -ENOENT);
        memset(longest, 'a', sizeof(longest));
        longest[0] = '/';
        longest[sizeof(longest) - 1] = '\0';
        CHECK_EQ(kuasar_files_open(longest), -ENAMETOOLONG);
        remove_all(place.root);
}

/* -- merging --------------------------------------------------------------------------------------- */

static void write_record(const struct place *place, unsigned index, const struct touch *touches, size_t n)
{
        char path[PATH_BYTES];
        struct image image;

        CHECK_EQ(image_open(place->image, &image), 0);
        kuasar_record(place->sets, place->digest, index, path);
        CHECK_EQ(record_write(path, &image, place->digest, touches, n), 0);
        image_close(&image);
}

static const struct touch TOUCHES[] = {
        {.page = 9}, {.page = 3, .flags = TOUCH_WRITTEN}, {.page = 4, .flags = TOUCH_WRITTEN}};

static struct kuasar_merge merge_of(const struct place *place, unsigned n_records)
{
        struct kuasar_merge merge = {
                .directory = place->sets, .image_path = place->image, .n_records = n_records, .budget_pages = 100};

        memcpy(merge.digest, place->digest, sizeof(merge.digest));
        return merge;
}

static void test_records_become_a_working_set(void)
{
        struct place place = make_place();
        struct kuasar_merge merge = merge_of(&place, 2);
        char said[KUASAR_MERGE_SAID_BYTES], path[PATH_BYTES];
        struct working_set set;
        struct image image;
        int fds = count_fds();

        note(&place);
        write_record(&place, 0, TOUCHES, 3);
        write_record(&place, 1, TOUCHES, 3);
        CHECK_EQ(kuasar_merge(&merge, said), 0);
        CHECK(strncmp(said, "{\"pages\":3,", 11) == 0);
        CHECK(has(&place, "path") && has(&place, "set") && !has(&place, "0.record") && !has(&place, "1.record"));
        CHECK_EQ(image_open(place.image, &image), 0);
        kuasar_file(place.sets, place.digest, KUASAR_SET, path);
        CHECK_EQ(working_set_open(path, &image, place.digest, &set), 0);
        CHECK_EQ(set.n_pages, 3);
        CHECK_EQ(set.n_runs, 2);
        working_set_close(&set);
        image_close(&image);
        CHECK_EQ(count_fds(), fds);
        remove_all(place.root);
}

static void test_nothing_is_made_of_an_image_that_was_replaced(void)
{
        struct place place = make_place(), other;
        struct kuasar_merge merge = merge_of(&place, 1);
        char said[KUASAR_MERGE_SAID_BYTES];

        note(&place);
        write_record(&place, 0, TOUCHES, 3);
        other = place;
        write_image(&other, 2);
        CHECK_EQ(rename(other.image, place.image), 0);
        CHECK_EQ(kuasar_merge(&merge, said), -ESTALE);
        CHECK_EQ(said[0], '\0');
        CHECK(!has(&place, "set") && !has(&place, "0.record") && !has(&place, "path"));
        CHECK_EQ(unlink(place.image), 0);
        CHECK_EQ(kuasar_merge(&merge, said), -ESTALE);
        remove_all(place.root);
}

static void test_record_that_is_missing_or_damaged_is_said(void)
{
        static const char *const words[] = {"0.record", "damaged"};

        for (int is_there = 0; is_there < 2; is_there++) {
                struct place place = make_place();
                struct kuasar_merge merge = merge_of(&place, 1);
                char said[KUASAR_MERGE_SAID_BYTES];

                note(&place);
                if (is_there)
                        put(&place, "0.record");
                CHECK_EQ(kuasar_merge(&merge, said), -EPROTO);
                CHECK(strstr(said, words[is_there]));
                CHECK(!strchr(said, '\n'));
                CHECK(!has(&place, "path"));
                remove_all(place.root);
        }
}

/* -- the clerk ------------------------------------------------------------------------------------- */

struct heard {
        struct loop *loop;
        const struct place *place;
        int errors[4], n;
        bool had_set; /* when the last was told */
};

static void hear(const struct kuasar_done *done)
{
        struct heard *heard = done->context;

        heard->errors[heard->n++] = done->error;
        heard->had_set = has(heard->place, "set");
        CHECK(memcmp(done->digest, heard->place->digest, WORKING_SET_DIGEST_BYTES) == 0);
        CHECK(strcmp(done->image_path, heard->place->image) == 0);
        heard->loop->is_over = heard->n == 3;
}

static void test_errands_are_done_one_after_the_other(void)
{
        struct place place = make_place();
        struct kuasar_clerk clerk = {.directory = place.sets, .n_records = 1, .budget_pages = 10};
        struct loop loop;
        struct heard heard = {.loop = &loop, .place = &place};
        struct kuasar_errand errand = {
                .digest = place.digest, .image_path = place.image, .context = &heard, .done = hear};
        int fds = count_fds();

        CHECK_EQ(loop_open(&loop), 0);
        CHECK_EQ(kuasar_clerk_open(&clerk, &loop), 0);
        write_record(&place, 0, TOUCHES, 3);
        errand.order = KUASAR_NOTE;
        CHECK_EQ(kuasar_clerk_send(&clerk, &errand), 0);
        errand.order = KUASAR_MERGE;
        CHECK_EQ(kuasar_clerk_send(&clerk, &errand), 0);
        errand.order = KUASAR_DROP;
        CHECK_EQ(kuasar_clerk_send(&clerk, &errand), 0);
        CHECK_EQ(loop_run(&loop), 0);
        CHECK_EQ(heard.errors[0], 0);
        CHECK_EQ(heard.errors[1], 0);
        CHECK_EQ(heard.errors[2], -ENOENT);
        CHECK(heard.had_set);
        CHECK(has(&place, "path"));
        CHECK(kuasar_clerk_close(&clerk));
        loop_close(&loop);
        CHECK_EQ(count_fds(), fds);
        remove_all(place.root);
}

int main(int argc, char **argv)
{
        /* As kuasar_merge() calls the page server's program. */
        if (argc > 1)
                return working_set_command(argc - 1, argv + 1);
        test_image_names_its_sandbox();
        test_image_elsewhere_names_none();
        test_sandbox_id_fits_its_buffer();
        test_first_record_that_nobody_makes_is_made();
        test_nobody_is_recorded_in_vain();
        test_every_part_of_an_images_identity_is_in_its_name();
        test_mark_of_a_template_that_is_used_up_is_beside_its_snapshot();
        test_files_of_an_image_that_is_there_stay();
        test_files_of_an_image_that_is_gone_or_another_are_removed();
        test_image_that_cannot_be_looked_at_is_not_taken_for_gone();
        test_what_belongs_to_no_image_stays_until_it_is_tidied();
        test_what_a_kill_left_half_done_is_tidied();
        test_files_of_others_are_left_alone();
        test_images_are_dropped_one_by_one();
        test_directory_is_made_or_refused();
        test_records_become_a_working_set();
        test_nothing_is_made_of_an_image_that_was_replaced();
        test_record_that_is_missing_or_damaged_is_said();
        test_errands_are_done_one_after_the_other();
        return 0;
}
