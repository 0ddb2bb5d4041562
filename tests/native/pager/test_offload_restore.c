/* A monitor gets a machine: what its guest sees, what it costs, and what happens to it when the image, the
 * monitor or the server go wrong. */
#define _GNU_SOURCE
#include <signal.h>

#include "test_offload.h"
#include "working_set.h"

#define LOW_BYTES (UINT64_C(512) * OFF_PAGE) /* one huge page */
#define HIGH_BYTES (UINT64_C(512) * OFF_PAGE)
#define N_PAGES UINT64_C(1024)

static const uint8_t digest[WORKING_SET_DIGEST_BYTES] = { 1, 2, 3 };

struct scene {
        struct pager pager;
        struct offload *offload;
        struct offload_restore_order order;
        struct image image;
        struct working_set set;
        char paths[5][96]; /* socket, image, configuration, state, record */
        struct off_shape shape;
        struct monitor monitor;
        bool has_monitor, is_v53;
        uint64_t page_bytes;
        int refused; /* the command the monitor refuses */
        bool got_it; /* the monitor has the machine */
        pthread_t thread;
        bool has_thread;
        void (*run)(struct scene *scene); /* the guest: called in the monitor's thread */
        atomic_bool is_over; /* what the monitor's thread does */
        unsigned wrong; /* words */
};

static void make_image(const char *path)
{
        uint64_t words[PATTERN_PAGE_WORDS];
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

        CHECK(fd >= 0);
        CHECK_EQ(ftruncate(fd, N_PAGES * OFF_PAGE), 0);
        for (uint64_t p = 0; p < N_PAGES; p++) {
                if (pattern_is_zero(SEED, p, ZERO_SHARE))
                        continue;
                pattern_fill(SEED, p, words);
                CHECK_EQ(pwrite(fd, words, OFF_PAGE, (off_t)(p * OFF_PAGE)), OFF_PAGE);
        }
        close(fd);
}

static void scene_open(struct scene *scene)
{
        static const char *const names[] = { "socket", "image", "config", "state", "record" };
        char *config;

        *scene = (struct scene){ .shape = off_shape(LOW_BYTES, HIGH_BYTES), .page_bytes = OFF_PAGE };
        pager_open(&scene->pager);
        for (int i = 0; i < 5; i++)
                snprintf(scene->paths[i], sizeof(scene->paths[i]), "%s/%s", scene->pager.directory, names[i]);
        make_image(scene->paths[1]);
        CHECK_EQ(image_open(scene->paths[1], &scene->image), 0);
        config = off_config(&scene->shape);
        write_file(scene->paths[2], config, strlen(config));
        free(config);
        write_file(scene->paths[3], STATE_TEXT, strlen(STATE_TEXT));
        scene->set.fd = -1;
        scene->order = (struct offload_restore_order){
                .peer = pager_peer(&scene->pager, scene->paths[0], PATIENCE_NS),
                .image = &scene->image,
                .config = scene->paths[2],
                .state = scene->paths[3],
                .digest = digest,
        };
}

static void begin(struct scene *scene)
{
        CHECK_EQ(offload_restore_open(&scene->pager.loop, &scene->pager.reader, &scene->order, &scene->offload), 0);
}

static void *get(void *data)
{
        struct scene *scene = data;

        scene->got_it = off_receive(&scene->monitor, scene->refused);
        if (scene->got_it && scene->run)
                scene->run(scene);
        scene->is_over = true;
        return NULL;
}

static void monitor_begins(struct scene *scene)
{
        off_monitor(&scene->monitor, scene->paths[0], scene->is_v53, scene->page_bytes);
        scene->has_monitor = scene->has_thread = true;
        CHECK_EQ(pthread_create(&scene->thread, NULL, get, scene), 0);
}

/* Serve until the monitor's thread is done. */
static void guest_ends(struct scene *scene)
{
        PAGER_UNTIL(&scene->pager, scene->is_over);
        CHECK_EQ(pthread_join(scene->thread, NULL), 0);
        scene->has_thread = false;
}

static void *run_again(void *data)
{
        struct scene *scene = data;

        scene->run(scene);
        scene->is_over = true;
        return NULL;
}

/* Let the guest of a machine that is served run once more, to its end. */
static void guest_runs(struct scene *scene, void (*run)(struct scene *scene))
{
        scene->run = run;
        scene->is_over = false;
        CHECK_EQ(pthread_create(&scene->thread, NULL, run_again, scene), 0);
        guest_ends(scene);
}

static void close_offload(struct scene *scene)
{
        if (scene->offload)
                pager_close_session(&scene->pager, scene->offload);
        scene->offload = NULL;
}

static void scene_close(struct scene *scene)
{
        close_offload(scene);
        if (scene->has_thread)
                CHECK_EQ(pthread_join(scene->thread, NULL), 0);
        if (scene->has_monitor)
                off_finish(&scene->monitor);
        image_close(&scene->image);
        if (scene->set.fd >= 0) {
                munmap(scene->set.mapping, scene->set.mapping_bytes);
                close(scene->set.fd);
                free((void *)scene->set.runs);
        }
        pager_close(&scene->pager);
}

static struct offload_stats stats_of(const struct scene *scene)
{
        struct offload_stats stats;

        offload_get_stats(scene->offload, &stats);
        return stats;
}

/* ---- guests */

static void read_everything(struct scene *scene)
{
        for (uint64_t p = 0; p < N_PAGES; p++)
                scene->wrong += off_wrong(&scene->monitor, p, SEED, ZERO_SHARE);
}

static void read_backwards(struct scene *scene)
{
        for (uint64_t p = N_PAGES; p-- > 0;)
                scene->wrong += off_wrong(&scene->monitor, p, SEED, ZERO_SHARE);
}

static void read_one(struct scene *scene)
{
        scene->wrong += off_wrong(&scene->monitor, 0, SEED, ZERO_SHARE);
}

/* Every 16th page. */
static void read_some(struct scene *scene)
{
        for (uint64_t p = 0; p < N_PAGES; p += 16)
                scene->wrong += off_wrong(&scene->monitor, p, SEED, ZERO_SHARE);
}

static void wait_for_the_sweep(struct scene *scene)
{
        while (!scene->monitor.has_all && !scene->monitor.gave_up)
                usleep(500);
}

