/* A machine's journal: written whole, found again, refused when it cannot be believed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "fdutil.h"
#include "journal.h"

#define PAGES 1000
#define PAGE 4096

/* A directory on tmpfs that is gone afterwards. */
struct place {
        char path[64];
        int fd;
};

static struct place make_place(void)
{
        struct place place = {.path = "/dev/shm/test-journal-XXXXXX"};

        CHECK(mkdtemp(place.path));
        place.fd = open(place.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        CHECK(place.fd >= 0);
        return place;
}

static void remove_place(struct place *place)
{
        unlinkat(place->fd, "m1.vm", 0);
        unlinkat(place->fd, "other.vm", 0);
        place->fd = close_fd(place->fd);
        CHECK_EQ(rmdir(place->path), 0);
}

static struct journal_head *make_facts(void)
{
        struct journal_head *facts = aligned_alloc(_Alignof(struct journal_head), sizeof(*facts));

        CHECK(facts);
        memset(facts, 0, sizeof(*facts));
        strcpy(facts->vm, "m1");
        strcpy(facts->image_path, "/images/one");
        facts->pid = 42;
        facts->start_ticks = 4711;
        facts->fault_around_pages = 16;
        facts->n_regions = 2;
        facts->regions[0] = (struct region){.address = 0x10000000, .size_bytes = 600 * PAGE, .page_bytes = PAGE};
        facts->regions[1] = (struct region){
                .address = 0x20000000, .size_bytes = 400 * PAGE, .offset = 600 * PAGE, .page_bytes = PAGE};
        facts->n_pages = PAGES;
        return facts;
}

static struct journal create(const struct place *place)
{
        struct journal_head *facts = make_facts();
        struct journal journal;

