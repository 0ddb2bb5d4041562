#define _GNU_SOURCE
#include "kuasar_merge.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fdutil.h"

#define OPTIONS 10

/* What the process is asked. */
struct request {
        char image[32]; /* a descriptor's: whatever the image's own path means by then */
        char hex[KUASAR_HEX_BYTES], set[JOURNAL_PATH_BYTES], budget[24];
        char records[KUASAR_RECORDS_MAX][JOURNAL_PATH_BYTES];
        const char *argv[OPTIONS + KUASAR_RECORDS_MAX + 1];
};

static struct request *make_request(const struct kuasar_merge *merge, int image_fd)
{
        struct request *request = calloc(1, sizeof(*request));

        if (!request)
                return NULL;
        snprintf(request->image, sizeof(request->image), "/proc/self/fd/%d", image_fd);
        kuasar_hex(merge->digest, request->hex);
        kuasar_file(merge->directory, merge->digest, KUASAR_SET, request->set);
        snprintf(request->budget, sizeof(request->budget), "%" PRIu64, merge->budget_pages);
        memcpy(request->argv,
               (const char *const[OPTIONS]){"snap-pager", "working-set", "--image", request->image, "--digest",
                                            request->hex, "--out", request->set, "--budget-pages", request->budget},
               OPTIONS * sizeof(*request->argv));
        for (unsigned i = 0; i < merge->n_records; i++) {
                kuasar_record(merge->directory, merge->digest, i, request->records[i]);
                request->argv[OPTIONS + i] = request->records[i];
        }
        return request;
}

/* In the process, which ends with this one. All our other descriptors are closed on its way. */
static void become(const struct request *request, int image_fd, int said_fd, pid_t parent)
{
        sigset_t none;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent || dup2(said_fd, STDOUT_FILENO) < 0 || dup2(said_fd, STDERR_FILENO) < 0 ||
            fcntl(image_fd, F_SETFD, 0) < 0)
                _exit(EXIT_FAILURE);
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        execv("/proc/self/exe", (char *const *)request->argv);
        _exit(EXIT_FAILURE);
}

/* Read all that the process says, keeping the beginning. */
static void hear(int fd, char *said, size_t capacity)
{
        char rest[256];
        size_t length = 0;
        ssize_t n;

        do {
                bool is_full = length == capacity - 1;

                n = is_full ? read(fd, rest, sizeof(rest)) : read(fd, said + length, capacity - 1 - length);
                length += n > 0 && !is_full ? (size_t)n : 0;
        } while (n > 0 || (n < 0 && errno == EINTR));
        said[length] = '\0';
        said[strcspn(said, "\n")] = '\0';
}

static int await(pid_t pid)
{
        int status;

        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return -errno;
        return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EPROTO;
}

static int run(const struct request *request, int image_fd, char *said)
{
        _cleanup_close_ int reading = FD_NONE, writing = FD_NONE;
        pid_t parent = getpid(), pid;
        int ends[2];

        if (pipe2(ends, O_CLOEXEC) < 0)
                return -errno;
        reading = ends[0];
        writing = ends[1];
        pid = fork();
        if (pid == 0)
                become(request, image_fd, writing, parent);
        if (pid < 0)
                return -errno;
        writing = close_fd(writing);
        hear(reading, said, KUASAR_MERGE_SAID_BYTES);
        return await(pid);
}

/* Open the image if it still is the one that was recorded. */
static int open_image(const struct kuasar_merge *merge, struct image *ret_image)
{
        uint8_t digest[WORKING_SET_DIGEST_BYTES];
        int r = image_take(merge->image_path, ret_image);

        if (r)
                return r == -ENOENT ? -ESTALE : r;
        kuasar_digest(&ret_image->identity, digest);
        if (memcmp(digest, merge->digest, sizeof(digest)) == 0)
                return 0;
        image_close(ret_image);
        return -ESTALE;
}

static int make_set(const struct kuasar_merge *merge, const struct image *image, char *said)
{
        struct request *request = make_request(merge, image->fd);
        int r = request ? run(request, image->fd, said) : -ENOMEM;

        free(request);
        return r ? r : image_check(image);
}

int kuasar_merge(const struct kuasar_merge *merge, char *ret_said)
{
        struct image image;
        int r = open_image(merge, &image);

        ret_said[0] = '\0';
        if (!r) {
                r = make_set(merge, &image, ret_said);
                image_close(&image);
        }
        if (r)
                kuasar_files_drop(merge->directory, merge->digest);
        else
                kuasar_files_drop_records(merge->directory, merge->digest);
        return r;
}