static uint64_t memory_bytes(const struct scene *scene)
{
        uint64_t bytes = 0;
        struct stat st;

        for (size_t i = 0; i < scene->monitor.shape.n; i++) {
                CHECK_EQ(fstat(scene->monitor.shape.slots[i].fd, &st), 0);
                bytes += (uint64_t)st.st_blocks * 512;
        }
        return bytes;
}

/* ---- tests */

static void test_a_guest_sees_its_memory_page_by_page(void)
{
        for (int is_v53 = 0; is_v53 <= 1; is_v53++)
                for (int demand_only = 0; demand_only <= 1; demand_only++) {
                        struct scene scene;

                        scene_open(&scene);
                        scene.is_v53 = is_v53;
                        scene.order.demand_only = demand_only;
                        scene.order.resume = is_v53;
                        scene.run = read_backwards;
                        begin(&scene);
                        monitor_begins(&scene);
                        pager_until(&scene.pager, OFFLOAD_SERVING);
                        CHECK_EQ(stats_of(&scene).pid, getpid());
                        guest_ends(&scene);
                        CHECK(scene.got_it && !scene.monitor.is_dead);
                        CHECK_EQ(scene.wrong, 0);
                        CHECK_EQ(scene.monitor.is_resumed, is_v53);
                        CHECK_EQ(scene.monitor.state_bytes, strlen(STATE_TEXT));
                        CHECK_EQ(memcmp(scene.monitor.state, STATE_TEXT, strlen(STATE_TEXT)), 0);
                        CHECK_EQ(scene.monitor.gave_up, demand_only);
                        CHECK_EQ(ftruncate(scene.monitor.shape.slots[0].fd, 0), -1);
                        scene_close(&scene);
                }
}

static void test_without_the_monitors_sweep_a_machine_takes_what_it_touches(void)
{
        struct offload_stats stats;
        struct scene scene;
        uint64_t touched = 0, zeros = 0;

        scene_open(&scene);
        scene.order.demand_only = true;
        scene.run = read_some;
        begin(&scene);
        monitor_begins(&scene);
        pager_until(&scene.pager, OFFLOAD_SERVING);
        guest_ends(&scene);
        CHECK_EQ(scene.wrong, 0);
        for (uint64_t p = 0; p < N_PAGES; p += 16) {
                touched++;
                zeros += pattern_is_zero(SEED, p, ZERO_SHARE);
        }
        stats = stats_of(&scene);
        CHECK(stats.is_serving);
        CHECK_EQ(stats.pages, N_PAGES);
        CHECK_EQ(stats.faults, touched);
        CHECK_EQ(stats.background, 0);
        CHECK_EQ(stats.zeroed, zeros);
        CHECK_EQ(stats.copied, touched - zeros);
        CHECK_EQ(memory_bytes(&scene), touched * OFF_PAGE);
        CHECK_EQ(scene.monitor.n_swept, 0);
        CHECK_EQ(scene.monitor.n_demand, touched);
        scene_close(&scene);
}

static void test_a_machine_that_has_all_its_memory_needs_nobody(void)
{
        struct offload_stats stats;
        struct scene scene;

        scene_open(&scene);
        scene.run = wait_for_the_sweep;
        begin(&scene);
        monitor_begins(&scene);
        pager_until(&scene.pager, OFFLOAD_SERVING);
        CHECK(strstr(pager_until(&scene.pager, OFFLOAD_ENDED), "all of its memory"));
        guest_ends(&scene);
        stats = stats_of(&scene);
        CHECK(!stats.is_serving);
        CHECK(stats.has_all);
        CHECK_EQ(stats.background, N_PAGES);
        CHECK_EQ(stats.faults, 0);
        CHECK_EQ(stats.copied + stats.zeroed, N_PAGES);
        CHECK_EQ(memory_bytes(&scene), N_PAGES * OFF_PAGE);
        close_offload(&scene);
        read_everything(&scene);
        CHECK_EQ(scene.wrong, 0);
        CHECK(!scene.monitor.is_dead);
        scene_close(&scene);
}

static void test_a_monitor_may_have_all_its_memory_before_it_has_its_machine(void)
{
        struct scene scene;

        scene_open(&scene);
        scene.order.resume = true;
        begin(&scene);
        off_monitor(&scene.monitor, scene.paths[0], false, OFF_PAGE);
        scene.monitor.sweeps_first = scene.has_monitor = scene.has_thread = true;
        CHECK_EQ(pthread_create(&scene.thread, NULL, get, &scene), 0);
        CHECK(strstr(pager_until(&scene.pager, OFFLOAD_ENDED), "all of its memory"));
        guest_ends(&scene);
        CHECK(scene.got_it && scene.monitor.is_resumed);
        read_everything(&scene);
        CHECK_EQ(scene.wrong, 0);
        scene_close(&scene);
}

static void test_huge_pages_are_filled_whole(void)
{
        struct scene scene;

        scene_open(&scene);
        scene.page_bytes = 512 * OFF_PAGE;
        scene.order.demand_only = true;
        scene.run = read_backwards;
        begin(&scene);
        monitor_begins(&scene);
        pager_until(&scene.pager, OFFLOAD_SERVING);
        guest_ends(&scene);
        CHECK_EQ(scene.wrong, 0);
        CHECK_EQ(stats_of(&scene).faults, 2);
        CHECK_EQ(stats_of(&scene).copied + stats_of(&scene).zeroed, N_PAGES);
        scene_close(&scene);
}

static void test_an_image_that_is_not_in_memory_is_read_by_a_thread(void)
{
        struct scene scene;

        scene_open(&scene);
        CHECK_EQ(fsync(scene.image.fd), 0);
        CHECK_EQ(posix_fadvise(scene.image.fd, 0, 0, POSIX_FADV_DONTNEED), 0);
        scene.order.demand_only = true;
        scene.run = read_backwards;
        begin(&scene);
        monitor_begins(&scene);
        pager_until(&scene.pager, OFFLOAD_SERVING);
        guest_ends(&scene);
        CHECK_EQ(scene.wrong, 0);
        scene_close(&scene);
}

/* A set of the pages from 100 to 115 and from 600 to 619, split where they stop being alike; their content is
 * marked, to tell where a page came from. */
