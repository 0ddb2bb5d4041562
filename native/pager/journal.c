#define _GNU_SOURCE
#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "fdutil.h"

static const char MAGIC[8] = "snap-vm";

static uint64_t bitmap_bytes(uint64_t pages)
{
        return (pages / 64 + 1) * sizeof(uint64_t);
}

static uint64_t file_bytes(uint64_t pages)
{
        return sizeof(struct journal_head) + 2 * bitmap_bytes(pages);
}

int journal_check_directory(int directory_fd)
{
        struct statfs fs;

        if (fstatfs(directory_fd, &fs) < 0)
                return -errno;
        return fs.f_type == TMPFS_MAGIC ? 0 : -EMEDIUMTYPE;
}

static void name_of(const char *vm, char *ret_name, size_t capacity)
{
        snprintf(ret_name, capacity, "%.*s%s", JOURNAL_ID_BYTES - 1, vm, JOURNAL_SUFFIX);
}

static int map(int fd, uint64_t bytes, struct journal *ret_journal)
{
        struct journal_head *head = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

        if (head == MAP_FAILED)
                return -errno;
        if (mlock(head, bytes) < 0) {
                int r = -errno;

                munmap(head, bytes);
                return r;
        }
        ret_journal->head = head;
        return 0;
}

static void find_bitmaps(struct journal *journal)
{
        uint64_t words = bitmap_bytes(journal->head->n_pages) / sizeof(uint64_t);

        journal->removed = (uint64_t *)(journal->head + 1);
        journal->installed = journal->removed + words;
}

static int fill(int fd, const struct journal_head *facts, struct journal *ret_journal)
{
        uint64_t bytes = file_bytes(facts->n_pages);
        struct journal_head *head;
        int r = -posix_fallocate(fd, 0, (off_t)bytes);

        r = r ? r : map(fd, bytes, ret_journal);
        if (r)
                return r;
        head = ret_journal->head;
        *head = *facts;
        memcpy(head->magic, MAGIC, sizeof(MAGIC));
        head->version = JOURNAL_VERSION;
        head->file_bytes = bytes;
        head->is_live = 0;
        head->counters = (struct journal_counters){0};
        head->next_run = 0;
        /* Writing makes its pages writable in the page table: the kernel's copy meets no fault. */
        memset(head->ring, 0, sizeof(head->ring));
        find_bitmaps(ret_journal);
        memset(ret_journal->removed, 0, 2 * bitmap_bytes(head->n_pages));
        journal_order();
        head->is_live = 1;
        journal_order();
        return 0;
}

int journal_create(int directory_fd, const struct journal_head *facts, struct journal *ret_journal)
{
        char name[JOURNAL_ID_BYTES + sizeof(JOURNAL_SUFFIX)];
        struct journal journal = {0};
        int r;

        name_of(facts->vm, name, sizeof(name));
        _cleanup_close_ int fd = openat(directory_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0)
                return -errno;
        r = fill(fd, facts, &journal);
        if (r) {
                journal_close(&journal);
                unlinkat(directory_fd, name, 0);
                return r;
        }
        *ret_journal = journal;
        return 0;
}

static bool is_text(const char *text, size_t capacity)
{
        return memchr(text, '\0', capacity) != NULL;
}

static bool are_regions_sound(const struct journal_head *head)
{
        uint64_t pages = 0;

        if (head->n_regions == 0 || head->n_regions > HANDSHAKE_MAX_REGIONS)
                return false;
        for (uint64_t i = 0; i < head->n_regions; i++) {
                const struct region *region = &head->regions[i];
                uint64_t page = region->page_bytes;

                if (page < IMAGE_PAGE_BYTES || page > UINT64_C(1) << 30 || page & (page - 1) || region->size_bytes % page ||
                    region->size_bytes == 0 || region->address % page || region->offset % page)
                        return false;
                if (region->address + region->size_bytes <= region->address ||
                    region->offset + region->size_bytes <= region->offset)
                        return false;
                if (i > 0 && region->address - head->regions[i - 1].address < head->regions[i - 1].size_bytes)
                        return false;
                pages += region->size_bytes / page;
        }
        return pages == head->n_pages;
}

static bool is_sound(const struct journal_head *head)
{
        return is_text(head->vm, sizeof(head->vm)) && is_text(head->why, sizeof(head->why)) &&
               is_text(head->image_path, sizeof(head->image_path)) &&
               is_text(head->working_set_path, sizeof(head->working_set_path)) && head->vm[0] &&
               head->pid > 0 && are_regions_sound(head) && head->fault_around_pages >= 1;
}

static int check(const struct journal *journal, const char *name, uint64_t bytes)
{
        const struct journal_head *head = journal->head;
        char expected[JOURNAL_ID_BYTES + sizeof(JOURNAL_SUFFIX)];

        if (memcmp(head->magic, MAGIC, sizeof(MAGIC)) != 0)
                return -ENODATA;
        if (head->version != JOURNAL_VERSION)
                return -EPROTONOSUPPORT;
        if (!head->is_live)
                return -ENODATA;
        if (head->n_pages > bytes * 8 || head->file_bytes != bytes || file_bytes(head->n_pages) != bytes ||
            !is_sound(head))
                return -EBADMSG;
        name_of(head->vm, expected, sizeof(expected));
        return strcmp(name, expected) == 0 ? 0 : -EBADMSG;
}

int journal_open(int directory_fd, const char *name, struct journal *ret_journal)
{
        _cleanup_close_ int fd = openat(directory_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        struct journal journal = {0};
        struct stat st;
        int r;

        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -EBADMSG;
        if ((uint64_t)st.st_size < sizeof(struct journal_head))
                return -ENODATA;
        r = map(fd, (uint64_t)st.st_size, &journal);
        if (r)
                return r;
        r = check(&journal, name, (uint64_t)st.st_size);
        if (r) {
                munmap(journal.head, (size_t)st.st_size);
                return r;
        }
        find_bitmaps(&journal);
        *ret_journal = journal;
        return 0;
}

void journal_close(struct journal *journal)
{
        if (journal->head)
                munmap(journal->head, file_bytes(journal->head->n_pages));
        *journal = (struct journal){0};
}

int journal_remove(int directory_fd, const char *vm)
{
        char name[JOURNAL_ID_BYTES + sizeof(JOURNAL_SUFFIX)];

        name_of(vm, name, sizeof(name));
        return unlinkat(directory_fd, name, 0) < 0 ? -errno : 0;
}
