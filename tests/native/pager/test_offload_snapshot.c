/* A monitor gives its machine away: what is on disk when it is told so, and what is not when it lies, waits or
 * dies. */
#define _GNU_SOURCE
#include <sys/resource.h>

#include "test_offload.h"

#define LOW_BYTES (UINT64_C(64) * OFF_PAGE)
#define HIGH_BYTES (UINT64_C(40) * OFF_PAGE)
#define N_PAGES 104

struct scene {
        struct pager pager;
        struct offload *offload;
        struct off_shape shape; /* the machine's memory */
        char *config; /* owned */
        const char *socket, *image, *config_path, *state_path;
        char paths[4][96];
        int fd; /* the monitor's connection; owned */
        pthread_t thread;
        int status; /* of the last answer the monitor's thread heard */
        bool was_there; /* all files, when it heard it */
        int last_command; /* that it sends after State */
        void (*before_end)(struct scene *scene); /* in the monitor's thread */
};

static void scene_open_with(struct scene *scene, int64_t patience_ns)
{
        static const char *const names[] = { "socket", "image", "config", "state" };

        *scene = (struct scene){ .shape = off_shape(LOW_BYTES, HIGH_BYTES), .last_command = OFF_PAUSED, .fd = -1 };
        pager_open(&scene->pager);
        for (int i = 0; i < 4; i++)
                snprintf(scene->paths[i], sizeof(scene->paths[i]), "%s/%s", scene->pager.directory, names[i]);
        scene->socket = scene->paths[0];
        scene->image = scene->paths[1];
        scene->config_path = scene->paths[2];
        scene->state_path = scene->paths[3];
        off_fill(&scene->shape, SEED, ZERO_SHARE);
        scene->config = off_config(&scene->shape);
        if (patience_ns > 0) {
                struct offload_snapshot_order order = {
                        .peer = pager_peer(&scene->pager, scene->socket, patience_ns),
                        .image = scene->image,
                        .config = scene->config_path,
                        .state = scene->state_path,
                };

                CHECK_EQ(offload_snapshot_open(&scene->pager.loop, &scene->pager.reader, &order, &scene->offload), 0);
        }
}

static void scene_open(struct scene *scene)
{
        scene_open_with(scene, PATIENCE_NS);
        scene->fd = off_connect(scene->socket);
        CHECK(scene->fd >= 0);
}

static void scene_close(struct scene *scene)
{
        if (scene->offload)
                pager_close_session(&scene->pager, scene->offload);
        if (scene->fd >= 0)
                close(scene->fd);
        off_release(&scene->shape);
        free(scene->config);
        pager_close(&scene->pager);
}

static void *give_away(void *data)
{
        struct scene *scene = data;

        scene->status = off_send(scene->fd, &scene->shape, scene->config, STATE_TEXT, strlen(STATE_TEXT));
        if (scene->status != OFF_OK)
                return NULL;
        if (scene->before_end)
                scene->before_end(scene);
        off_say(scene->fd, scene->last_command, 0);
        scene->status = off_hear(scene->fd);
        scene->was_there = access(scene->image, R_OK) == 0 && access(scene->config_path, R_OK) == 0 &&
                           access(scene->state_path, R_OK) == 0;
        return NULL;
}

static void monitor_begins(struct scene *scene)
{
        CHECK_EQ(pthread_create(&scene->thread, NULL, give_away, scene), 0);
}

/* Returns the status that the monitor heard last. */
static int monitor_ends(struct scene *scene)
{
        CHECK_EQ(pthread_join(scene->thread, NULL), 0);
        return scene->status;
}

/* Wait for the failure, and see that nothing is left of the snapshot. */
static void fails(struct scene *scene, const char *why)
{
        const char *said = pager_until(&scene->pager, OFFLOAD_FAILED);

        CHECK(strstr(said, why) || (fprintf(stderr, "said: %s\n", said), false));
        pager_close_session(&scene->pager, scene->offload);
        scene->offload = NULL;
        CHECK_EQ(count_files(scene->pager.directory), 0);
}