        CHECK_EQ(journal_create(place->fd, facts, &journal), 0);
        free(facts);
        return journal;
}

static void test_what_was_marked_is_found_by_a_successor(void)
{
        struct place place = make_place();
        struct journal first = create(&place), second;

        journal_mark(first.removed, 0);
        journal_mark(first.removed, PAGES - 1);
        journal_mark(first.installed, 63);
        first.head->ring[2].event = UFFD_EVENT_REMOVE;
        first.head->counters.faults = 9;
        /* Nothing is closed, as after a kill. */
        CHECK_EQ(journal_open(place.fd, "m1.vm", &second), 0);
        CHECK(journal_has(second.removed, 0) && journal_has(second.removed, PAGES - 1));
        CHECK(!journal_has(second.removed, 1) && !journal_has(second.installed, 0));
        CHECK(journal_has(second.installed, 63));
        CHECK_EQ(second.head->ring[2].event, UFFD_EVENT_REMOVE);
        CHECK_EQ(second.head->counters.faults, 9);
        CHECK_EQ(second.head->start_ticks, 4711);
        journal_close(&second);
        journal_close(&second);
        journal_close(&first);
        CHECK_EQ(journal_remove(place.fd, "m1"), 0);
        CHECK_EQ(journal_remove(place.fd, "m1"), -ENOENT);
        remove_place(&place);
}

static void test_a_machine_has_one_journal(void)
{
        struct place place = make_place();
        struct journal first = create(&place), second = {0};
        struct journal_head *facts = make_facts();

        CHECK_EQ(journal_create(place.fd, facts, &second), -EEXIST);
        CHECK(!second.head);
        free(facts);
        journal_close(&first);
        remove_place(&place);
}

static void test_its_pages_are_locked_and_in_memory(void)
{
        struct place place = make_place();
        struct journal journal = create(&place);
        unsigned char there[sizeof(struct journal_head) / PAGE];

        CHECK_EQ(mincore(journal.head, sizeof(*journal.head), there), 0);
        for (size_t i = 0; i < sizeof(there); i++)
                CHECK(there[i] & 1);
        CHECK_EQ((uintptr_t)journal.head->ring % PAGE, 0);
        journal_close(&journal);
        remove_place(&place);
}

/* One way to spoil a journal, and what is said of it. */
struct spoil {
        const char *name;
        void (*change)(struct journal_head *head);
        int expected;
};

static void unfinished(struct journal_head *head) { head->is_live = 0; }
static void other_program(struct journal_head *head) { head->magic[0] = 'x'; }
static void other_version(struct journal_head *head) { head->version++; }
static void more_pages(struct journal_head *head) { head->n_pages++; }
static void endless_pages(struct journal_head *head) { head->n_pages = UINT64_MAX; }
static void no_regions(struct journal_head *head) { head->n_regions = 0; }
static void many_regions(struct journal_head *head) { head->n_regions = HANDSHAKE_MAX_REGIONS + 1; }
static void endless_name(struct journal_head *head) { memset(head->vm, 'a', sizeof(head->vm)); }
static void other_name(struct journal_head *head) { strcpy(head->vm, "m2"); }
static void endless_path(struct journal_head *head) { memset(head->image_path, 'a', sizeof(head->image_path)); }
static void nobody(struct journal_head *head) { head->pid = 0; }
static void everybody(struct journal_head *head) { head->pid = -1; }
static void overlap(struct journal_head *head) { head->regions[1].address = head->regions[0].address + PAGE; }
static void odd_page(struct journal_head *head) { head->regions[0].page_bytes = 3 * PAGE; }
static void no_page(struct journal_head *head) { head->regions[0].page_bytes = 0; }
static void no_size(struct journal_head *head) { head->regions[0].size_bytes = 0; }
static void wrap(struct journal_head *head) { head->regions[1].address = 0 - (uint64_t)400 * PAGE; }
static void far(struct journal_head *head) { head->regions[1].offset = 0 - (uint64_t)PAGE; }
static void other_size(struct journal_head *head) { head->file_bytes += PAGE; }

static const struct spoil SPOILS[] = {
        {"unfinished", unfinished, -ENODATA},   {"other program", other_program, -ENODATA},
        {"other version", other_version, -EPROTONOSUPPORT},
        {"more pages", more_pages, -EBADMSG},   {"endless pages", endless_pages, -EBADMSG},
        {"no regions", no_regions, -EBADMSG},   {"many regions", many_regions, -EBADMSG},
        {"endless name", endless_name, -EBADMSG}, {"other name", other_name, -EBADMSG},
        {"endless path", endless_path, -EBADMSG}, {"nobody", nobody, -EBADMSG},
        {"everybody", everybody, -EBADMSG},     {"overlap", overlap, -EBADMSG},
        {"odd page", odd_page, -EBADMSG},       {"no page", no_page, -EBADMSG},
        {"wrap", wrap, -EBADMSG},               {"far", far, -EBADMSG},
        {"no size", no_size, -EBADMSG},         {"other size", other_size, -EBADMSG},
};

static void test_what_cannot_be_believed_is_refused(void)
{
        for (size_t i = 0; i < sizeof(SPOILS) / sizeof(*SPOILS); i++) {
                struct place place = make_place();
                struct journal journal = create(&place), again = {0};
                size_t bytes = journal.head->file_bytes;
                void *mapping = journal.head;

                SPOILS[i].change(journal.head);
                if (journal_open(place.fd, "m1.vm", &again) != SPOILS[i].expected)
                        fprintf(stderr, "spoiled by: %s\n", SPOILS[i].name);
                CHECK_EQ(journal_open(place.fd, "m1.vm", &again), SPOILS[i].expected);
                CHECK(!again.head);
                munmap(mapping, bytes);
                remove_place(&place);
        }
}

static void test_what_is_cut_or_no_file_is_refused(void)
{
        struct place place = make_place();
        struct journal journal = create(&place), again;
        size_t bytes = journal.head->file_bytes;

        journal_close(&journal);
        _cleanup_close_ int fd = openat(place.fd, "m1.vm", O_RDWR | O_CLOEXEC);
        CHECK_EQ(ftruncate(fd, (off_t)bytes - 1), 0);
        CHECK_EQ(journal_open(place.fd, "m1.vm", &again), -EBADMSG);
        CHECK_EQ(ftruncate(fd, 100), 0);
        CHECK_EQ(journal_open(place.fd, "m1.vm", &again), -ENODATA);
        CHECK_EQ(symlinkat("m1.vm", place.fd, "other.vm"), 0);
        CHECK_EQ(journal_open(place.fd, "other.vm", &again), -ELOOP);
        CHECK_EQ(unlinkat(place.fd, "other.vm", 0), 0);
        CHECK_EQ(mkfifoat(place.fd, "other.vm", 0600), 0);
        CHECK_EQ(journal_open(place.fd, "other.vm", &again), -EBADMSG);
        CHECK_EQ(journal_open(place.fd, "none.vm", &again), -ENOENT);
        remove_place(&place);
}

static void test_only_a_tmpfs_will_do(void)
{
        struct place place = make_place();
        _cleanup_close_ int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        CHECK_EQ(journal_check_directory(place.fd), 0);
        CHECK_EQ(journal_check_directory(proc), -EMEDIUMTYPE);
        remove_place(&place);
}

int main(void)
{
        int fds = count_fds();

        test_what_was_marked_is_found_by_a_successor();
        test_a_machine_has_one_journal();
        test_its_pages_are_locked_and_in_memory();
        test_what_cannot_be_believed_is_refused();
        test_what_is_cut_or_no_file_is_refused();
        test_only_a_tmpfs_will_do();
        CHECK_EQ(count_fds(), fds);
        return 0;
}
