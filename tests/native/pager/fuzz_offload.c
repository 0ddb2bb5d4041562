/* Whatever a monitor says in the offload protocol: what is accepted is sound, every session ends when its
 * monitor does, and a snapshot that is not saved leaves no file.
 * Input: what is tried, then messages of it. Streams come in chunks: a byte, of which the lower six bits
 * say how many bytes follow and the upper two which descriptors come with them. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "deadline.h"
#include "fuzz.h"
#include "offload.h"
#include "offload_intake.h"
#include "offload_link.h"

#define CHUNK_BYTES 0x3f
#define N_IMAGE_PAGES 24
#define LIMIT_S 20 /* nothing takes as long */

enum { TRY_INTAKE, TRY_SNAPSHOT, TRY_RESTORE, TRIES };

static const char config[] = "{\"memory_manager_data\":{\"guest_ram_mappings\":["
                             "{\"slot\":0,\"gpa\":0,\"size\":65536,\"file_offset\":0},"
                             "{\"slot\":5,\"gpa\":4294967296,\"size\":32768,\"file_offset\":65536}]}}";

/* ---- messages alone */

static void check_layout(const struct offload_layout *layout)
{
        uint64_t offset = 0;

        REQUIRE(layout->n_slots >= 1 && layout->n_slots <= OFFLOAD_MAX_SLOTS);
        for (size_t i = 0; i < layout->n_slots; i++) {
                const struct offload_slot *slot = &layout->slots[i];

                REQUIRE(slot->size_bytes > 0 && (slot->size_bytes | slot->address | slot->file_offset) % 4096 == 0);
                REQUIRE(slot->offset == offset);
                REQUIRE(slot->address + slot->size_bytes > slot->address);
                REQUIRE(slot->file_offset + slot->size_bytes < INT64_MAX);
                REQUIRE(offload_layout_at(layout, offset) == i);
                offset += slot->size_bytes;
                REQUIRE(offload_layout_at(layout, offset - 1) == i);
                for (size_t k = 0; k < i; k++)
                        REQUIRE(slot->address >= layout->slots[k].address + layout->slots[k].size_bytes ||
                                layout->slots[k].address >= slot->address + slot->size_bytes);
        }
        REQUIRE(offset == layout->size_bytes && offset / 4096 <= UINT32_MAX);
}

static void check_range(const struct offload_layout *layout, struct fuzz_input *input)
{
        struct offload_range range = { fuzz_take(input, 8), fuzz_take(input, 8) };
        uint64_t page, pages;

        if (offload_layout_pages(layout, &range, &page, &pages) == 0)
                REQUIRE(pages > 0 && pages == range.length / 4096 && page + pages <= layout->size_bytes / 4096);
}

static int receive(struct intake *intake, int act, uint64_t length, struct fuzz_input *input)
{
        const char *text = (const char *)input->at;
        int r;

        if (act == INTAKE_RECEIVE_SLOT)
                return intake_slot(intake, (uint32_t)fuzz_take(input, OFFLOAD_SLOT_BYTES));
        if (length > input->left)
                return -EAGAIN;
        input->at += length;
        input->left -= length;
        if (act == INTAKE_RECEIVE_STATE)
                return 0;
        r = intake_config(intake, text, length);
        if (r == 0)
                check_layout(&intake->layout);
        return r;
}

static int take_message(struct intake *intake, struct fuzz_input *input)
{
        uint8_t header[OFFLOAD_HEADER_BYTES];
        struct offload_request request;
        int act;

        for (size_t i = 0; i < sizeof(header); i++)
                header[i] = (uint8_t)fuzz_take(input, 1);
        if (offload_read_request(header, &request) < 0)
                return -EBADMSG;
        act = intake_request(intake, &request);
        if (act == INTAKE_RECEIVE_SLOT || act == INTAKE_RECEIVE_CONFIG || act == INTAKE_RECEIVE_STATE)
                return receive(intake, act, request.length, input);
        return act;
}

static void try_intake(struct fuzz_input *input)
{
        struct intake intake = { 0 };
        int r = INTAKE_ACKNOWLEDGE;

        while (input->left > 0 && r >= 0 && r != INTAKE_SAVE && r != INTAKE_END) {
                r = take_message(&intake, input);
                REQUIRE((r == -EPROTO) == (intake.why != NULL) || r == INTAKE_END);
                REQUIRE(intake.n_slots <= OFFLOAD_MAX_SLOTS);
        }
        if (r != INTAKE_SAVE)
                return;
        REQUIRE(intake.n_slots == intake.layout.n_slots);
        for (size_t i = 0; i < intake.n_slots; i++)
                REQUIRE(intake.slots[intake_source(&intake, i)] == intake.layout.slots[i].number);
        while (input->left > 0)
                check_range(&intake.layout, input);
}

/* ---- sessions */