static void check_image(const char *path)
{
        uint64_t expected[PATTERN_PAGE_WORDS];
        struct stat st;
        size_t length;
        char *bytes = read_whole(path, &length);
        unsigned data_pages = 0;

        CHECK_EQ(length, N_PAGES * OFF_PAGE);
        for (uint64_t p = 0; p < N_PAGES; p++) {
                memset(expected, 0, sizeof(expected));
                if (!pattern_is_zero(SEED, p, ZERO_SHARE)) {
                        pattern_fill(SEED, p, expected);
                        data_pages++;
                }
                CHECK_EQ(memcmp(bytes + p * OFF_PAGE, expected, OFF_PAGE), 0);
        }
        CHECK(data_pages > 0 && data_pages < N_PAGES);
        CHECK_EQ(stat(path, &st), 0);
        CHECK(st.st_blocks * 512 <= data_pages * OFF_PAGE);
        CHECK_EQ(st.st_mode & 07777, 0600);
        free(bytes);
}

static void check_file(const char *path, const char *expected)
{
        size_t length;
        char *bytes = read_whole(path, &length);

        CHECK_EQ(length, strlen(expected));
        CHECK_EQ(strcmp(bytes, expected), 0);
        free(bytes);
}

static void check_saved(const struct scene *scene)
{
        check_image(scene->image);
        check_file(scene->config_path, scene->config);
        check_file(scene->state_path, STATE_TEXT);
        CHECK_EQ(count_files(scene->pager.directory), 3);
}

static void test_a_machine_is_on_disk_when_its_monitor_is_told_so(void)
{
        struct offload_stats stats;
        struct scene scene;

        scene_open(&scene);
        monitor_begins(&scene);
        pager_until(&scene.pager, OFFLOAD_SAVED);
        check_saved(&scene);
        CHECK_EQ(monitor_ends(&scene), OFF_OK);
        CHECK(scene.was_there);
        offload_get_stats(scene.offload, &stats);
        CHECK_EQ(stats.pages, N_PAGES);
        CHECK_EQ(stats.pid, getpid());
        CHECK(stats.data_bytes > 0 && stats.data_bytes < N_PAGES * OFF_PAGE);
        CHECK_EQ(offload_end_recording(scene.offload), -ENODATA);
        scene_close(&scene);
}

static void test_the_memory_of_a_machine_that_ran_is_saved_too(void)
{
        struct scene scene;

        scene_open(&scene);
        scene.last_command = OFF_COMPLETE;
        monitor_begins(&scene);
        pager_until(&scene.pager, OFFLOAD_SAVED);
        check_saved(&scene);
        CHECK_EQ(monitor_ends(&scene), OFF_OK);
        scene_close(&scene);
}

static void move_position(struct scene *scene)
{
        CHECK_EQ(lseek(scene->shape.slots[0].fd, 12345, SEEK_SET), 12345);
}

static void test_the_position_in_the_monitors_file_stays(void)
{
        struct scene scene;

        scene_open(&scene);
        scene.before_end = move_position;
        monitor_begins(&scene);
        pager_until(&scene.pager, OFFLOAD_SAVED);
        CHECK_EQ(lseek(scene.shape.slots[0].fd, 0, SEEK_CUR), 12345);
        CHECK_EQ(monitor_ends(&scene), OFF_OK);
        scene_close(&scene);
}

static void write_late(struct scene *scene)
{
        uint64_t words[PATTERN_PAGE_WORDS];

        for (uint64_t p = 0; p < LOW_BYTES / OFF_PAGE; p++) {
                memset(words, 0, sizeof(words));
                if (!pattern_is_zero(SEED, p, ZERO_SHARE))
                        pattern_fill(SEED, p, words);
                CHECK_EQ(pwrite(scene->shape.slots[0].fd, words, OFF_PAGE, (off_t)(p * OFF_PAGE)), OFF_PAGE);
        }
}

