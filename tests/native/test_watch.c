/* Inotify instances are lent out again, clean, to one thread at a time. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "fdutil.h"
#include "watch.h"

#define THREADS (2 * WATCH_IDLE_MAX)
#define ROUNDS 25

static char root[] = "/tmp/test-watch-XXXXXX";

/* Make the directory @name below the root; its path lands in @path. */
static void make_directory(const char *name, char path[PATH_MAX])
{
        CHECK(snprintf(path, PATH_MAX, "%s/%s", root, name) < PATH_MAX);
        CHECK_EQ(mkdir(path, 0700), 0);
}

static void make_file(const char *directory, const char *name)
{
        char path[PATH_MAX + 64];

        snprintf(path, sizeof(path), "%s/%s", directory, name);
        CHECK_EQ(close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600)), 0);
}

static bool has_news(const struct watch *watch, int timeout_ms)
{
        struct pollfd fd = { .fd = watch->fd, .events = POLLIN };

        return poll(&fd, 1, timeout_ms) == 1;
}

static void test_an_instance_is_used_again(void)
{
        char directory[PATH_MAX];
        struct watch watch;
        int fd, before = count_fds();

        make_directory("again", directory);
        CHECK_EQ(watch_open(&watch, directory), 0);
        fd = watch.fd;
        CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        watch_close(&watch);
        watch_close(&watch);
        CHECK_EQ(watch.fd, FD_NONE);
        CHECK_EQ(count_fds(), before + 1);
        CHECK_EQ(watch_open(&watch, directory), 0);
        CHECK_EQ(watch.fd, fd);
        CHECK_EQ(count_fds(), before + 1);
        watch_close(&watch);
        CHECK_EQ(watch_close_idle(), 1);
        CHECK_EQ(watch_close_idle(), 0);
        CHECK_EQ(count_fds(), before);
}

static void test_nothing_of_the_last_directory_is_left(void)
{
        char first[PATH_MAX], second[PATH_MAX];
        struct watch watch;

        make_directory("first", first);
        make_directory("second", second);
        CHECK_EQ(watch_open(&watch, first), 0);
        make_file(first, "unread");
        watch_close(&watch);
        CHECK_EQ(watch_open(&watch, second), 0);
        make_file(first, "late");
        CHECK(!has_news(&watch, 0));
        make_file(second, "new");
        CHECK(has_news(&watch, 0));
        watch_drain(&watch);
        CHECK(!has_news(&watch, 0));
        watch_close(&watch);
        CHECK_EQ(watch_close_idle(), 1);
}

static void test_a_removed_directory_does_not_cost_the_instance(void)
{
        char directory[PATH_MAX];
        struct watch watch;

        make_directory("removed", directory);
        CHECK_EQ(watch_open(&watch, directory), 0);
        CHECK_EQ(rmdir(directory), 0);
        watch_close(&watch);
        make_directory("removed", directory);
        CHECK_EQ(watch_open(&watch, directory), 0);
        CHECK(!has_news(&watch, 0));
        watch_close(&watch);
        CHECK_EQ(watch_close_idle(), 1);
}

static void test_what_cannot_be_watched_leaks_nothing(void)
{
        struct watch watch;
        int before = count_fds();

        CHECK_EQ(watch_open(&watch, "/nonexistent"), -ENOENT);
        watch_close(&watch);
        CHECK_EQ(watch_open(&watch, "/proc/self/status"), -ENOTDIR);
        watch_close(&watch);
        CHECK_EQ(watch_close_idle(), 1);
        CHECK_EQ(count_fds(), before);
}

static void test_more_than_the_pool_holds_are_closed(void)
{
        struct watch watches[WATCH_IDLE_MAX + 2];
        int before = count_fds();

        for (int i = 0; i < WATCH_IDLE_MAX + 2; i++)
                CHECK_EQ(watch_open(&watches[i], root), 0);
        for (int i = 0; i < WATCH_IDLE_MAX + 2; i++)
                watch_close(&watches[i]);
        CHECK_EQ(count_fds(), before + WATCH_IDLE_MAX);
        CHECK_EQ(watch_close_idle(), WATCH_IDLE_MAX);
        CHECK_EQ(count_fds(), before);
}

/* Each thread sees its own directory's news, whichever instance it was lent. */
static void *watch_many_times(void *directory)
{
        for (int i = 0; i < ROUNDS; i++) {
                struct watch watch;
                char name[32];

                CHECK_EQ(watch_open(&watch, directory), 0);
                snprintf(name, sizeof(name), "%d", i);
                make_file(directory, name);
                CHECK(has_news(&watch, 0));
                watch_close(&watch);
        }
        return NULL;
}

static void test_threads_share_no_instance(void)
{
        static char directories[THREADS][PATH_MAX];
        pthread_t threads[THREADS];
        int before = count_fds();
        unsigned idle;

        for (int i = 0; i < THREADS; i++) {
                char name[32];

                snprintf(name, sizeof(name), "thread-%d", i);
                make_directory(name, directories[i]);
                CHECK_EQ(pthread_create(&threads[i], NULL, watch_many_times, directories[i]), 0);
        }
        for (int i = 0; i < THREADS; i++)
                CHECK_EQ(pthread_join(threads[i], NULL), 0);
        idle = watch_close_idle();
        CHECK(idle >= 1 && idle <= WATCH_IDLE_MAX);
        CHECK_EQ(count_fds(), before);
}

static void test_a_forked_child_has_instances_of_its_own(void)
{
        struct watch watch;
        int status, fd, before = count_fds();
        pid_t pid;

        CHECK_EQ(watch_open(&watch, root), 0);
        fd = watch.fd;
        watch_close(&watch);
        pid = fork();
        CHECK(pid >= 0);
        if (pid == 0)
                _exit(watch_close_idle() == 0 && fcntl(fd, F_GETFD) < 0 && errno == EBADF ? 0 : 1);
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        CHECK_EQ(status, 0);
        CHECK_EQ(watch_open(&watch, root), 0);
        CHECK_EQ(watch.fd, fd);
        watch_close(&watch);
        CHECK_EQ(watch_close_idle(), 1);
        CHECK_EQ(count_fds(), before);
}

int main(void)
{
        char command[sizeof(root) + 16];

        CHECK(mkdtemp(root));
        test_an_instance_is_used_again();
        test_nothing_of_the_last_directory_is_left();
        test_a_removed_directory_does_not_cost_the_instance();
        test_what_cannot_be_watched_leaks_nothing();
        test_more_than_the_pool_holds_are_closed();
        test_threads_share_no_instance();
        test_a_forked_child_has_instances_of_its_own();
        snprintf(command, sizeof(command), "rm -rf %s", root);
        return system(command);
}
