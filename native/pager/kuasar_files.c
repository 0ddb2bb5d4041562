#define _GNU_SOURCE
#include "kuasar_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fdutil.h"
#include "working_set_file.h"

#define HEX_DIGITS (KUASAR_HEX_BYTES - 1)
#define RECORD_SUFFIX ".record"
#define SUFFIX_MAX_BYTES 32 /* of what is made here; whole_file_open() appends 7 */
#define USED_UP "consumed" /* in the template's directory, beside that of its snapshot */

/* -- names ----------------------------------------------------------------------------------------- */

static void put_number(uint8_t *at, uint64_t number)
{
        for (int i = 0; i < 8; i++)
                at[i] = (uint8_t)(number >> (56 - 8 * i));
}

void kuasar_digest(const struct image_identity *identity, uint8_t *ret_digest)
{
        _Static_assert(WORKING_SET_DIGEST_BYTES == 4 * sizeof(uint64_t), "four numbers");

        put_number(ret_digest, identity->device);
        put_number(ret_digest + 8, identity->inode);
        put_number(ret_digest + 16, identity->size_bytes);
        put_number(ret_digest + 24,
                   (uint64_t)identity->modified_s * UINT64_C(1000000000) + (uint64_t)identity->modified_ns);
}

void kuasar_hex(const uint8_t *digest, char *ret_hex)
{
        for (int i = 0; i < WORKING_SET_DIGEST_BYTES; i++)
                snprintf(ret_hex + 2 * i, 3, "%02x", digest[i]);
}

void kuasar_file(const char *directory, const uint8_t *digest, const char *suffix, char *ret_path)
{
        char hex[KUASAR_HEX_BYTES];

        kuasar_hex(digest, hex);
        snprintf(ret_path, JOURNAL_PATH_BYTES, "%s/%s.%s", directory, hex, suffix);
}

void kuasar_record(const char *directory, const uint8_t *digest, unsigned index, char *ret_path)
{
        char suffix[SUFFIX_MAX_BYTES];

        snprintf(suffix, sizeof(suffix), "%u" RECORD_SUFFIX, index);
        kuasar_file(directory, digest, suffix, ret_path);
}

bool kuasar_used_up_mark(const char *image_path, char *ret_path)
{
        size_t n = strlen(image_path);
        int written;

        for (int levels = 0; levels < 2; levels++) {
                while (n > 0 && image_path[n - 1] != '/')
                        n--;
                if (n == 0)
                        return false;
                n--;
        }
        written = snprintf(ret_path, JOURNAL_PATH_BYTES, "%.*s/" USED_UP, (int)n, image_path);
        return written < JOURNAL_PATH_BYTES;
}

/* Returns whether @name is one of ours: of an image, a dot, what it is. */
static bool split(const char *name, char *ret_hex, const char **ret_suffix)
{
        if (strspn(name, "0123456789abcdef") != HEX_DIGITS || name[HEX_DIGITS] != '.')
                return false;
        memcpy(ret_hex, name, HEX_DIGITS);
        ret_hex[HEX_DIGITS] = '\0';
        *ret_suffix = name + HEX_DIGITS + 1;
        return true;
}

static bool is_record(const char *suffix)
{
        size_t n = strspn(suffix, "0123456789");

        return n > 0 && strcmp(suffix + n, RECORD_SUFFIX) == 0;
}

/* -- the directory --------------------------------------------------------------------------------- */

static DIR *open_directory(const char *path)
{
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *directory = fd < 0 ? NULL : fdopendir(fd);

        if (!directory)
                close_fd(fd);
        return directory;
}

static bool has(int fd, const char *hex, const char *suffix)
{
        char name[KUASAR_HEX_BYTES + SUFFIX_MAX_BYTES];

        snprintf(name, sizeof(name), "%s.%s", hex, suffix);
        return faccessat(fd, name, F_OK, 0) == 0;
}

static bool is_any(const char *suffix)
{
        (void)suffix;
        return true;
}

/* Remove the files of one image whose suffix is @wanted; where it was comes last, so that nothing is left of which
 * nobody knows whose it was. */
static int remove_files(const char *path, const char *hex, bool (*wanted)(const char *suffix))
{
        DIR *directory = open_directory(path);
        char found[KUASAR_HEX_BYTES], last[KUASAR_HEX_BYTES + sizeof(KUASAR_PATH)];
        const struct dirent *entry;
        const char *suffix;
        int r = 0;

        if (!directory)
                return -errno;
        while ((entry = readdir(directory)))
                if (split(entry->d_name, found, &suffix) && strcmp(found, hex) == 0 && wanted(suffix) &&
                    strcmp(suffix, KUASAR_PATH) != 0 && unlinkat(dirfd(directory), entry->d_name, 0) < 0)
                        r = -errno;
        snprintf(last, sizeof(last), "%s." KUASAR_PATH, hex);
        if (!r && wanted(KUASAR_PATH) && unlinkat(dirfd(directory), last, 0) < 0 && errno != ENOENT)
                r = -errno;
        closedir(directory);
        return r;
}