static void make_set(struct scene *scene, bool is_marked)
{
        struct run *runs = calloc(36, sizeof(*runs));
        uint64_t words[PATTERN_PAGE_WORDS];
        int fd = memfd_create("working-set", MFD_CLOEXEC);
        size_t n = 0;
        off_t at = OFF_PAGE;

        for (unsigned i = 0; i < 36; i++) {
                uint64_t page = i < 20 ? 600 + i : 80 + i;
                bool is_zero = pattern_is_zero(SEED, page, ZERO_SHARE);

                scene->set.n_pages++;
                if (n > 0 && runs[n - 1].page + runs[n - 1].pages == page &&
                    runs[n - 1].flags == (is_zero ? TOUCH_ZERO : 0))
                        runs[n - 1].pages++;
                else
                        runs[n++] = (struct run){ (uint32_t)page, 1, is_zero ? TOUCH_ZERO : 0 };
                if (is_zero)
                        continue;
                pattern_fill(SEED, page, words);
                words[7] ^= is_marked;
                CHECK_EQ(pwrite(fd, words, OFF_PAGE, at), OFF_PAGE);
                at += OFF_PAGE;
                scene->set.n_data_pages++;
        }
        scene->set.runs = runs;
        scene->set.n_runs = n;
        scene->set.fd = fd;
        scene->set.mapping_bytes = (size_t)at;
        scene->set.mapping = mmap(NULL, (size_t)at, PROT_READ, MAP_SHARED, fd, 0);
        scene->set.data = (uint8_t *)scene->set.mapping + OFF_PAGE;
        scene->order.set = &scene->set;
}

static void test_a_working_set_is_there_before_it_is_asked_for(void)
{
        for (int is_v53 = 0; is_v53 <= 1; is_v53++) {
                struct offload_stats stats;
                struct scene scene;

                scene_open(&scene);
                make_set(&scene, false);
                CHECK(scene.set.n_data_pages > 0 && scene.set.n_data_pages < 36);
                scene.is_v53 = is_v53;
                scene.order.demand_only = true;
                scene.run = read_everything;
                begin(&scene);
                PAGER_UNTIL(&scene.pager, stats_of(&scene).prefetched == 36);
                monitor_begins(&scene);
                pager_until(&scene.pager, OFFLOAD_SERVING);
                guest_ends(&scene);
                CHECK_EQ(scene.wrong, 0);
                stats = stats_of(&scene);
                /* v53.0 finds what is there by itself; newer ones ask for each page before they map it. */
                CHECK_EQ(stats.faults, is_v53 ? N_PAGES - 36 : N_PAGES);
                CHECK_EQ(stats.covered, is_v53 ? 0 : 36);
                CHECK_EQ(stats.prefetched, 36);
                CHECK_EQ(stats.copied + stats.zeroed, N_PAGES);
                scene_close(&scene);
        }
}

static void test_pages_filled_ahead_are_those_of_the_set(void)
{
        struct scene scene;

        scene_open(&scene);
        make_set(&scene, true);
        scene.order.demand_only = true;
        scene.run = read_everything;
        begin(&scene);
        PAGER_UNTIL(&scene.pager, stats_of(&scene).prefetched == 36);
        monitor_begins(&scene);
        pager_until(&scene.pager, OFFLOAD_SERVING);
        guest_ends(&scene);
        /* One word of each was marked. */
        CHECK_EQ(scene.wrong, scene.set.n_data_pages);
        scene_close(&scene);
}

static void write_and_read(struct scene *scene)
{
        for (uint64_t p = 0; p < N_PAGES; p++)
                *(volatile uint64_t *)off_page(&scene->monitor, p) = p;
        for (uint64_t p = 0; p < N_PAGES; p++)
                scene->wrong += *(volatile uint64_t *)off_page(&scene->monitor, p) != p;
}

static void test_what_the_guest_writes_while_memory_is_filled_stays(void)
{
        for (int i = 0; i < 10; i++) {
                struct scene scene;

                scene_open(&scene);
                make_set(&scene, false);
                scene.is_v53 = i % 2;
                scene.run = write_and_read;
                begin(&scene);
                monitor_begins(&scene);
                pager_until(&scene.pager, OFFLOAD_SERVING);
                guest_ends(&scene);
                CHECK_EQ(scene.wrong, 0);
                CHECK(!scene.monitor.is_dead);
                scene_close(&scene);
        }
}

static void give_back(struct scene *scene)
{
        /* Pages that were read, that were written, that never came, and that were filled ahead. */
        scene->wrong += off_wrong(&scene->monitor, 64, SEED, ZERO_SHARE);
        memset(off_page(&scene->monitor, 65), 1, OFF_PAGE);
        off_give_back(&scene->monitor, 64, 3);
        off_give_back(&scene->monitor, 600, 20);
        for (uint64_t p = 64; p < 66; p++)
                for (unsigned i = 0; i < PATTERN_PAGE_WORDS; i++)
                        scene->wrong += ((volatile uint64_t *)off_page(&scene->monitor, p))[i] != 0;
        for (uint64_t p = 600; p < 620; p++)
                for (unsigned i = 0; i < PATTERN_PAGE_WORDS; i++)
                        scene->wrong += ((volatile uint64_t *)off_page(&scene->monitor, p))[i] != 0;
        memset(off_page(&scene->monitor, 64), 7, OFF_PAGE);
        scene->wrong += off_page(&scene->monitor, 64)[100] != 7;
}

static void test_pages_given_back_are_zeros_when_they_come_again(void)
{
        for (int is_v53 = 0; is_v53 <= 1; is_v53++) {
                struct scene scene;

                scene_open(&scene);
                make_set(&scene, false);
                scene.is_v53 = is_v53;
                scene.order.demand_only = true;
                scene.run = give_back;
                begin(&scene);
                PAGER_UNTIL(&scene.pager, stats_of(&scene).prefetched == 36);
                monitor_begins(&scene);
                pager_until(&scene.pager, OFFLOAD_SERVING);
                guest_ends(&scene);
                CHECK_EQ(scene.wrong, 0);
                CHECK(!scene.monitor.is_dead);
                scene_close(&scene);
        }
}

static void touch_a_few(struct scene *scene)
{
        volatile uint8_t *page;

        for (uint64_t p = 700; p > 600; p -= 10) {
                page = off_page(&scene->monitor, p);
                if (p % 20 == 0)
                        page[5] = (uint8_t)(page[5] + 1);
                else
                        scene->wrong += off_wrong(&scene->monitor, p, SEED, ZERO_SHARE);
        }
}

