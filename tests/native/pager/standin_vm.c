/* A stand-in for a monitor and its guest, for the page server's tests and benchmarks.
 *
 * It maps guest memory, hands the userfaultfd over exactly as the monitor it stands for does, touches
 * memory and checks every byte it sees against what has to be there. What it is not: a guest. There is no
 * KVM; its vCPUs are threads.
 *
 *   standin_vm --socket S --protocol firecracker|firecracker-old|kuasar|memfd --image PATH --regions BYTES[h],...
 *              [--seed N] [--vcpus N] [--trace FILE] [--latencies FILE] [--split first|last|late] [--closes]
 *              [--no-hold] [--no-remove-events]
 *
 * --image: written by standin_image. With memfd a file on tmpfs or a memfd (/proc/PID/fd/N) is mapped as it
 *   is, of anything else a memfd is made.
 * --regions: sizes, one after the other in the image; h: huge pages of 2 MiB.
 * --split: send the message in two pieces, descriptors with the first, the last, or after everything.
 * --closes: the connection, after the hand-over (kuasar always does).
 * --no-hold: keep no userfaultfd after the hand-over, as a monitor that moves it away.
 * --no-remove-events: do not ask for EVENT_REMOVE, as Firecracker before 1.11 in effect. Nobody can know
 *   then that a page was given back which had never been touched: for traces only, not for random.
 *
 * Commands, one a line on stdin; the answer is a line of JSON on stdout. Times are nanoseconds.
 *   map             map memory, make the userfaultfd, register        {"ok":true,"ns":N}
 *   connect         hand it over                                      {"ok":true,"ns":N}; ok false: no server
 *   run             touch as --trace says; --latencies: of each touch {"ok":true,"ns":N,"touches":N,"wrong":BYTES}
 *   random COUNT    COUNT touches of all vCPUs, removals meanwhile    {"ok":true,"touches":N,"writes":N,"races":N,
 *                        "removals":N,"removed_pages":N,"wrong":BYTES,"max_ns":N,"max_remove_ns":N}
 *   verify          every byte of every page                          {"ok":true,"pages":N,"wrong":BYTES,"max_ns":N}
 *   memory          what guest memory takes                           {"ok":true,"rss_kb":N,"pss_kb":N,
 *                                                                      "private_dirty_kb":N}
 *   quit
 * "wrong" is of this command alone, in whole words of 8 bytes; the first are described on stderr. max_ns:
 * the longest single touch, or the longest single madvise(2). It ends when its parent does. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <unistd.h>

#include "fdutil.h"
#include "standin_die.h"
#include "standin_guest.h"
#include "standin_hand_over.h"
#include "standin_random.h"
#include "standin_trace.h"

#define LINE_BYTES 256
#define PARENT_CHECK_US 200000

struct machine {
        struct guest guest;
        struct model model;
        struct trace trace;
        struct hand_over order;
        uint64_t seed, batches; /* batches: of random touches so far */
        unsigned vcpus;
        bool is_holding;
        const char *trace_path, *latencies_path;
        int connection_fd; /* owned; a monitor never reads from it */
};

static _Noreturn void usage(void)
{
        fprintf(stderr, "usage: standin_vm --socket S --protocol firecracker|firecracker-old|kuasar|memfd --image PATH\n"
                        "  --regions BYTES[h],... [--seed N] [--vcpus N] [--trace FILE] [--latencies FILE]\n"
                        "  [--split first|last|late] [--closes] [--no-hold] [--no-remove-events]\n");
        exit(2);
}

static int find_word(const char *const *words, int n, const char *word)
{
        for (int i = 0; i < n; i++)
                if (words[i] && strcmp(words[i], word) == 0)
                        return i;
        usage();
}

static void set_protocol(struct machine *machine, const char *name)
{
        static const char *const names[] = {
                [DIALECT_FIRECRACKER] = "firecracker",
                [DIALECT_FIRECRACKER_OLD] = "firecracker-old",
                [DIALECT_KUASAR] = "kuasar",
                [DIALECT_MEMFD] = "memfd",
        };

        machine->order.dialect = (enum dialect)find_word(names, 4, name);
        machine->order.closes |= machine->order.dialect == DIALECT_KUASAR;
        machine->guest.is_sharing = machine->order.dialect == DIALECT_MEMFD;
}

