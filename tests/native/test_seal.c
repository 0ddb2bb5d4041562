/* A sealed copy is the same image, is sparse, and has hashes that depend on content alone. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "seal.h"

#define PAGE SEAL_PAGE_BYTES
#define PAGES 2048U
#define SIZE (PAGES * PAGE)
#define CHUNK (64 * PAGE)
#define CHUNKS (PAGES / 64)

static const struct limits forever = { INT64_MAX, -1 };

static int file_in(const char *directory)
{
        char path[PATH_MAX];
        int fd;

        snprintf(path, sizeof(path), "%s/snapstart-XXXXXX", directory);
        fd = mkostemp(path, O_CLOEXEC);
        CHECK(fd >= 0);
        unlink(path);
        return fd;
}

static int memory(void)
{
        int fd = memfd_create("seal", MFD_CLOEXEC);

        CHECK(fd >= 0);
        return fd;
}

/* Fill random pages; write some zero pages too, which are data to the kernel but not to us. */
static uint64_t fill(int fd)
{
        static uint8_t page[PAGE];
        uint64_t data = 0;

        CHECK_EQ(ftruncate(fd, SIZE), 0);
        for (unsigned i = 0; i < PAGES; i++) {
                long kind = random() % 8;

                if (kind > 3 || i / 64 == 5)
                        continue;
                memset(page, 0, PAGE);
                if (kind > 0) {
                        page[random() % PAGE] = 1; /* the hardest page to tell from zero */
                        data += PAGE;
                }
                CHECK_EQ(pwrite(fd, page, PAGE, (off_t)i * PAGE), PAGE);
        }
        return data;
}

static bool is_same(int left, int right)
{
        static uint8_t a[SIZE], b[SIZE];

        CHECK_EQ(pread(left, a, SIZE, 0), SIZE);
        CHECK_EQ(pread(right, b, SIZE, 0), SIZE);
        return memcmp(a, b, SIZE) == 0;
}

static blkcnt_t blocks(int fd)
{
        struct stat st;

        CHECK_EQ(fstat(fd, &st), 0);
        return st.st_blocks;
}

static void test_round_trip(int src, int dst)
{
        uint64_t data = fill(src), first[CHUNKS], second[CHUNKS];
        blkcnt_t before = blocks(src);
        struct seal_result result;
        int back = memory();

        CHECK_EQ(seal_copy(src, dst, SIZE, CHUNK, &forever, first, &result), 0);
        CHECK_EQ(result.data_bytes, data);
        CHECK(blocks(src) <= before); /* no hole was touched */
        CHECK(blocks(dst) < before);  /* zero pages are gone */
        CHECK(is_same(src, dst));
        CHECK_EQ(seal_copy(dst, back, SIZE, CHUNK, &forever, second, &result), 0);
        CHECK(memcmp(first, second, sizeof(first)) == 0);
        CHECK(blocks(back) <= (blkcnt_t)(data / 512));
        CHECK_EQ(seal_copy(back, -1, SIZE, CHUNK, &forever, second, &result), 0);
        CHECK(memcmp(first, second, sizeof(first)) == 0);
        CHECK_EQ(seal_copy(src, dst, SIZE, CHUNK, &forever, second, &result), -ENOTEMPTY);
        close(src), close(dst), close(back);
}

static void hash(int fd, uint64_t *hashes)
{
        struct seal_result result;

        CHECK_EQ(seal_copy(fd, -1, SIZE, CHUNK, &forever, hashes, &result), 0);
}