static void test_memory_is_read_after_the_machine_has_stopped_and_zeros_take_no_room(void)
{
        static const char junk[OFF_PAGE] = "not yet";
        struct scene scene;

        scene_open(&scene);
        for (uint64_t p = 0; p < LOW_BYTES / OFF_PAGE; p++)
                CHECK_EQ(pwrite(scene.shape.slots[0].fd, junk, OFF_PAGE, (off_t)(p * OFF_PAGE)), OFF_PAGE);
        scene.before_end = write_late; /* zeros are written out: data, as far as holes go */
        monitor_begins(&scene);
        pager_until(&scene.pager, OFFLOAD_SAVED);
        check_saved(&scene);
        CHECK_EQ(monitor_ends(&scene), OFF_OK);
        scene_close(&scene);
}

static void test_nobody_else_can_connect_once_the_monitor_has(void)
{
        struct scene scene;
        struct stat st;

        scene_open_with(&scene, PATIENCE_NS);
        CHECK_EQ(stat(scene.socket, &st), 0);
        CHECK_EQ(st.st_mode & 07777, 0600);
        scene.fd = off_connect(scene.socket);
        PAGER_UNTIL(&scene.pager, stat(scene.socket, &st) < 0);
        scene_close(&scene);
}

static void test_what_exists_is_not_replaced(void)
{
        struct scene scene;
        struct offload_snapshot_order order;
        int fd;

        scene_open_with(&scene, 0);
        order = (struct offload_snapshot_order){
                .peer = pager_peer(&scene.pager, scene.socket, PATIENCE_NS),
                .image = scene.image,
                .config = scene.config_path,
                .state = scene.state_path,
        };
        for (int i = 1; i < 4; i++) {
                write_file(scene.paths[i], "old", 3);
                CHECK_EQ(offload_snapshot_open(&scene.pager.loop, &scene.pager.reader, &order, &scene.offload),
                         -EEXIST);
                CHECK_EQ(unlink(scene.paths[i]), 0);
        }
        fd = off_listen(scene.socket);
        CHECK_EQ(offload_snapshot_open(&scene.pager.loop, &scene.pager.reader, &order, &scene.offload), -EADDRINUSE);
        close(fd);
        order.peer.socket = "/tmp/a-name-that-is-longer-than-the-hundred-and-seven-bytes-that-the-address-of-a-"
                            "socket-has-room-for-in-linux";
        CHECK_EQ(offload_snapshot_open(&scene.pager.loop, &scene.pager.reader, &order, &scene.offload), -ENAMETOOLONG);
        CHECK_EQ(scene.pager.n_closed, 0);
        scene_close(&scene);
}

/* Say something in place of a message of the sequence, and hear what is thought of it. */
static void say_and_fail(struct scene *scene, int word, uint64_t length, const char *why)
{
        CHECK(off_say(scene->fd, word, length));
        fails(scene, why);
        CHECK_EQ(off_hear(scene->fd), OFF_ERROR);
        CHECK_EQ(off_hear(scene->fd), OFF_CLOSED);
}

static void test_messages_out_of_turn_are_answered_with_an_error(void)
{
        static const struct {
                int word;
                uint64_t length;
                const char *why;
        } cases[] = {
                { OFF_CONFIG, 100, "out of turn" },       { OFF_STATE, 100, "out of turn" },
                { OFF_PAUSED, 0, "before" },              { OFF_MEMORY, 16, "must migrate locally" },
                { OFF_FAULT, 16, "asks for memory" },     { 0, 0, "does not speak" },
                { 4711, 0, "does not speak" },            { OFF_START, 1, "content" },
                { OFF_MEMORY_FD, 4, "out of turn" },
        };

        for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
                struct scene scene;

                scene_open(&scene);
                say_and_fail(&scene, cases[i].word, cases[i].length, cases[i].why);
                scene_close(&scene);
        }
}