static void set_split(struct machine *machine, const char *name)
{
        static const char *const names[] = {
                [SPLIT_FIRST] = "first", [SPLIT_LAST] = "last", [SPLIT_LATE] = "late",
        };

        machine->order.split = (enum split)find_word(names, 4, name);
}

static void set_option(struct machine *machine, int option, const char *value)
{
        switch (option) {
        case 's': machine->order.socket_path = value; return;
        case 'p': set_protocol(machine, value); return;
        case 'i': machine->order.image_path = value; return;
        case 'r': guest_parse_regions(&machine->guest, value); return;
        case 'n': machine->seed = strtoull(value, NULL, 0); return;
        case 'v': machine->vcpus = (unsigned)strtoul(value, NULL, 0); return;
        case 't': machine->trace_path = value; return;
        case 'l': machine->latencies_path = value; return;
        case 'c': set_split(machine, value); return;
        case 'o': machine->order.closes = true; return;
        case 'h': machine->is_holding = false; return;
        case 'e': machine->guest.has_removals = false; return;
        default: usage();
        }
}

static void read_options(struct machine *machine, int argc, char **argv)
{
        static const struct option options[] = {
                {"socket", required_argument, NULL, 's'}, {"protocol", required_argument, NULL, 'p'},
                {"image", required_argument, NULL, 'i'}, {"regions", required_argument, NULL, 'r'},
                {"seed", required_argument, NULL, 'n'}, {"vcpus", required_argument, NULL, 'v'},
                {"trace", required_argument, NULL, 't'}, {"latencies", required_argument, NULL, 'l'},
                {"split", required_argument, NULL, 'c'}, {"closes", no_argument, NULL, 'o'},
                {"no-hold", no_argument, NULL, 'h'}, {"no-remove-events", no_argument, NULL, 'e'},
                {0},
        };
        int option;

        while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0)
                set_option(machine, option, optarg);
        if (optind != argc || !machine->order.socket_path || !machine->order.image_path || !machine->guest.n_regions)
                usage();
}

/* -- commands -------------------------------------------------------------------------------------- */

static uint64_t wrong_since(const struct machine *machine, uint64_t before)
{
        return atomic_load(&machine->model.wrong_bytes) - before;
}

static void do_map(struct machine *machine)
{
        uint64_t start_ns = clock_ns();

        guest_map(&machine->guest);
        printf("{\"ok\":true,\"ns\":%" PRIu64 "}\n", clock_ns() - start_ns);
}

static void do_connect(struct machine *machine)
{
        uint64_t start_ns = clock_ns();

        machine->connection_fd = hand_over(&machine->order, &machine->guest);
        if (machine->connection_fd == -1) {
                printf("{\"ok\":false,\"message\":\"connect: %s\"}\n", strerror(errno));
                return;
        }
        if (!machine->is_holding)
                machine->guest.uffd_fd = close_fd(machine->guest.uffd_fd);
        printf("{\"ok\":true,\"ns\":%" PRIu64 "}\n", clock_ns() - start_ns);
}

static void write_latencies(const char *path, const uint64_t *latencies, size_t n)
{
        FILE *file = fopen(path, "we");

        if (!file || fwrite(latencies, sizeof(*latencies), n, file) != n || fclose(file) != 0)
                DIE(path);
}

static void do_run(struct machine *machine)
{
        uint64_t before = atomic_load(&machine->model.wrong_bytes), ns;
        uint64_t *latencies = NULL;

        if (machine->latencies_path) {
                /* Written here, so that no page of it is missing while touches are timed. */
                latencies = malloc((machine->trace.n + 1) * sizeof(*latencies));
                if (!latencies)
                        DIE("latencies");
                memset(latencies, 1, (machine->trace.n + 1) * sizeof(*latencies));
        }
        ns = trace_run(&machine->trace, &machine->model, latencies);
        if (latencies)
                write_latencies(machine->latencies_path, latencies, machine->trace.n);
        free(latencies);
        printf("{\"ok\":true,\"ns\":%" PRIu64 ",\"touches\":%zu,\"wrong\":%" PRIu64 "}\n", ns, machine->trace.n,
               wrong_since(machine, before));
}