static void test_a_record_says_what_was_touched_in_which_order_and_how(void)
{
        struct record record;
        struct scene scene;

        scene_open(&scene);
        scene.order.demand_only = true;
        scene.order.record = scene.paths[4];
        scene.run = touch_a_few;
        begin(&scene);
        CHECK_EQ(offload_end_recording(scene.offload), -ENODATA);
        monitor_begins(&scene);
        pager_until(&scene.pager, OFFLOAD_SERVING);
        guest_ends(&scene);
        CHECK_EQ(scene.wrong, 0);
        CHECK_EQ(offload_end_recording(scene.offload), 0);
        CHECK_EQ(offload_end_recording(scene.offload), -ENODATA);
        CHECK(!pager_until(&scene.pager, OFFLOAD_RECORDED));
        CHECK_EQ(stats_of(&scene).touches, 10);
        CHECK_EQ(stats_of(&scene).written, 5);
        CHECK_EQ(record_read(scene.paths[4], &scene.image, digest, &record), 0);
        CHECK_EQ(record.n, 10);
        for (uint32_t i = 0; i < 10; i++) {
                uint32_t page = 700 - 10 * i;

                CHECK_EQ(record.touches[i].page, page);
                CHECK_EQ(record.touches[i].flags & TOUCH_WRITTEN, page % 20 == 0 ? TOUCH_WRITTEN : 0);
                CHECK_EQ(!!(record.touches[i].flags & TOUCH_ZERO), pattern_is_zero(SEED, page, ZERO_SHARE));
        }
        record_release(&record);
        scene_close(&scene);
}

static void test_a_record_that_cannot_be_written_is_no_harm_to_the_machine(void)
{
        struct scene scene;

        scene_open(&scene);
        scene.order.demand_only = true;
        scene.order.record = "/nowhere/at/all";
        scene.run = touch_a_few;
        begin(&scene);
        monitor_begins(&scene);
        pager_until(&scene.pager, OFFLOAD_SERVING);
        guest_ends(&scene);
        CHECK_EQ(offload_end_recording(scene.offload), 0);
        CHECK(strstr(pager_until(&scene.pager, OFFLOAD_RECORDED), "written"));
        CHECK_EQ(scene.wrong, 0);
        guest_runs(&scene, read_one);
        CHECK_EQ(scene.wrong, 0);
        CHECK(stats_of(&scene).is_serving);
        scene_close(&scene);
}

static void test_orders_that_contradict_themselves_are_refused(void)
{
        struct scene scene;

        scene_open(&scene);
        scene.order.record = scene.paths[4];
        CHECK_EQ(offload_restore_open(&scene.pager.loop, &scene.pager.reader, &scene.order, &scene.offload), -EINVAL);
        scene.order.demand_only = true;
        scene.order.digest = NULL;
        CHECK_EQ(offload_restore_open(&scene.pager.loop, &scene.pager.reader, &scene.order, &scene.offload), -EINVAL);
        scene.order.digest = digest;
        scene.order.set = &scene.set;
        CHECK_EQ(offload_restore_open(&scene.pager.loop, &scene.pager.reader, &scene.order, &scene.offload), -EINVAL);
        scene_close(&scene);
}

static void fails(struct scene *scene, const char *why)
{
        const char *said = pager_until(&scene->pager, OFFLOAD_FAILED);

        CHECK(strstr(said, why) || (fprintf(stderr, "said: %s\n", said), false));
        CHECK(!stats_of(scene).is_serving);
}

static void test_files_that_do_not_fit_are_told_before_anybody_is_called(void)
{
        static const char *const whys[] = {
                "configuration cannot be read", "state cannot be read", "no JSON", "as long"
        };

        for (int i = 0; i < 4; i++) {
                struct scene scene;

                scene_open(&scene);
                switch (i) {
                case 0:
                        scene.order.config = "/nowhere/at/all";
                        break;
                case 1:
                        write_file(scene.paths[3], "", 0);
                        break;
                case 2:
                        write_file(scene.paths[2], "x", 1);
                        break;
                default: {
                        struct off_shape other = off_shape(LOW_BYTES, HIGH_BYTES + OFF_PAGE);
                        char *config = off_config(&other);

                        write_file(scene.paths[2], config, strlen(config));
                        free(config);
                }
                }
                begin(&scene);
                fails(&scene, whys[i]);
                scene_close(&scene);
        }
}

static void test_a_refusal_at_any_step_is_told_as_such(void)
{
        static const struct {
                int command;
                const char *why;
        } steps[] = { { OFF_START, "begin" }, { OFF_MEMORY_FD, "slot" }, { OFF_CONFIG, "configuration" },
                      { OFF_STATE, "state" }, { OFF_PAUSED, "complete" } };

        for (size_t i = 0; i < 5; i++)
                for (int demand_only = 0; demand_only <= 1; demand_only++) {
                        struct scene scene;

                        scene_open(&scene);
                        scene.order.demand_only = demand_only;
                        scene.refused = steps[i].command;
                        begin(&scene);
                        monitor_begins(&scene);
                        fails(&scene, steps[i].why);
                        CHECK_EQ(pthread_join(scene.thread, NULL), 0);
                        scene.has_thread = false;
                        CHECK(!scene.got_it);
                        scene_close(&scene);
                }
}

static void test_nobody_and_silence_are_given_up(void)
{
        struct scene scene;
        int listener;

        scene_open(&scene);
        scene.order.peer.patience_ns = SHORT_NS;
        begin(&scene);
        fails(&scene, "no monitor listened");
        scene_close(&scene);

        scene_open(&scene);
        scene.order.peer.patience_ns = 10 * SHORT_NS;
        listener = off_listen(scene.paths[0]);
        begin(&scene);
        fails(&scene, "did not answer");
        close(listener);
        scene_close(&scene);
}

static void test_the_monitor_may_come_to_listen_later(void)
{
        struct scene scene;

        scene_open(&scene);
        scene.run = read_everything;
        begin(&scene);
        pager_for(&scene.pager, NS_PER_S / 50);
        monitor_begins(&scene);
        pager_until(&scene.pager, OFFLOAD_SERVING);
        guest_ends(&scene);
        CHECK_EQ(scene.wrong, 0);
        scene_close(&scene);
}