struct stage {
        bool is_open;
        struct loop loop;
        struct reader reader;
        struct idler idler;
        struct image image;
        char paths[4][640]; /* socket, image, configuration, state */
        int memory_fd, pipe_fds[2];
        bool has_ended, is_saved, is_closed;
};

static struct stage stage;

static void happened(void *context, enum offload_event event, const char *why)
{
        (void)context;
        REQUIRE(event == OFFLOAD_FAILED ? why != NULL : true);
        stage.has_ended |= event != OFFLOAD_SERVING;
        stage.is_saved |= event == OFFLOAD_SAVED;
}

static void closed(void *context)
{
        (void)context;
        stage.is_closed = true;
}

static bool stop_round(struct idler *idler)
{
        (void)idler;
        stage.loop.is_over = true;
        return false;
}

/* One round of the loop, without waiting. */
static void turn(void)
{
        stage.loop.is_over = false;
        loop_busy(&stage.loop, &stage.idler);
        REQUIRE(loop_run(&stage.loop) == 0);
}

static void turn_until(const bool *done)
{
        int64_t limit_ns = now_ns() + LIMIT_S * NS_PER_S;

        while (!*done) {
                turn();
                REQUIRE(now_ns() < limit_ns);
        }
}

static void open_stage(void)
{
        static const char *const names[] = { "socket", "image", "config", "state" };
        static uint8_t page[4096];

        for (int i = 0; i < 4; i++)
                snprintf(stage.paths[i], sizeof(stage.paths[i]), "%s", fuzz_path(names[i]));
        REQUIRE(loop_open(&stage.loop) == 0 && reader_open(&stage.reader, &stage.loop, 1) == 0);
        stage.idler.step = stop_round;
        stage.memory_fd = memfd_create("image", MFD_CLOEXEC);
        REQUIRE(stage.memory_fd >= 0 && ftruncate(stage.memory_fd, N_IMAGE_PAGES * 4096) == 0);
        for (int i = 0; i < N_IMAGE_PAGES; i += 2) {
                memset(page, i + 1, sizeof(page));
                REQUIRE(pwrite(stage.memory_fd, page, sizeof(page), i * 4096) == sizeof(page));
        }
        REQUIRE(image_open_fd(fcntl(stage.memory_fd, F_DUPFD_CLOEXEC, 0), &stage.image) == 0);
        REQUIRE(pipe2(stage.pipe_fds, O_CLOEXEC) == 0);
        stage.is_open = true;
}

static struct offload_peer peer(void)
{
        stage.has_ended = stage.is_saved = stage.is_closed = false;
        return (struct offload_peer){
                .socket = stage.paths[0],
                .uid = geteuid(),
                .patience_ns = LIMIT_S * NS_PER_S,
                .event = happened,
                .closed = closed,
        };
}

static struct sockaddr_un address(void)
{
        struct sockaddr_un name = { .sun_family = AF_UNIX };

        REQUIRE(strlen(stage.paths[0]) < sizeof(name.sun_path));
        strcpy(name.sun_path, stage.paths[0]);
        return name;
}

/* Send a chunk, with as many descriptors of this kind or that as its first byte says. */
static ssize_t send_chunk(int fd, const uint8_t *bytes, size_t n, unsigned kind)
{
        static const size_t counts[] = { 0, 1, 1, 2 };
        int fds[] = { kind == 2 ? stage.pipe_fds[0] : stage.memory_fd, stage.memory_fd };
        struct iovec iov = { (void *)bytes, n };
        char control[CMSG_SPACE(sizeof(fds))] __attribute__((aligned(8))) = { 0 };
        struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

        if (counts[kind] > 0) {
                message.msg_control = control;
                message.msg_controllen = CMSG_SPACE(counts[kind] * sizeof(int));
                *CMSG_FIRSTHDR(&message) = (struct cmsghdr){
                        .cmsg_level = SOL_SOCKET,
                        .cmsg_type = SCM_RIGHTS,
                        .cmsg_len = CMSG_LEN(counts[kind] * sizeof(int)),
                };
                memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), fds, counts[kind] * sizeof(int));
        }
        return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* What comes back is answers, whatever was said. */
static void read_answers(int fd)
{
        uint8_t bytes[OFFLOAD_HEADER_BYTES];
        struct offload_response response;

        while (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) == sizeof(bytes))
                REQUIRE(offload_read_response(bytes, &response) == 0 && response.length == 0);
}

static void say(int fd, struct fuzz_input *input, bool reads)
{
        while (input->left > 0 && !stage.has_ended) {
                uint8_t head = (uint8_t)fuzz_take(input, 1);
                size_t n = head & CHUNK_BYTES;

                n = n < input->left ? n : input->left;
                if (n == 0)
                        continue;
                if (send_chunk(fd, input->at, n, head >> 6) < 0 && errno != EAGAIN)
                        return;
                input->at += n;
                input->left -= n;
                turn();
                if (reads)
                        read_answers(fd);
        }
}