static void do_random(struct machine *machine, uint64_t touches)
{
        uint64_t before = atomic_load(&machine->model.wrong_bytes);
        struct random_order order = {
                .seed = splitmix64(machine->seed) + 1000 * machine->batches++,
                .touches = touches,
                .vcpus = machine->vcpus,
        };
        struct random_result result = random_run(&machine->model, &order);

        printf("{\"ok\":true,\"touches\":%" PRIu64 ",\"writes\":%" PRIu64 ",\"races\":%" PRIu64 ",\"removals\":%" PRIu64
               ",\"removed_pages\":%" PRIu64 ",\"wrong\":%" PRIu64 ",\"max_ns\":%" PRIu64 ",\"max_remove_ns\":%" PRIu64
               "}\n",
               result.touches, result.writes, result.races, result.removals, result.removed_pages,
               wrong_since(machine, before), result.stay.max_touch_ns, result.stay.max_remove_ns);
}

static void do_verify(struct machine *machine)
{
        uint64_t before = atomic_load(&machine->model.wrong_bytes), max_ns = 0;

        for (uint64_t page = 0; page < machine->guest.n_pages; page++) {
                uint64_t start_ns = clock_ns();

                touch_read(&machine->model, page, 0);
                keep_max(&max_ns, clock_ns() - start_ns);
                model_check_page(&machine->model, page, "in the end");
        }
        printf("{\"ok\":true,\"pages\":%" PRIu64 ",\"wrong\":%" PRIu64 ",\"max_ns\":%" PRIu64 "}\n",
               machine->guest.n_pages, wrong_since(machine, before), max_ns);
}

static void do_memory(struct machine *machine)
{
        struct guest_memory memory = guest_memory(&machine->guest);

        printf("{\"ok\":true,\"rss_kb\":%" PRIu64 ",\"pss_kb\":%" PRIu64 ",\"private_dirty_kb\":%" PRIu64 "}\n",
               memory.rss_kb, memory.pss_kb, memory.private_dirty_kb);
}

static void obey(struct machine *machine, const char *line)
{
        uint64_t count;

        if (strcmp(line, "map") == 0)
                do_map(machine);
        else if (strcmp(line, "connect") == 0)
                do_connect(machine);
        else if (strcmp(line, "run") == 0)
                do_run(machine);
        else if (sscanf(line, "random %" SCNu64, &count) == 1)
                do_random(machine, count);
        else if (strcmp(line, "verify") == 0)
                do_verify(machine);
        else if (strcmp(line, "memory") == 0)
                do_memory(machine);
        else
                printf("{\"ok\":false,\"message\":\"unknown command\"}\n");
        fflush(stdout);
}

/* -- life ------------------------------------------------------------------------------------------ */

/* A machine whose page server is gone waits in a fault, and would for ever if its test were gone, too.
 * (PR_SET_PDEATHSIG is about the thread that started it, which may well end before.) */
static void *watch_parent(void *argument)
{
        pid_t *parent = argument;

        while (getppid() == *parent)
                usleep(PARENT_CHECK_US);
        _exit(3);
}

static void start_watch(pid_t *parent)
{
        pthread_t thread;

        *parent = getppid();
        errno = pthread_create(&thread, NULL, watch_parent, parent);
        if (errno)
                DIE("pthread_create");
        pthread_detach(thread);
}

int main(int argc, char **argv)
{
        static struct machine machine = {
                .guest = {.image_fd = FD_NONE, .uffd_fd = FD_NONE, .has_removals = true},
                .vcpus = 2,
                .is_holding = true,
                .connection_fd = FD_NONE,
        };
        static pid_t parent;
        char line[LINE_BYTES];

        read_options(&machine, argc, argv);
        start_watch(&parent);
        guest_open_image(&machine.guest, machine.order.image_path);
        model_open(&machine.model, &machine.guest, machine.seed);
        if (machine.trace_path)
                trace_read(&machine.trace, machine.trace_path);
        while (fgets(line, sizeof(line), stdin)) {
                line[strcspn(line, "\n")] = '\0';
                if (strcmp(line, "quit") == 0)
                        break;
                obey(&machine, line);
        }
        close_fd(machine.connection_fd);
        close_fd(machine.guest.uffd_fd);
        close_fd(machine.guest.image_fd);
        trace_release(&machine.trace);
        model_close(&machine.model);
        return 0;
}