/* What a monitor says in place of its first answer. */
static void answered(const void *bytes, size_t n, int fd_to_pass, const char *why)
{
        struct scene scene;
        int listener, fd;
        uint8_t request[16];

        scene_open(&scene);
        listener = off_listen(scene.paths[0]);
        begin(&scene);
        PAGER_UNTIL(&scene.pager, is_readable(listener));
        fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        PAGER_UNTIL(&scene.pager, is_readable(fd));
        CHECK(off_read(fd, request, sizeof(request)));
        CHECK_EQ(request[0], OFF_START);
        if (fd_to_pass >= 0)
                CHECK(off_pass(fd, bytes, n, &fd_to_pass, 1));
        else if (n > 0)
                CHECK(off_write(fd, bytes, n));
        if (n < 16)
                shutdown(fd, SHUT_WR);
        fails(&scene, why);
        close(fd);
        close(listener);
        scene_close(&scene);
}

static void test_answers_that_are_none_end_it(void)
{
        struct off_header ok = { .word = OFF_OK }, long_ok = { .word = OFF_OK, .length = 1 }, odd = { .word = 3 };

        answered(&long_ok, sizeof(long_ok), -1, "does not speak");
        answered(&odd, sizeof(odd), -1, "does not speak");
        answered(&ok, sizeof(ok), 0, "descriptor");
        answered(&ok, 0, -1, "went away");
        answered(&ok, 7, -1, "went away");
}

/* A monitor of the test's own, that has everything and is about to ask for pages. */
struct raw {
        struct scene scene;
        int listener, control, fault;
        pthread_t thread;
        int dies_after; /* this many answers */
        uint64_t owed; /* bytes of a content not read yet */
};

static bool raw_take(struct raw *raw, struct off_header *ret_request)
{
        char content[4096];

        if (!off_read(raw->control, ret_request, sizeof(*ret_request)))
                return false;
        if (ret_request->word == OFF_STATE) {
                uint16_t role;

                raw->fault = accept4(raw->listener, NULL, NULL, SOCK_CLOEXEC);
                CHECK(raw->fault >= 0 && off_read(raw->fault, &role, 2) && role == 2);
        }
        CHECK(ret_request->length < sizeof(content));
        return off_read(raw->control, content, ret_request->length);
}

static void *raw_receive(void *data)
{
        struct raw *raw = data;
        struct off_header request = { 0 };

        raw->control = accept4(raw->listener, NULL, NULL, SOCK_CLOEXEC);
        CHECK(raw->control >= 0);
        while (request.word != OFF_PAUSED && raw->dies_after-- != 0 && raw_take(raw, &request))
                off_say(raw->control, OFF_OK, 0);
        shutdown(raw->control, SHUT_RDWR);
        return NULL;
}

static void raw_open(struct raw *raw, int dies_after)
{
        *raw = (struct raw){ .control = -1, .fault = -1, .dies_after = dies_after };
        scene_open(&raw->scene);
        raw->listener = off_listen(raw->scene.paths[0]);
        begin(&raw->scene);
        CHECK_EQ(pthread_create(&raw->thread, NULL, raw_receive, raw), 0);
        if (dies_after < 0) {
                pager_until(&raw->scene.pager, OFFLOAD_SERVING);
                CHECK_EQ(pthread_join(raw->thread, NULL), 0);
        }
}

static void raw_close(struct raw *raw)
{
        close(raw->listener);
        close(raw->control);
        if (raw->fault >= 0)
                close(raw->fault);
        scene_close(&raw->scene);
}

static void test_a_monitor_may_die_at_any_step(void)
{
        for (int n = 0; n < 6; n++) {
                struct raw raw;

                raw_open(&raw, n);
                fails(&raw.scene, "went away");
                CHECK_EQ(pthread_join(raw.thread, NULL), 0);
                raw_close(&raw);
        }
}

static bool ask(int fd, int word, uint64_t length, uint64_t gpa, uint64_t bytes)
{
        uint64_t range[2] = { gpa, bytes };

        return off_say(fd, word, length) && off_write(fd, range, sizeof(range));
}

static void test_requests_for_memory_that_is_not_there_end_it(void)
{
        static const struct {
                int word;
                uint64_t length, gpa, bytes;
        } cases[] = {
                { OFF_FAULT, 16, LOW_BYTES, OFF_PAGE },
                { OFF_FAULT, 16, LOW_BYTES - OFF_PAGE, 2 * OFF_PAGE },
                { OFF_FAULT, 16, UINT64_MAX - 4095, OFF_PAGE },
                { OFF_FAULT, 16, 0, 0 },
                { OFF_FAULT, 16, 0, 100 },
                { OFF_FAULT, 16, 0, UINT64_MAX - 4095 },
                { OFF_FAULT, 16, 1, OFF_PAGE },
                { OFF_FAULT, 24, 0, OFF_PAGE },
                { OFF_START, 0, 0, 0 },
                { OFF_MEMORY, 16, 0, OFF_PAGE },
                { 99, 16, 0, OFF_PAGE },
        };

        for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
                struct raw raw;

                raw_open(&raw, -1);
                CHECK(ask(raw.fault, cases[i].word, cases[i].length, cases[i].gpa, cases[i].bytes));
                fails(&raw.scene, i < 7 ? "does not have" : "something else");
                CHECK_EQ(off_hear(raw.fault), OFF_CLOSED);
                raw_close(&raw);
        }
}

static void test_a_descriptor_with_a_request_ends_it(void)
{
        struct off_header request = { .word = OFF_FAULT, .length = 16 };
        struct raw raw;

        raw_open(&raw, -1);
        CHECK(off_pass(raw.fault, &request, sizeof(request), &raw.listener, 1));
        fails(&raw.scene, "descriptor");
        raw_close(&raw);
}