static void begin(struct scene *scene)
{
        scene_open(scene);
        CHECK(off_say(scene->fd, OFF_START, 0));
        CHECK_EQ(pager_hear(&scene->pager, scene->fd), OFF_OK);
}

static void test_lengths_that_lie_are_refused_before_they_cost_memory(void)
{
        struct scene scene;

        begin(&scene);
        say_and_fail(&scene, OFF_MEMORY_FD, 5, "length");
        scene_close(&scene);
        begin(&scene);
        CHECK(off_say_slot(scene.fd, 0, scene.shape.slots[0].fd));
        CHECK_EQ(pager_hear(&scene.pager, scene.fd), OFF_OK);
        say_and_fail(&scene, OFF_CONFIG, UINT64_MAX, "too long");
        scene_close(&scene);
}

static int other_kind(const char *directory, int kind)
{
        int fds[2];

        switch (kind) {
        case 0:
                CHECK_EQ(pipe2(fds, O_CLOEXEC), 0);
                close(fds[1]);
                return fds[0];
        case 1:
                return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        case 2:
                return open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        case 3:
                return open("/dev/zero", O_RDWR | O_CLOEXEC);
        case 4:
                /* A regular file, but of another file system. */
                return open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
        default:
                return open("/", O_PATH | O_CLOEXEC);
        }
}

static void test_descriptors_that_hold_no_guest_memory_are_refused(void)
{
        for (int kind = 0; kind <= 5; kind++) {
                struct scene scene;
                int fd;

                begin(&scene);
                fd = other_kind(scene.pager.directory, kind);
                CHECK(fd >= 0);
                CHECK(off_say_slot(scene.fd, 0, fd));
                close(fd);
                fails(&scene, "memfd");
                CHECK_EQ(off_hear(scene.fd), OFF_ERROR);
                scene_close(&scene);
        }
}

static void test_descriptors_come_one_with_each_slot_and_nowhere_else(void)
{
        struct off_header header = { .word = OFF_START };
        uint32_t number = 0;
        struct scene scene;
        int two[2], many[12];

        /* With a header. */
        scene_open(&scene);
        CHECK(off_pass(scene.fd, &header, sizeof(header), &scene.shape.slots[0].fd, 1));
        fails(&scene, "descriptors");
        scene_close(&scene);
        /* Two with a slot. */
        begin(&scene);
        two[0] = two[1] = scene.shape.slots[0].fd;
        CHECK(off_say(scene.fd, OFF_MEMORY_FD, 4) && off_pass(scene.fd, &number, 4, two, 2));
        fails(&scene, "descriptors");
        scene_close(&scene);
        /* More than are looked at. */
        begin(&scene);
        CHECK(off_say(scene.fd, OFF_MEMORY_FD, 4));
        for (int i = 0; i < 12; i++)
                many[i] = scene.shape.slots[0].fd;
        CHECK(off_pass(scene.fd, &number, 4, many, 12));
        fails(&scene, "descriptors");
        scene_close(&scene);
        /* None. */
        begin(&scene);
        CHECK(off_say(scene.fd, OFF_MEMORY_FD, 4) && off_write(scene.fd, &number, 4));
        fails(&scene, "descriptors");
        scene_close(&scene);
        /* One slot twice. */
        begin(&scene);
        for (int i = 0; i < 2; i++)
                CHECK(off_say_slot(scene.fd, 0, scene.shape.slots[0].fd));
        fails(&scene, "twice");
        scene_close(&scene);
}

/* Where the kernel has no room for a descriptor it is lost, but not unnoticed. */
static void test_a_descriptor_too_many_for_this_process_is_refused_too(void)
{
        struct off_header header = { .word = OFF_MEMORY_FD, .length = 4 };
        struct rlimit limit, tight;
        struct scene scene;
        int first_free;

        begin(&scene);
        first_free = dup(scene.fd);
        close(first_free);
        CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
        tight = limit;
        tight.rlim_cur = (rlim_t)first_free;
        CHECK(off_pass(scene.fd, &header, sizeof(header), &scene.shape.slots[0].fd, 1));
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
        CHECK(strstr(pager_until(&scene.pager, OFFLOAD_FAILED), "descriptors"));
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
        scene_close(&scene);
}