int kuasar_files_drop(const char *directory, const uint8_t *digest)
{
        char hex[KUASAR_HEX_BYTES];

        kuasar_hex(digest, hex);
        return remove_files(directory, hex, is_any);
}

int kuasar_files_drop_records(const char *directory, const uint8_t *digest)
{
        char hex[KUASAR_HEX_BYTES];

        kuasar_hex(digest, hex);
        return remove_files(directory, hex, is_record);
}

/* Returns the length of the text in @hex's file, or a negative errno. */
static ssize_t read_path(int directory_fd, const char *hex, char *ret_path, size_t capacity)
{
        char name[KUASAR_HEX_BYTES + sizeof(KUASAR_PATH)];
        ssize_t n;

        snprintf(name, sizeof(name), "%s." KUASAR_PATH, hex);
        _cleanup_close_ int fd = openat(directory_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd < 0)
                return -errno;
        n = read(fd, ret_path, capacity - 1);
        if (n < 0)
                return -errno;
        ret_path[n] = '\0';
        return n;
}

/* Returns whether the image is known not to be where it was. */
static bool is_gone(int directory_fd, const char *hex)
{
        char path[JOURNAL_PATH_BYTES], now[KUASAR_HEX_BYTES];
        uint8_t digest[WORKING_SET_DIGEST_BYTES];
        struct image_identity identity;
        struct stat st;

        if (read_path(directory_fd, hex, path, sizeof(path)) < 0)
                return false;
        if (stat(path, &st) < 0)
                return errno == ENOENT || errno == ENOTDIR;
        identity = file_identity(&st);
        kuasar_digest(&identity, digest);
        kuasar_hex(digest, now);
        return strcmp(now, hex) != 0;
}

int kuasar_files_sweep(const char *path)
{
        DIR *directory = open_directory(path);
        char hex[KUASAR_HEX_BYTES];
        const struct dirent *entry;
        const char *suffix;
        int r = 0, removed;

        if (!directory)
                return -errno;
        while ((entry = readdir(directory))) {
                if (!split(entry->d_name, hex, &suffix) || strcmp(suffix, KUASAR_PATH) != 0 ||
                    !is_gone(dirfd(directory), hex))
                        continue;
                removed = remove_files(path, hex, is_any);
                r = removed ? removed : r;
        }
        closedir(directory);
        return r;
}

/* Returns whether a file is of use: not a file of nobody knows which image, a record that was merged, or one that
 * was never finished. */
static bool is_of_use(int directory_fd, const char *hex, const char *suffix)
{
        if (!has(directory_fd, hex, KUASAR_PATH))
                return false;
        if (is_record(suffix))
                return !has(directory_fd, hex, KUASAR_SET);
        return strcmp(suffix, KUASAR_SET) == 0 || strcmp(suffix, KUASAR_PATH) == 0;
}

int kuasar_files_tidy(const char *path)
{
        int r = kuasar_files_sweep(path);
        DIR *directory = r ? NULL : open_directory(path);
        char hex[KUASAR_HEX_BYTES];
        const struct dirent *entry;
        const char *suffix;

        if (!directory)
                return r ? r : -errno;
        while ((entry = readdir(directory)))
                if (split(entry->d_name, hex, &suffix) && !is_of_use(dirfd(directory), hex, suffix) &&
                    unlinkat(dirfd(directory), entry->d_name, 0) < 0)
                        r = -errno;
        closedir(directory);
        return r;
}

int kuasar_files_open(const char *path)
{
        struct stat st;

        if (strlen(path) + 1 + KUASAR_HEX_BYTES + SUFFIX_MAX_BYTES > JOURNAL_PATH_BYTES)
                return -ENAMETOOLONG;
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
                return -errno;
        if (stat(path, &st) < 0)
                return -errno;
        if (!S_ISDIR(st.st_mode))
                return -ENOTDIR;
        return access(path, R_OK | W_OK | X_OK) < 0 ? -errno : 0;
}

int kuasar_files_note(const char *directory, const uint8_t *digest, const char *image_path)
{
        char path[JOURNAL_PATH_BYTES];
        ssize_t length = (ssize_t)strlen(image_path), n;

        kuasar_file(directory, digest, KUASAR_PATH, path);
        /* One that is cut short by a power failure names nothing, and what belongs to it is removed. */
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return -errno;
        n = write(fd, image_path, (size_t)length);
        if (n < 0)
                return -errno;
        return n == length ? 0 : -ENOSPC;
}