static void try_snapshot(struct fuzz_input *input)
{
        struct offload_snapshot_order order = {
                .peer = peer(), .image = stage.paths[1], .config = stage.paths[2], .state = stage.paths[3]
        };
        struct sockaddr_un name = address();
        struct offload *offload;
        struct offload_stats stats;
        struct stat st;
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        REQUIRE(offload_snapshot_open(&stage.loop, &stage.reader, &order, &offload) == 0);
        REQUIRE(connect(fd, (struct sockaddr *)&name, sizeof(name)) == 0);
        turn();
        say(fd, input, true);
        shutdown(fd, SHUT_WR);
        turn_until(&stage.has_ended);
        close(fd);
        offload_get_stats(offload, &stats);
        offload_close(offload);
        turn_until(&stage.is_closed);
        REQUIRE((stat(stage.paths[1], &st) == 0) == stage.is_saved);
        REQUIRE(!stage.is_saved || (uint64_t)st.st_size == stats.pages * 4096);
        for (int i = 0; i < 4; i++)
                REQUIRE((unlink(stage.paths[i]) == 0) == (stage.is_saved && i > 0));
}

static void accept_all(int fd, int n)
{
        uint8_t ok[OFFLOAD_HEADER_BYTES];

        offload_write_response(ok, OFFLOAD_OK);
        for (int i = 0; i < n; i++)
                if (send(fd, ok, sizeof(ok), MSG_NOSIGNAL) < 0)
                        return;
        for (int i = 0; i < 8 && n > 0; i++)
                turn();
}

/* A monitor that accepts everything, whose requests for pages are the input's. */
static void ask_for_pages(int listener, int control, bool demand_only, struct fuzz_input *input)
{
        static const uint8_t first[OFFLOAD_HEADER_BYTES + OFFLOAD_RANGE_BYTES] = {
                OFFLOAD_PAGE_FAULT, [8] = OFFLOAD_RANGE_BYTES, [25] = 0x10
        };
        uint8_t role[OFFLOAD_ROLE_BYTES], answer[OFFLOAD_HEADER_BYTES];
        int fd;

        accept_all(control, 4);
        fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        REQUIRE(fd >= 0 && recv(fd, role, sizeof(role), MSG_DONTWAIT) == sizeof(role) && role[0] == OFFLOAD_ROLE_FAULT);
        if (demand_only) {
                REQUIRE(send(fd, first, sizeof(first), MSG_NOSIGNAL) == sizeof(first));
                turn();
                REQUIRE(recv(fd, answer, sizeof(answer), MSG_DONTWAIT) == sizeof(answer) && answer[0] == OFFLOAD_ERROR);
        }
        accept_all(control, 2);
        REQUIRE(!stage.has_ended);
        say(fd, input, true);
        shutdown(fd, SHUT_RDWR);
        turn_until(&stage.has_ended);
        close(fd);
}

/* A monitor whose answers are the input's. */
static void answer_anything(int listener, int control, struct fuzz_input *input)
{
        say(control, input, false);
        shutdown(control, SHUT_WR);
        for (int i = 0; i < 8; i++)
                turn();
        close(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
        turn_until(&stage.has_ended);
}

static void try_restore(struct fuzz_input *input)
{
        uint64_t how = fuzz_take(input, 1);
        struct offload_restore_order order = {
                .peer = peer(),
                .image = &stage.image,
                .config = stage.paths[2],
                .state = stage.paths[3],
                .demand_only = how & 1,
        };
        static struct fuzz_file text = { .length = sizeof(config) - 1 };
        struct sockaddr_un name = address();
        int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), control = -1;
        struct offload *offload;

        memcpy(text.bytes, config, text.length);
        fuzz_write("config", &text);
        fuzz_write("state", &text);
        REQUIRE(bind(listener, (struct sockaddr *)&name, sizeof(name)) == 0 && listen(listener, 2) == 0);
        REQUIRE(offload_restore_open(&stage.loop, &stage.reader, &order, &offload) == 0);
        for (; control < 0 && !stage.has_ended; control = accept4(listener, NULL, NULL, SOCK_CLOEXEC))
                turn();
        REQUIRE(control >= 0);
        if (how & 2)
                answer_anything(listener, control, input);
        else
                ask_for_pages(listener, control, order.demand_only, input);
        close(listener);
        close(control);
        offload_close(offload);
        turn_until(&stage.is_closed);
        for (int i = 0; i < 4; i++)
                REQUIRE((unlink(stage.paths[i]) == 0) == (i != 1));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct fuzz_input input = { data, size };

        if (!stage.is_open)
                open_stage();
        switch (fuzz_take(&input, 1) % TRIES) {
        case TRY_SNAPSHOT:
                try_snapshot(&input);
                break;
        case TRY_RESTORE:
                try_restore(&input);
                break;
        default:
                try_intake(&input);
        }
        return 0;
}