/* Send a configuration of the test's own; the descriptors are the machine's. */
static void test_configurations_that_lie_are_refused(void)
{
        static const char *const configs[] = { "x", "{}", "{\"memory_manager_data\":{\"guest_ram_mappings\":[]}}" };
        struct scene scene;

        for (size_t i = 0; i < 3; i++) {
                scene_open(&scene);
                free(scene.config);
                scene.config = strdup(configs[i]);
                monitor_begins(&scene);
                fails(&scene, "configuration");
                CHECK_EQ(monitor_ends(&scene), OFF_ERROR);
                scene_close(&scene);
        }
        /* Another machine's. */
        scene_open(&scene);
        free(scene.config);
        scene.config = off_config(&(struct off_shape){ .n = 1, .slots = { { .bytes = LOW_BYTES } } });
        monitor_begins(&scene);
        fails(&scene, "slots that came");
        CHECK_EQ(monitor_ends(&scene), OFF_ERROR);
        scene_close(&scene);
}

static void test_memory_shorter_than_it_is_said_to_be_is_refused(void)
{
        struct scene scene;

        scene_open(&scene);
        CHECK_EQ(ftruncate(scene.shape.slots[0].fd, (off_t)(LOW_BYTES + HIGH_BYTES - OFF_PAGE)), 0);
        monitor_begins(&scene);
        fails(&scene, "shorter");
        CHECK_EQ(monitor_ends(&scene), OFF_ERROR);
        scene_close(&scene);
}

static void cut(struct scene *scene)
{
        CHECK_EQ(ftruncate(scene->shape.slots[0].fd, OFF_PAGE), 0);
}

static void test_memory_that_is_cut_at_the_last_moment_is_refused(void)
{
        struct scene scene;

        scene_open(&scene);
        scene.before_end = cut;
        monitor_begins(&scene);
        fails(&scene, "shorter");
        CHECK_EQ(monitor_ends(&scene), OFF_ERROR);
        scene_close(&scene);
}

static void test_an_abandoned_snapshot_leaves_nothing(void)
{
        struct scene scene;

        scene_open(&scene);
        scene.last_command = OFF_ABANDON;
        monitor_begins(&scene);
        fails(&scene, "abandoned");
        CHECK_EQ(monitor_ends(&scene), OFF_OK);
        scene_close(&scene);
}

static void remove_directory(struct scene *scene)
{
        CHECK_EQ(rmdir(scene->pager.directory), 0);
}

static void test_a_disk_that_takes_nothing_is_the_monitors_error_too(void)
{
        struct scene scene;

        scene_open(&scene);
        scene.before_end = remove_directory; /* the socket is not in it any more */
        monitor_begins(&scene);
        CHECK(strstr(pager_until(&scene.pager, OFFLOAD_FAILED), "could not be created"));
        CHECK_EQ(monitor_ends(&scene), OFF_ERROR);
        CHECK_EQ(mkdir(scene.pager.directory, 0700), 0);
        scene_close(&scene);
}

static void make_directory(struct scene *scene)
{
        CHECK_EQ(mkdir(scene->config_path, 0700), 0);
}

static void test_files_that_cannot_all_be_named_have_no_name_at_all(void)
{
        struct scene scene;

        scene_open(&scene);
        scene.before_end = make_directory; /* in the configuration's place */
        monitor_begins(&scene);
        CHECK(strstr(pager_until(&scene.pager, OFFLOAD_FAILED), "brought to disk"));
        CHECK_EQ(monitor_ends(&scene), OFF_ERROR);
        CHECK_EQ(rmdir(scene.config_path), 0);
        pager_close_session(&scene.pager, scene.offload);
        scene.offload = NULL;
        CHECK_EQ(count_files(scene.pager.directory), 0);
        scene_close(&scene);
}