static void test_a_monitor_that_leaves_is_let_go(void)
{
        struct raw raw;

        raw_open(&raw, -1);
        CHECK(off_say(raw.fault, OFF_ABANDON, 0));
        pager_until(&raw.scene.pager, OFFLOAD_ENDED);
        CHECK_EQ(off_hear(raw.fault), OFF_OK);
        raw_close(&raw);

        raw_open(&raw, -1);
        CHECK(off_say(raw.fault, OFF_FAULT, 16)); /* and dies before it says which */
        shutdown(raw.fault, SHUT_RDWR);
        CHECK(strstr(pager_until(&raw.scene.pager, OFFLOAD_ENDED), "closed"));
        CHECK(!stats_of(&raw.scene).has_all);
        raw_close(&raw);
}

static void test_a_page_may_be_asked_for_in_pieces_and_twice(void)
{
        struct off_header request = { .word = OFF_FAULT, .length = 16 };
        uint64_t range[2] = { UINT64_C(1) << 32, OFF_PAGE };
        uint8_t bytes[32];
        struct raw raw;

        memcpy(bytes, &request, 16);
        memcpy(bytes + 16, range, 16);
        raw_open(&raw, -1);
        for (size_t i = 0; i < sizeof(bytes); i++) {
                CHECK(off_write(raw.fault, bytes + i, 1));
                pager_for(&raw.scene.pager, NS_PER_S / 2000);
        }
        CHECK_EQ(pager_hear(&raw.scene.pager, raw.fault), OFF_OK);
        CHECK(off_write(raw.fault, bytes, 32) && off_write(raw.fault, bytes, 32));
        for (int i = 0; i < 2; i++)
                CHECK_EQ(pager_hear(&raw.scene.pager, raw.fault), OFF_OK);
        CHECK_EQ(stats_of(&raw.scene).copied + stats_of(&raw.scene).zeroed, 1);
        CHECK_EQ(stats_of(&raw.scene).covered, 0);
        raw_close(&raw);
}

static void test_a_monitor_may_die_while_a_thread_fills_its_pages(void)
{
        for (int i = 0; i < 20; i++) {
                struct raw raw;

                raw_open(&raw, -1);
                for (int k = 0; k < 3; k++)
                        CHECK(ask(raw.fault, OFF_FAULT, 16, UINT64_C(1) << 32, HIGH_BYTES));
                if (i % 2)
                        pager_for(&raw.scene.pager, NS_PER_S / 10000);
                shutdown(raw.fault, SHUT_RDWR);
                pager_until(&raw.scene.pager, OFFLOAD_ENDED);
                raw_close(&raw);
        }
}

/* It asks as fast as the socket takes it, and never reads an answer: it has to wait, nobody else has. */
static void test_a_monitor_that_never_reads_holds_up_itself_only(void)
{
        uint64_t range[2] = { 0, OFF_PAGE };
        struct off_header request = { .word = OFF_FAULT, .length = 16 };
        uint8_t bytes[32];
        struct raw raw;
        struct scene other;
        size_t sent = 0;
        int idle = 0;

        memcpy(bytes, &request, 16);
        memcpy(bytes + 16, range, 16);
        raw_open(&raw, -1);
        while (idle < 3) {
                ssize_t n = send(raw.fault, bytes + sent % 32, 32 - sent % 32, MSG_DONTWAIT | MSG_NOSIGNAL);

                if (n > 0) {
                        sent += (size_t)n;
                        idle = 0;
                        continue;
                }
                CHECK(errno == EAGAIN);
                pager_for(&raw.scene.pager, NS_PER_S / 50);
                idle++;
        }
        CHECK(stats_of(&raw.scene).faults < sent / 32);

        /* On the same loop. */
        scene_open(&other);
        reader_close(&other.pager.reader);
        other.run = read_everything;
        off_monitor(&other.monitor, other.paths[0], false, OFF_PAGE);
        other.has_monitor = other.has_thread = true;
        other.order.peer.context = &raw.scene.pager;
        CHECK_EQ(offload_restore_open(&raw.scene.pager.loop, &raw.scene.pager.reader, &other.order, &other.offload), 0);
        CHECK_EQ(pthread_create(&other.thread, NULL, get, &other), 0);
        PAGER_UNTIL(&raw.scene.pager, other.is_over);
        CHECK_EQ(other.wrong, 0);
        pager_close_session(&raw.scene.pager, other.offload);
        other.offload = NULL;
        CHECK_EQ(reader_open(&other.pager.reader, &other.pager.loop, 1), 0);
        scene_close(&other);
        raw_close(&raw);
}

static void change_image(struct scene *scene)
{
        uint64_t word = 0;
        int fd = open(scene->paths[1], O_RDWR | O_CLOEXEC);

        scene->wrong += off_wrong(&scene->monitor, N_PAGES - 1, SEED, ZERO_SHARE);
        usleep(20000); /* past the grain of file times */
        CHECK_EQ(pwrite(fd, &word, sizeof(word), 0), sizeof(word));
        close(fd);
}

static void cut_image(struct scene *scene)
{
        scene->wrong += off_wrong(&scene->monitor, N_PAGES - 1, SEED, ZERO_SHARE);
        CHECK_EQ(truncate(scene->paths[1], OFF_PAGE), 0);
}

static void read_until_death(struct scene *scene)
{
        for (uint64_t p = 0; p < N_PAGES && !scene->monitor.is_dead; p++) {
                unsigned wrong = off_wrong(&scene->monitor, p, SEED, ZERO_SHARE);

                /* A process that has ended sees nothing. */
                scene->wrong += scene->monitor.is_dead ? 0 : wrong;
        }
}

static void changed_then_read(struct scene *scene)
{
        change_image(scene);
        read_until_death(scene);
}

static void cut_then_read(struct scene *scene)
{
        cut_image(scene);
        read_until_death(scene);
}

static void test_a_machine_whose_image_changes_ends_without_a_wrong_byte(void)
{
        void (*const runs[])(struct scene *scene) = { changed_then_read, cut_then_read };

        for (int i = 0; i < 2; i++) {
                struct scene scene;

                scene_open(&scene);
                scene.order.demand_only = true;
                scene.run = runs[i];
                begin(&scene);
                monitor_begins(&scene);
                pager_until(&scene.pager, OFFLOAD_SERVING);
                fails(&scene, "image was changed or cut");
                CHECK_EQ(pthread_join(scene.thread, NULL), 0);
                scene.has_thread = false;
                CHECK(scene.monitor.is_dead);
                CHECK_EQ(scene.wrong, 0);
                scene_close(&scene);
        }
}