/* One change of one byte, or one page moved or cleared, changes the hash of its chunk only. */
static void test_hash_sees_every_change(void)
{
        uint64_t before[CHUNKS], after[CHUNKS];
        uint8_t page[PAGE] = { 1 };
        int fd = memory();

        fill(fd);
        CHECK_EQ(pwrite(fd, page, PAGE, 70 * PAGE), PAGE);
        CHECK_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 71 * PAGE, PAGE), 0);
        hash(fd, before);
        page[4095] = 2;
        CHECK_EQ(pwrite(fd, page, PAGE, 70 * PAGE), PAGE);
        hash(fd, after);
        for (unsigned i = 0; i < CHUNKS; i++)
                CHECK_EQ(before[i] != after[i], i == 1);
        page[4095] = 0;
        CHECK_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 70 * PAGE, PAGE), 0);
        CHECK_EQ(pwrite(fd, page, PAGE, 71 * PAGE), PAGE);
        hash(fd, after);
        CHECK(before[1] != after[1]);
        CHECK_EQ(pwrite(fd, page, PAGE, 70 * PAGE), PAGE);
        page[0] = 0;
        CHECK_EQ(pwrite(fd, page, PAGE, 71 * PAGE), PAGE);
        hash(fd, after);
        CHECK(memcmp(before, after, sizeof(before)) == 0); /* written zeros are a hole */
        close(fd);
}

static void test_failures(void)
{
        uint64_t hashes[CHUNKS];
        struct seal_result result = { 7 };
        int src = memory(), dst = memory(), cancel = eventfd(1, EFD_CLOEXEC);
        const struct limits cancelled = { INT64_MAX, cancel }, late = { 1, -1 };

        fill(src);
        CHECK_EQ(seal_copy(src, dst, SIZE + PAGE, CHUNK, &forever, hashes, &result), -ENODATA);
        CHECK_EQ(seal_copy(src, dst, SIZE - 1, CHUNK, &forever, hashes, &result), -EINVAL);
        CHECK_EQ(seal_copy(src, dst, SIZE, 1, &forever, hashes, &result), -EINVAL);
        CHECK_EQ(seal_copy(src, dst, SIZE, 0, &forever, hashes, &result), -EINVAL);
        CHECK_EQ(seal_copy(src, dst, UINT64_MAX - 4095, CHUNK, &forever, hashes, &result), -EINVAL);
        CHECK_EQ(seal_copy(src, 900, SIZE, CHUNK, &forever, hashes, &result), -EBADF);
        CHECK_EQ(seal_copy(src, dst, SIZE, CHUNK, &cancelled, hashes, &result), -ECANCELED);
        CHECK_EQ(seal_copy(src, dst, SIZE, CHUNK, &late, hashes, &result), -ETIMEDOUT);
        CHECK_EQ(result.data_bytes, 7);
        CHECK_EQ(seal_chunks(SIZE + 1, CHUNK), CHUNKS + 1);
        CHECK_EQ(seal_chunks(UINT64_MAX, 1), UINT64_MAX);
        close(src), close(dst), close(cancel);
}

static void test_empty_and_full_images(void)
{
        static uint8_t ones[SIZE];
        uint64_t empty[CHUNKS], full[CHUNKS];
        struct seal_result result;
        int src = memory(), dst = memory();

        CHECK_EQ(ftruncate(src, SIZE), 0);
        CHECK_EQ(seal_copy(src, dst, SIZE, CHUNK, &forever, empty, &result), 0);
        CHECK_EQ(result.data_bytes, 0);
        CHECK_EQ(blocks(src) + blocks(dst), 0);
        memset(ones, 1, sizeof(ones));
        CHECK_EQ(pwrite(src, ones, SIZE, 0), SIZE);
        CHECK_EQ(seal_copy(src, dst, SIZE, CHUNK, &forever, full, &result), 0);
        CHECK_EQ(result.data_bytes, SIZE);
        CHECK(is_same(src, dst));
        CHECK(full[0] != full[1]); /* the same pages elsewhere */
        close(src), close(dst);
}

int main(void)
{
        int before = count_fds();

        srandom(1);
        test_round_trip(memory(), memory());
        test_round_trip(memory(), file_in("/tmp"));
        test_round_trip(file_in("/dev/shm"), file_in("/tmp"));
        test_round_trip(file_in("/tmp"), memory());
        test_hash_sees_every_change();
        test_failures();
        test_empty_and_full_images();
        CHECK_EQ(count_fds(), before);
        return 0;
}