static void test_peers_that_stay_silent_are_given_up(void)
{
        static const uint8_t half[7] = { OFF_START };
        struct scene scene;

        scene_open_with(&scene, SHORT_NS);
        fails(&scene, "no monitor connected");
        scene_close(&scene);
        scene_open_with(&scene, SHORT_NS);
        scene.fd = off_connect(scene.socket);
        fails(&scene, "next message");
        scene_close(&scene);
        scene_open_with(&scene, SHORT_NS);
        scene.fd = off_connect(scene.socket);
        CHECK(off_write(scene.fd, half, sizeof(half)));
        fails(&scene, "next message");
        scene_close(&scene);
}

/* Bytes that drip do not buy time. */
static void *drip(void *data)
{
        struct scene *scene = data;

        off_say(scene->fd, OFF_START, 0);
        off_hear(scene->fd);
        off_say_slot(scene->fd, 0, scene->shape.slots[0].fd);
        off_hear(scene->fd);
        off_say(scene->fd, OFF_CONFIG, 1000000);
        while (send(scene->fd, " ", 1, MSG_NOSIGNAL) == 1)
                usleep(1000);
        return NULL;
}

static void test_a_message_that_never_ends_is_given_up(void)
{
        struct scene scene;

        scene_open_with(&scene, 4 * SHORT_NS);
        scene.fd = off_connect(scene.socket);
        CHECK_EQ(pthread_create(&scene.thread, NULL, drip, &scene), 0);
        fails(&scene, "next message");
        CHECK_EQ(pthread_join(scene.thread, NULL), 0);
        scene_close(&scene);
}

/* A monitor that says the first @n bytes of what one says, and is gone. */
static void test_a_monitor_may_die_after_any_byte(void)
{
        struct scene scene;
        uint32_t number = 0;
        struct off_header start = { .word = OFF_START }, slot = { .word = OFF_MEMORY_FD, .length = 4 };
        uint8_t bytes[sizeof(start) + sizeof(slot)];

        memcpy(bytes, &start, sizeof(start));
        memcpy(bytes + sizeof(start), &slot, sizeof(slot));
        for (size_t n = 0; n <= sizeof(bytes); n++) {
                scene_open(&scene);
                CHECK(off_write(scene.fd, bytes, n));
                close(scene.fd);
                scene.fd = -1;
                fails(&scene, "went away");
                scene_close(&scene);
        }
        begin(&scene);
        CHECK(off_say(scene.fd, OFF_MEMORY_FD, 4) && off_pass(scene.fd, &number, 3, &scene.shape.slots[0].fd, 1));
        close(scene.fd);
        scene.fd = -1;
        fails(&scene, "went away");
        scene_close(&scene);
}

static void die(struct scene *scene)
{
        off_say(scene->fd, OFF_PAUSED, 0);
        shutdown(scene->fd, SHUT_RDWR);
}

static void test_a_monitor_that_dies_before_it_is_answered_leaves_no_files(void)
{
        for (int i = 0; i < 8; i++) {
                struct scene scene;

                scene_open(&scene);
                scene.before_end = die;
                monitor_begins(&scene);
                fails(&scene, "went away");
                monitor_ends(&scene);
                scene_close(&scene);
        }
}

static void test_a_monitor_that_dies_is_not_waited_for_until_all_its_memory_is_read(void)
{
        struct scene scene;

        scene_open(&scene);
        off_release(&scene.shape);
        free(scene.config);
        scene.shape = off_shape(UINT64_C(4096) * OFF_PAGE, UINT64_C(4096) * OFF_PAGE);
        off_fill(&scene.shape, SEED, 0);
        scene.config = off_config(&scene.shape);
        scene.before_end = die;
        monitor_begins(&scene);
        fails(&scene, "went away while its memory was read");
        monitor_ends(&scene);
        scene_close(&scene);
}

