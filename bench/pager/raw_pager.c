/* The smallest page server that can be written for one machine: what ours is compared with.
 *
 * No control socket, no journal, no other machine, nothing checked that a guest could get wrong: one
 * poll, one read, one ioctl.
 *
 * usage: raw_pager MODE --socket PATH --image PATH [--trace FILE] [--data FILE] [--cold]
 *
 *   demand   every page when it is asked for
 *   before   the trace's pages before the guest resumes, by copying
 *   while    the same while it runs, in batches between which faults are served
 *   share    before: read pages by CONTINUE, written ones by copying (a memfd, which --image names)
 *   bulk     as many pages as the trace has, one after the other, in chunks of 2 MiB
 *   runs     the trace's pages, all of them copied, one ioctl for each run of the trace
 *
 * --data: the content of the trace's pages that are not zeros, in its order; read ahead and taken
 * instead of the image. --cold: read nothing before the machine is there.
 *
 * Says {"ready":true} when it listens; ends when the machine does, with a JSON line. */
#define _GNU_SOURCE
#include "common.h"

#include <getopt.h>
#include <inttypes.h>

#define CHUNK (512 * PAGE)
#define BATCH 16 /* runs between two looks for faults */

enum mode { DEMAND, BEFORE, WHILE, SHARE, BULK, RUNS, N_MODES };
static const char *const mode_names[N_MODES] = {"demand", "before", "while",
                                                "share",  "bulk",   "runs"};

enum how { COPY, ZERO, CONTINUE };

/* Touches that follow each other in guest memory and are installed alike, by one ioctl. */
struct run {
        uint64_t page, pages;
        enum how how;
        bool is_zero;
        const uint8_t *source;
};

struct server {
        enum mode mode;
        const char *socket_path, *image_path, *data_path;
        bool is_cold;
        struct trace trace;
        struct run *runs;
        size_t n_runs;
        size_t size, data_size;
        const uint8_t *image, *data;
        int data_fd, sock, uffd;
        uint64_t base, faults, installed;
        int64_t install_ns;
};

static const uint8_t zeros[16 * 4096] __attribute__((aligned(4096)));

