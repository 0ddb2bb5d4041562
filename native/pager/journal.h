/* What must be known of a machine after the page server's death, in memory that outlives it.
 *
 * One file for each machine, in a directory on tmpfs, mapped shared and locked. Why nothing that was
 * consumed can be lost:
 *
 * - read(2) on the userfaultfd writes events straight into the ring here. Its pages are resident and
 *   writable, so the kernel's copy cannot fail, and a kill takes effect only when the call returns: an event
 *   is still in the kernel's queue, or it is here. Slots are zero before the read, which tells a successor
 *   what is new without the read's result.
 * - A removal is carried over into the bit map before its slot is cleared. Doing it twice is harmless.
 * - A fault that was read but not served is not remembered: the successor wakes the whole range, and who
 *   still waits faults again.
 * - A page that was being installed is installed, or is not: the kernel tells (EEXIST).
 *
 * The file is written whole, then said to be live, in this order. Shared memory needs no more than the
 * order of the program to survive its process; it does not survive the machine, nor do its users. */
#ifndef SNAPSTART_JOURNAL_H
#define SNAPSTART_JOURNAL_H

#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "handshake.h"
#include "image.h"
#include "working_set.h"

#define JOURNAL_VERSION 2
#define JOURNAL_ID_BYTES 128 /* with the NUL */
#define JOURNAL_PATH_BYTES 4096
#define JOURNAL_WHY_BYTES 160
#define JOURNAL_RING 128 /* events, of 32 bytes: one page */
#define JOURNAL_SUFFIX ".vm"

enum journal_keeper {
        KEPT_BY_VMM = 1, /* its process holds the userfaultfd, at a known number */
        KEPT_BY_KEEPER = 2, /* the supervisor or systemd does, under the machine's name */
};

/* Since the machine was handed over. */
struct journal_counters {
        uint64_t faults; /* pages asked for before they were there */
        uint64_t prefetched; /* pages of the working set installed unasked */
        uint64_t copied, shared, zeroed; /* pages, by how they came */
        uint64_t removed; /* pages given back by the guest, each time */
        uint64_t stalls; /* faults served later than STALL_US after they were read */
        uint64_t max_stall_us;
};

struct journal_head {
        char magic[8];
        uint32_t version;
        uint32_t is_live; /* everything below is written */
        uint64_t file_bytes;

        char vm[JOURNAL_ID_BYTES];
        int32_t pid; /* of the monitor */
        uint32_t protocol; /* enum handshake_protocol */
        uint64_t start_ticks; /* of the monitor: with the pid, one process for ever */
        int32_t uffd_number, memfd_number; /* in the monitor; below 0: none */
        uint64_t uffd_device, uffd_inode, features;
        uint32_t kept_by; /* enum journal_keeper, both bits possible */
        uint32_t method; /* enum method */
        uint32_t from_data, fault_around_pages;
        char why[JOURNAL_WHY_BYTES];

        char image_path[JOURNAL_PATH_BYTES]; /* empty: the image is the monitor's memfd */
        char working_set_path[JOURNAL_PATH_BYTES]; /* empty: none */
        uint8_t digest[WORKING_SET_DIGEST_BYTES];
        struct image_identity identity;

        uint64_t n_pages; /* of all regions, each in its own page size */
        uint64_t n_regions;
        struct region regions[HANDSHAKE_MAX_REGIONS];

        struct journal_counters counters;
        uint64_t next_run; /* of the working set: those before it are installed */

        struct uffd_msg ring[JOURNAL_RING] __attribute__((aligned(4096)));
};

struct journal {
        struct journal_head *head; /* mapped shared, locked; owned */
        uint64_t *removed, *installed; /* one bit for each page of the machine; in the same mapping */
};

/* Check that @directory_fd is on tmpfs, which keeps pages in memory. Returns 0, -EMEDIUMTYPE if it is on
 * something else, or another negative errno. */
int journal_check_directory(int directory_fd);

/* Write a machine's file. @facts: everything up to n_regions, and the regions; the rest is set here.
 * Returns 0, -EEXIST if the machine has one, or another negative errno (-ENOMEM, -EPERM: memory may not be
 * locked). */
int journal_create(int directory_fd, const struct journal_head *facts, struct journal *ret_journal);

/* Open the file @name that a predecessor wrote, checking all of it.
 * Returns 0, -ENODATA if it was never finished, -EPROTONOSUPPORT if it is of another version, -EBADMSG
 * if it is damaged, or another negative errno. */
int journal_open(int directory_fd, const char *name, struct journal *ret_journal);

/* Unmap. Closing it twice is harmless. */
void journal_close(struct journal *journal);

/* Remove the file of machine @vm. Returns 0 or a negative errno. */
int journal_remove(int directory_fd, const char *vm);

/* Other threads may mark pages meanwhile, by journal_mark_together(). */
static inline bool journal_has(const uint64_t *bits, uint64_t page)
{
        return (__atomic_load_n(&bits[page / 64], __ATOMIC_RELAXED) >> (page % 64)) & 1;
}

/* Every store to the journal is one a successor may read: none may be put off or reordered. */
static inline void journal_order(void)
{
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static inline void journal_mark(uint64_t *bits, uint64_t page)
{
        volatile uint64_t *word = &bits[page / 64];

        *word |= UINT64_C(1) << (page % 64);
}

/* As journal_mark(), of the pages from @from up to @to. */
static inline void journal_mark_range(uint64_t *bits, uint64_t from, uint64_t to)
{
        for (; from < to && from % 64; from++)
                journal_mark(bits, from);
        for (; to - from >= 64; from += 64)
                *(volatile uint64_t *)&bits[from / 64] = UINT64_MAX;
        for (; from < to; from++)
                journal_mark(bits, from);
}

/* As journal_mark_range(), while other threads mark other pages in this way. */
static inline void journal_mark_together(uint64_t *bits, uint64_t from, uint64_t to)
{
        while (from < to) {
                uint64_t end = (from / 64 + 1) * 64 < to ? (from / 64 + 1) * 64 : to;
                uint64_t mask = (end - from == 64 ? UINT64_MAX : (UINT64_C(1) << (end - from)) - 1) << (from % 64);

                __atomic_fetch_or(&bits[from / 64], mask, __ATOMIC_RELAXED);
                from = end;
        }
}

#endif