static void test_a_session_can_be_closed_at_any_time(void)
{
        for (int us = 0; us < 3000; us += 150) {
                struct scene scene;

                scene_open(&scene);
                monitor_begins(&scene);
                pager_for(&scene.pager, us * 1000);
                pager_close_session(&scene.pager, scene.offload);
                scene.offload = NULL;
                monitor_ends(&scene);
                if (scene.status == OFF_OK)
                        check_saved(&scene);
                else
                        CHECK_EQ(count_files(scene.pager.directory), 0);
                scene_close(&scene);
        }
}

/* Connect as nobody to the socket that is named on the pipe. Forked before there are threads. */
static pid_t stranger(int *ret_path_fd)
{
        char path[108] = "";
        int fds[2];
        pid_t pid;

        CHECK_EQ(pipe2(fds, O_CLOEXEC), 0);
        pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
                int fd = -1;

                if (read(fds[0], path, sizeof(path) - 1) > 0 && setuid(65534) == 0)
                        fd = off_connect(path);
                /* Turned away without a word. */
                _exit(fd >= 0 && off_hear(fd) == OFF_CLOSED ? 0 : 1);
        }
        close(fds[0]);
        *ret_path_fd = fds[1];
        return pid;
}

static void test_another_user_is_turned_away_and_the_monitor_still_gets_in(void)
{
        struct scene scene;
        int status, path_fd;
        pid_t pid;

        if (geteuid() != 0)
                return;
        pid = stranger(&path_fd);
        scene_open_with(&scene, PATIENCE_NS);
        CHECK_EQ(chmod(scene.pager.directory, 0755), 0);
        CHECK_EQ(chmod(scene.socket, 0666), 0);
        CHECK_EQ(write(path_fd, scene.socket, strlen(scene.socket)), strlen(scene.socket));
        PAGER_UNTIL(&scene.pager, waitpid(pid, &status, WNOHANG) == pid);
        CHECK_EQ(status, 0);
        scene.fd = off_connect(scene.socket);
        monitor_begins(&scene);
        pager_until(&scene.pager, OFFLOAD_SAVED);
        CHECK_EQ(monitor_ends(&scene), OFF_OK);
        check_saved(&scene);
        scene_close(&scene);
        close(path_fd);
}

int main(void)
{
        test_a_machine_is_on_disk_when_its_monitor_is_told_so();
        test_the_memory_of_a_machine_that_ran_is_saved_too();
        test_the_position_in_the_monitors_file_stays();
        test_memory_is_read_after_the_machine_has_stopped_and_zeros_take_no_room();
        test_nobody_else_can_connect_once_the_monitor_has();
        test_what_exists_is_not_replaced();
        test_messages_out_of_turn_are_answered_with_an_error();
        test_lengths_that_lie_are_refused_before_they_cost_memory();
        test_descriptors_that_hold_no_guest_memory_are_refused();
        test_descriptors_come_one_with_each_slot_and_nowhere_else();
        test_a_descriptor_too_many_for_this_process_is_refused_too();
        test_configurations_that_lie_are_refused();
        test_memory_shorter_than_it_is_said_to_be_is_refused();
        test_memory_that_is_cut_at_the_last_moment_is_refused();
        test_an_abandoned_snapshot_leaves_nothing();
        test_a_disk_that_takes_nothing_is_the_monitors_error_too();
        test_files_that_cannot_all_be_named_have_no_name_at_all();
        test_peers_that_stay_silent_are_given_up();
        test_a_message_that_never_ends_is_given_up();
        test_a_monitor_may_die_after_any_byte();
        test_a_monitor_that_dies_before_it_is_answered_leaves_no_files();
        test_a_monitor_that_dies_is_not_waited_for_until_all_its_memory_is_read();
        test_a_session_can_be_closed_at_any_time();
        test_another_user_is_turned_away_and_the_monitor_still_gets_in();
        return 0;
}