/* A monitor that is a process of its own, which can be killed. Like the real one it closes its userfaultfd when a
 * page does not come, and ends some time after that; its guest runs on meanwhile. */
struct far {
        pid_t pid;
        int path_fd; /* tells it where to listen: that it is forked before there are threads */
        struct {
                atomic_bool is_here; /* it has the machine */
                atomic_ulong touched, wrong; /* pages, words */
        } *seen; /* shared with it */
};

static _Noreturn void be_far(struct far *far, int path_fd)
{
        static struct monitor monitor;
        char path[108] = "";

        if (read(path_fd, path, sizeof(path) - 1) <= 0)
                _exit(1);
        off_monitor(&monitor, path, false, OFF_PAGE);
        if (!off_receive(&monitor, 0))
                _exit(2);
        far->seen->is_here = true;
        for (uint64_t p = 0; p < N_PAGES; p++) {
                far->seen->wrong += off_wrong(&monitor, p, SEED, ZERO_SHARE);
                far->seen->touched++;
                usleep(1000);
        }
        off_finish(&monitor);
        _exit(3);
}

static void far_begin(struct far *far)
{
        int fds[2];

        far->seen = mmap(NULL, sizeof(*far->seen), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        CHECK(far->seen != MAP_FAILED && pipe2(fds, O_CLOEXEC) == 0);
        far->pid = fork();
        CHECK(far->pid >= 0);
        if (far->pid == 0)
                be_far(far, fds[0]);
        close(fds[0]);
        far->path_fd = fds[1];
}

static void far_listens(struct far *far, const char *path)
{
        CHECK_EQ(write(far->path_fd, path, strlen(path)), strlen(path));
        close(far->path_fd);
}

/* Returns how it ended. */
static int far_ends(struct far *far)
{
        int status;

        CHECK_EQ(waitpid(far->pid, &status, 0), far->pid);
        CHECK_EQ(far->seen->wrong, 0);
        munmap(far->seen, sizeof(*far->seen));
        return status;
}

static bool was_killed(int status)
{
        return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

static void far_scene(struct scene *scene, struct far *far)
{
        far_begin(far);
        scene_open(scene);
        scene->order.demand_only = true;
        far_listens(far, scene->paths[0]);
        scene->pager.n_fds--; /* the one it was told by */
}

static void far_serves(struct scene *scene, struct far *far)
{
        far_scene(scene, far);
        begin(scene);
        pager_until(&scene->pager, OFFLOAD_SERVING);
        CHECK_EQ(stats_of(scene).pid, far->pid);
        PAGER_UNTIL(&scene->pager, far->seen->touched >= 5);
}

static void test_a_monitor_is_killed_before_its_guest_can_miss_a_page(void)
{
        struct scene scene;
        struct far far;

        far_serves(&scene, &far);
        CHECK_EQ(truncate(scene.paths[1], OFF_PAGE), 0);
        fails(&scene, "image was changed or cut");
        CHECK(was_killed(far_ends(&far)));
        scene_close(&scene);
}

static void test_a_session_that_is_closed_takes_its_machine_with_it(void)
{
        struct scene scene;
        struct far far;

        far_serves(&scene, &far);
        close_offload(&scene);
        CHECK(was_killed(far_ends(&far)));
        scene_close(&scene);
}

static void test_a_machine_that_has_all_its_memory_outlives_its_session(void)
{
        struct scene scene;
        struct far far;

        far_scene(&scene, &far);
        scene.order.demand_only = false;
        begin(&scene);
        pager_until(&scene.pager, OFFLOAD_SERVING);
        pager_until(&scene.pager, OFFLOAD_ENDED);
        CHECK(stats_of(&scene).has_all);
        close_offload(&scene);
        CHECK_EQ(far_ends(&far), 3 << 8); /* it read all of its memory */
        scene_close(&scene);
}

static int kept_fd;

static int keep(void *context, int fd)
{
        struct pager *pager = context;

        kept_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        pager->loop.is_over = true;
        return kept_fd < 0 ? -errno : 0;
}

static int keep_not(void *context, int fd)
{
        (void)context;
        (void)fd;
        return -ENOENT;
}

static void test_no_monitor_gets_a_machine_before_its_connection_is_held(void)
{
        struct scene scene;
        struct far far;

        far_scene(&scene, &far);
        scene.order.keep = keep;
        begin(&scene);
        pager_run(&scene.pager);
        CHECK(kept_fd >= 0);
        pager_for(&scene.pager, NS_PER_S / 20);
        CHECK(!far.seen->is_here && !stats_of(&scene).is_serving);
        offload_kept(scene.offload, 0);
        pager_until(&scene.pager, OFFLOAD_SERVING);
        close(kept_fd);
        close_offload(&scene);
        CHECK(was_killed(far_ends(&far)));
        scene_close(&scene);
}

static void test_a_connection_that_nobody_holds_ends_it_and_harms_nobody(void)
{
        for (int i = 0; i < 3; i++) {
                struct scene scene;
                struct far far;

                far_scene(&scene, &far);
                scene.order.keep = i == 0 ? keep_not : keep;
                scene.order.peer.patience_ns = i == 2 ? NS_PER_S : PATIENCE_NS;
                begin(&scene);
                if (i > 0)
                        pager_run(&scene.pager);
                if (i == 1) {
                        scene.pager.awaited = OFFLOAD_FAILED;
                        offload_kept(scene.offload, -ETIMEDOUT);
                        CHECK(scene.pager.came && strstr(scene.pager.why, "holds"));
                } else {
                        fails(&scene, i == 0 ? "connected to" : "hold the monitor's connection in time");
                }
                if (i > 0)
                        close(kept_fd);
                close_offload(&scene);
                CHECK_EQ(far_ends(&far), 2 << 8); /* by itself */
                scene_close(&scene);
        }
}

/* What is left of a server that died: a connection that somebody else holds. */
static void test_a_successor_ends_what_its_predecessor_served(void)
{
        struct scene scene;
        struct far far;

        far_scene(&scene, &far);
        scene.order.keep = keep;
        begin(&scene);
        pager_run(&scene.pager);
        offload_kept(scene.offload, 0);
        pager_until(&scene.pager, OFFLOAD_SERVING);
        PAGER_UNTIL(&scene.pager, far.seen->touched >= 5);
        /* Nobody answers: the guest waits. */
        usleep(100000);
        CHECK(far.seen->touched < 20);
        CHECK_EQ(waitpid(far.pid, &(int){ 0 }, WNOHANG), 0);
        CHECK_EQ(offload_end_orphan(kept_fd), 1);
        CHECK(was_killed(far_ends(&far)));
        pager_until(&scene.pager, OFFLOAD_ENDED);
        CHECK_EQ(offload_end_orphan(kept_fd), 0);
        close(kept_fd);
        scene_close(&scene);
}

static void test_a_session_can_be_closed_at_any_time(void)
{
        for (int us = 0; us < 4000; us += 200) {
                struct scene scene;

                scene_open(&scene);
                make_set(&scene, false);
                scene.order.demand_only = us % 400 == 0;
                scene.run = read_until_death;
                begin(&scene);
                monitor_begins(&scene);
                pager_for(&scene.pager, us * 1000);
                close_offload(&scene);
                /* Who was not called yet waits for a call. */
                if (scene.has_thread)
                        shutdown(scene.monitor.listener_fd, SHUT_RDWR);
                CHECK_EQ(pthread_join(scene.thread, NULL), 0);
                scene.has_thread = false;
                CHECK_EQ(scene.wrong, 0);
                scene_close(&scene);
        }
}

/* Listen as nobody where the pipe says. It ends well if whoever connects says nothing. Forked before there are
 * threads. */
static pid_t impostor(int *ret_path_fd)
{
        char path[108] = "", byte;
        int fds[2], listener, fd;
        pid_t pid;

        CHECK_EQ(pipe2(fds, O_CLOEXEC), 0);
        pid = fork();
        CHECK(pid >= 0);
        if (pid > 0) {
                close(fds[0]);
                *ret_path_fd = fds[1];
                return pid;
        }
        if (read(fds[0], path, sizeof(path) - 1) <= 0 || setuid(65534) < 0)
                _exit(2);
        listener = off_listen(path);
        if (chmod(path, 0666) < 0)
                _exit(3);
        fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        _exit(fd >= 0 && read(fd, &byte, 1) == 0 ? 0 : 1);
}

static void test_memory_is_given_to_the_right_user_only(void)
{
        struct scene scene;
        int path_fd, status;
        pid_t pid;

        if (geteuid() != 0)
                return;
        pid = impostor(&path_fd);
        scene_open(&scene);
        CHECK_EQ(chmod(scene.pager.directory, 0777), 0);
        CHECK_EQ(write(path_fd, scene.paths[0], strlen(scene.paths[0])), strlen(scene.paths[0]));
        begin(&scene);
        fails(&scene, "not the monitor's user");
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        CHECK_EQ(status, 0);
        scene_close(&scene);
        close(path_fd);
}

/* A process that has closed its end of the connection, and lives on. */
static void test_who_has_closed_its_connection_is_no_orphan(void)
{
        char path[64] = "/tmp/offload-XXXXXX";
        int fd, status, tries = 0;
        pid_t pid;

        CHECK(mkdtemp(path));
        strcat(path, "/socket");
        pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
                fd = off_listen(path);
                close(accept4(fd, NULL, NULL, SOCK_CLOEXEC));
                for (;;)
                        pause();
        }
        while ((fd = off_connect(path)) < 0 && tries++ < 10000)
                usleep(1000);
        CHECK(fd >= 0);
        CHECK_EQ(off_hear(fd), OFF_CLOSED);
        CHECK_EQ(offload_end_orphan(fd), 0);
        close(fd);
        CHECK_EQ(waitpid(pid, &status, WNOHANG), 0);
        CHECK_EQ(kill(pid, SIGKILL), 0);
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        unlink(path);
        *strrchr(path, '/') = '\0';
        CHECK_EQ(rmdir(path), 0);
}

static bool has_userfaultfd(void)
{
        int fd = off_new_uffd(true);

        if (fd < 0)
                return false;
        close(fd);
        return true;
}

int main(void)
{
        test_orders_that_contradict_themselves_are_refused();
        test_files_that_do_not_fit_are_told_before_anybody_is_called();
        test_nobody_and_silence_are_given_up();
        test_answers_that_are_none_end_it();
        test_a_monitor_may_die_at_any_step();
        test_requests_for_memory_that_is_not_there_end_it();
        test_a_descriptor_with_a_request_ends_it();
        test_a_monitor_that_leaves_is_let_go();
        test_a_page_may_be_asked_for_in_pieces_and_twice();
        test_a_monitor_may_die_while_a_thread_fills_its_pages();
        test_who_has_closed_its_connection_is_no_orphan();
        test_memory_is_given_to_the_right_user_only();
        if (!has_userfaultfd()) {
                printf("the other tests need a userfaultfd: %s\n", strerror(errno));
                return 0;
        }
        test_a_guest_sees_its_memory_page_by_page();
        test_without_the_monitors_sweep_a_machine_takes_what_it_touches();
        test_a_machine_that_has_all_its_memory_needs_nobody();
        test_a_monitor_may_have_all_its_memory_before_it_has_its_machine();
        test_huge_pages_are_filled_whole();
        test_an_image_that_is_not_in_memory_is_read_by_a_thread();
        test_a_working_set_is_there_before_it_is_asked_for();
        test_pages_filled_ahead_are_those_of_the_set();
        test_what_the_guest_writes_while_memory_is_filled_stays();
        test_pages_given_back_are_zeros_when_they_come_again();
        test_a_record_says_what_was_touched_in_which_order_and_how();
        test_a_record_that_cannot_be_written_is_no_harm_to_the_machine();
        test_a_refusal_at_any_step_is_told_as_such();
        test_the_monitor_may_come_to_listen_later();
        test_a_monitor_that_never_reads_holds_up_itself_only();
        test_a_machine_whose_image_changes_ends_without_a_wrong_byte();
        test_a_monitor_is_killed_before_its_guest_can_miss_a_page();
        test_a_session_that_is_closed_takes_its_machine_with_it();
        test_a_machine_that_has_all_its_memory_outlives_its_session();
        test_no_monitor_gets_a_machine_before_its_connection_is_held();
        test_a_connection_that_nobody_holds_ends_it_and_harms_nobody();
        test_a_successor_ends_what_its_predecessor_served();
        test_a_session_can_be_closed_at_any_time();
        return 0;
}