static const uint8_t *map_file(const char *path, int *ret_fd, size_t *ret_size)
{
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        struct stat status;
        uint8_t *memory;

        if (fd < 0 || fstat(fd, &status) != 0)
                fail("cannot open %s", path);
        memory = mmap(NULL, status.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (memory == MAP_FAILED)
                fail("cannot map %s", path);
        *ret_fd = fd;
        *ret_size = status.st_size;
        return memory;
}

static void open_sources(struct server *server)
{
        int fd;

        server->image = map_file(server->image_path, &fd, &server->size);
        if (server->is_cold)
                madvise((void *)server->image, server->size, MADV_RANDOM);
        else if (madvise((void *)server->image, server->size, MADV_POPULATE_READ) != 0)
                fail("cannot populate %s", server->image_path);
        if (server->data_path)
                server->data = map_file(server->data_path, &server->data_fd, &server->data_size);
}

static enum how choose(const struct server *server, const struct touch *touch)
{
        if (server->mode == RUNS)
                return COPY;
        if (server->mode == SHARE)
                return touch->is_write ? COPY : CONTINUE;
        return touch->is_zero && !touch->is_write ? ZERO : COPY;
}

/* Written pages of zeros are copied from a few zeros, if the data file, which has none, is read. */
static bool is_joined(const struct server *server, const struct run *run, const struct touch *touch)
{
        bool is_split = server->data && run->is_zero != touch->is_zero;

        if (run->page + run->pages != touch->page || run->how != choose(server, touch) || is_split)
                return false;
        return !(server->data && run->is_zero) || run->how == ZERO || run->pages < 16;
}

static void make_runs(struct server *server)
{
        const uint8_t *data = server->data;
        struct run *run = NULL;

        server->runs = calloc(server->trace.n + 1, sizeof(*server->runs));
        if (!server->runs)
                fail("no memory for the runs");
        for (size_t i = 0; i < server->trace.n; i++) {
                const struct touch *touch = &server->trace.touches[i];

                if (!run || !is_joined(server, run, touch)) {
                        run = &server->runs[server->n_runs++];
                        *run = (struct run){touch->page, 0, choose(server, touch), touch->is_zero,
                                            server->image + touch->page * PAGE};
                        if (server->data)
                                run->source = touch->is_zero ? zeros : data;
                }
                run->pages++;
                if (data && !touch->is_zero)
                        data += PAGE;
        }
}

/* Copy, stepping over pages that are there already, whose faults are woken. */
static void copy(struct server *server, uint64_t to, const uint8_t *from, size_t length)
{
        while (length) {
                struct uffdio_copy order = {.dst = to, .src = (uintptr_t)from, .len = length};
                size_t done;

                if (ioctl(server->uffd, UFFDIO_COPY, &order) == 0)
                        return;
                if (errno != EEXIST && errno != EAGAIN)
                        fail("cannot copy");
                done = order.copy > 0 ? (size_t)order.copy : 0;
                if (errno == EEXIST || order.copy == -EEXIST) {
                        struct uffdio_range range = {to, PAGE};
                        ioctl(server->uffd, UFFDIO_WAKE, &range);
                        done = PAGE;
                }
                to += done;
                from += done;
                length -= done;
        }
}

/* Zeros, or the memfd's own pages; one that is there already ends the range: the rest page by page. */
static void map_range(struct server *server, enum how how, uint64_t to, size_t length)
{
        struct uffdio_zeropage zero = {.range = {to, length}};
        struct uffdio_continue resume = {.range = {to, length}};
        int rc = how == ZERO ? ioctl(server->uffd, UFFDIO_ZEROPAGE, &zero)
                             : ioctl(server->uffd, UFFDIO_CONTINUE, &resume);

        if (rc == 0)
                return;
        if (errno != EEXIST && errno != EAGAIN)
                fail("cannot map pages");
        if (length == PAGE) {
                struct uffdio_range range = {to, PAGE};
                ioctl(server->uffd, UFFDIO_WAKE, &range);
                return;
        }
        for (size_t at = 0; at < length; at += PAGE)
                map_range(server, how, to + at, PAGE);
}

static void install(struct server *server, const struct run *run)
{
        uint64_t to = server->base + run->page * PAGE;

        if (run->how == COPY)
                copy(server, to, run->source, run->pages * PAGE);
        else
                map_range(server, run->how, to, run->pages * PAGE);
        server->installed += run->pages;
}

static void install_bulk(struct server *server)
{
        size_t length = server->trace.n * PAGE;

        for (size_t at = 0; at < length; at += CHUNK)
                copy(server, server->base + at, server->image + at,
                     length - at < CHUNK ? length - at : CHUNK);
        server->installed = server->trace.n;
}

static void serve_fault(struct server *server, const struct uffd_msg *message)
{
        uint64_t to = message->arg.pagefault.address & ~(uint64_t)(PAGE - 1);

        server->faults++;
        if (message->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR)
                map_range(server, CONTINUE, to, PAGE);
        else
                copy(server, to, server->image + (to - server->base), PAGE);
}

/* Look for faults, for at most @timeout_ms. Returns whether the machine lives. */
static bool serve(struct server *server, int timeout_ms)
{
        struct pollfd polled[2] = {{.fd = server->uffd, .events = POLLIN},
                                   {.fd = server->sock, .events = POLLIN}};
        struct uffd_msg message;

        if (poll(polled, 2, timeout_ms) <= 0)
                return true;
        if (polled[0].revents & POLLIN) {
                if (read(server->uffd, &message, sizeof(message)) == sizeof(message) &&
                    message.event == UFFD_EVENT_PAGEFAULT)
                        serve_fault(server, &message);
                return true;
        }
        return polled[1].revents == 0;
}

static void accept_machine(struct server *server)
{
        struct sockaddr_un where = unix_address(server->socket_path);
        int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        char text[1024], *base;

        if (listener < 0 || bind(listener, (struct sockaddr *)&where, sizeof(where)) != 0 ||
            listen(listener, 1) != 0)
                fail("cannot listen on %s", server->socket_path);
        printf("{\"ready\":true}\n");
        fflush(stdout);
        server->sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (server->sock < 0)
                fail("no machine came");
        receive_fd(server->sock, text, sizeof(text), &server->uffd);
        base = strstr(text, "\"base_host_virt_addr\":");
        if (!base || sscanf(base, "\"base_host_virt_addr\":%" SCNu64, &server->base) != 1)
                fail("no region in %s", text);
}

static void resume(struct server *server)
{
        if (send(server->sock, "r", 1, MSG_NOSIGNAL) != 1)
                fail("the machine went away");
}

static void prefetch(struct server *server)
{
        int64_t begun = now_ns();

        if (server->data)
                readahead(server->data_fd, 0, server->data_size);
        if (server->mode == WHILE)
                resume(server);
        if (server->mode == BULK)
                install_bulk(server);
        for (size_t i = 0; i < server->n_runs; i++) {
                install(server, &server->runs[i]);
                if (server->mode == WHILE && i % BATCH == BATCH - 1)
                        serve(server, 0);
        }
        server->install_ns = now_ns() - begun;
        if (server->mode != WHILE)
                resume(server);
}

static void parse(struct server *server, int argc, char **argv)
{
        static const struct option options[] = {
                {"socket", 1, NULL, 's'}, {"image", 1, NULL, 'i'}, {"trace", 1, NULL, 't'},
                {"data", 1, NULL, 'd'},   {"cold", 0, NULL, 'c'},  {NULL, 0, NULL, 0},
        };
        int option;

        while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
                if (option == 's')
                        server->socket_path = optarg;
                else if (option == 'i')
                        server->image_path = optarg;
                else if (option == 't')
                        server->trace = read_trace(optarg);
                else if (option == 'd')
                        server->data_path = optarg;
                else if (option == 'c')
                        server->is_cold = true;
                else
                        exit(2);
        }
        server->mode = N_MODES;
        for (int i = 0; i < N_MODES && optind < argc; i++)
                if (strcmp(argv[optind], mode_names[i]) == 0)
                        server->mode = i;
        if (server->mode == N_MODES || !server->socket_path || !server->image_path)
                exit(2);
}

int main(int argc, char **argv)
{
        struct server server = {.data_fd = -1};

        parse(&server, argc, argv);
        open_sources(&server);
        if (server.mode != DEMAND && server.mode != BULK)
                make_runs(&server);
        accept_machine(&server);
        prefetch(&server);
        while (serve(&server, -1))
                ;
        printf("{\"faults\":%" PRIu64 ",\"installed\":%" PRIu64 ",\"runs\":%zu,\"install_ns\":%" PRId64
               "}\n",
               server.faults, server.installed, server.n_runs, server.install_ns);
        return 0;
}
