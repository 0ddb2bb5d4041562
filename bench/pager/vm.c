/* A virtual machine's stand-in: maps guest memory in one of the ways there are, touches it in recorded
 * order, says how long that took. All variants of the benchmark share this touch loop.
 *
 * usage: vm KIND --image PATH --trace FILE [options]
 *
 *   resident   all memory is there before the clock starts: the floor
 *   anonymous  fresh zeros of the kernel
 *   file       the image, mapped privately
 *   uffd       anonymous memory, its userfaultfd handed over in Firecracker's words
 *   memfd      a memfd (--memfd FD) mapped privately, handed over in the page server's own words
 *
 *   --socket PATH       where to hand over
 *   --control PATH      the page server's control socket, with what to say there: --listen LINE, and
 *   --wait LINE         before the guest resumes; without --control a byte on the socket resumes it
 *   --eager             do not wait to be resumed: touch at once
 *   --latencies FILE    time every touch alone; written as native uint64 nanoseconds
 *
 * Commands, a line each on standard input, answered by a JSON line:
 *
 *   prepare              fill resident memory; have the page server listen: else that is timed too
 *   go AT                the clock starts at AT, CLOCK_MONOTONIC nanoseconds
 *   memory               what guest memory takes
 *   digest               a sum of the trace's pages after what was written to them
 *   churn SECONDS PAGES  fault all the while
 *
 * Ends with its standard input. */
#define _GNU_SOURCE
#include "vm.h"

#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/prctl.h>

static const char *const kind_names[N_KINDS] = {"resident", "anonymous", "file", "uffd", "memfd"};

/* When things were done, from the clock's start on. */
struct times {
        int64_t listened, mapped, resumed, first, ended;
};

static void write_latencies(const char *path, const uint64_t *latencies, size_t n)
{
        FILE *file = fopen(path, "we");

        if (!file || fwrite(latencies, sizeof(*latencies), n, file) != n || fclose(file) != 0)
                fail("cannot write %s", path);
}

static void sleep_until(int64_t at)
{
        struct timespec when = {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000};

        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL) == EINTR)
                ;
}

static void command_prepare(struct vm *vm)
{
        int64_t begun = now_ns();

        vm_listen(vm);
        if (vm->kind == RESIDENT)
                vm_fill(vm);
        printf("{\"prepare_ns\":%" PRId64 "}\n", now_ns() - begun);
}

static void command_go(struct vm *vm, int64_t at)
{
        uint64_t *latencies = vm->latencies ? calloc(vm->trace.n, sizeof(*latencies)) : NULL;
        char reply[4096] = "null";
        struct times times = {0};
        uint64_t sum;

        if (latencies)
                memset(latencies, 1, vm->trace.n * sizeof(*latencies));
        sleep_until(at);
        vm_listen(vm);
        times.listened = now_ns();
        if (vm->kind != RESIDENT)
                vm_map(vm);
        times.mapped = now_ns();
        if (vm->socket_path) {
                vm_register(vm);
                times.mapped = now_ns();
                vm_hand_over(vm);
                if (!vm->is_eager)
                        vm_wait_resume(vm, reply, sizeof(reply));
        }
        times.resumed = now_ns();
        sum = vm_run_trace(vm, latencies, &times.first);
        times.ended = now_ns();
        vm_close_control(vm); /* the page server takes only so many of them at once */
        if (latencies)
                write_latencies(vm->latencies, latencies, vm->trace.n);
        printf("{\"at_ns\":%" PRId64 ",\"listened_ns\":%" PRId64 ",\"mapped_ns\":%" PRId64
               ",\"resumed_ns\":%" PRId64 ",\"first_ns\":%" PRId64 ",\"total_ns\":%" PRId64
               ",\"sum\":%" PRIu64 ",\"served\":%s}\n",
               at, times.listened - at, times.mapped - at, times.resumed - at, times.first - at,
               times.ended - at, sum, reply);
        free(latencies);
}

/* Add up what smaps says of guest memory. */
static void command_memory(struct vm *vm)
{
        static const char *const names[] = {"Rss", "Pss", "Private_Dirty", "Anonymous"};
        uint64_t kib[4] = {0}, begin, end, value;
        FILE *file = fopen("/proc/self/smaps", "re");
        bool is_guest = false;
        char line[512], name[64];

        if (!file)
                fail("cannot open /proc/self/smaps");
        while (fgets(line, sizeof(line), file)) {
                if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &begin, &end) == 2) {
                        is_guest = begin >= (uintptr_t)vm->memory &&
                                   end <= (uintptr_t)vm->memory + vm->size;
                        continue;
                }
                if (!is_guest || sscanf(line, "%63[^:]: %" SCNu64 " kB", name, &value) != 2)
                        continue;
                for (size_t i = 0; i < 4; i++)
                        if (strcmp(name, names[i]) == 0)
                                kib[i] += value;
        }
        fclose(file);
        printf("{\"rss\":%" PRIu64 ",\"pss\":%" PRIu64 ",\"private_dirty\":%" PRIu64
               ",\"anonymous\":%" PRIu64 "}\n",
               kib[0] * 1024, kib[1] * 1024, kib[2] * 1024, kib[3] * 1024);
}

/* Returns whether to go on. */
static bool command(struct vm *vm, const char *line)
{
        double seconds;
        size_t pages;
        int64_t at;

        if (strcmp(line, "prepare\n") == 0)
                command_prepare(vm);
        else if (sscanf(line, "go %" SCNd64, &at) == 1)
                command_go(vm, at);
        else if (strcmp(line, "memory\n") == 0)
                command_memory(vm);
        else if (strcmp(line, "digest\n") == 0)
                printf("{\"sum\":%" PRIu64 "}\n", vm_digest(vm));
        else if (sscanf(line, "churn %lf %zu", &seconds, &pages) == 2)
                vm_churn(vm, seconds, pages);
        else
                return false;
        fflush(stdout);
        return true;
}

static void take_option(struct vm *vm, int option, const char *value)
{
        switch (option) {
        case 'i':
                vm->image = value;
                break;
        case 't':
                vm->trace = read_trace(value);
                break;
        case 's':
                vm->socket_path = value;
                break;
        case 'c':
                vm_connect_control(vm, value);
                break;
        case 'l':
                vm->listen = value;
                break;
        case 'w':
                vm->wait = value;
                break;
        case 'm':
                vm->memfd = atoi(value);
                break;
        case 'e':
                vm->is_eager = true;
                break;
        case 'n':
                vm->latencies = value;
                break;
        default:
                exit(2);
        }
}

static void parse(struct vm *vm, int argc, char **argv)
{
        static const struct option options[] = {
                {"image", 1, NULL, 'i'},   {"trace", 1, NULL, 't'},     {"socket", 1, NULL, 's'},
                {"control", 1, NULL, 'c'}, {"listen", 1, NULL, 'l'},    {"wait", 1, NULL, 'w'},
                {"memfd", 1, NULL, 'm'},   {"latencies", 1, NULL, 'n'}, {"eager", 0, NULL, 'e'},
                {NULL, 0, NULL, 0},
        };
        int option;

        while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
                take_option(vm, option, optarg);
        vm->kind = N_KINDS;
        for (int i = 0; i < N_KINDS && optind < argc; i++)
                if (strcmp(argv[optind], kind_names[i]) == 0)
                        vm->kind = i;
        if (vm->kind == N_KINDS || !vm->image)
                exit(2);
}

int main(int argc, char **argv)
{
        struct vm vm = {.memfd = -1, .control = -1, .sock = -1, .uffd = -1};
        struct stat status;
        char line[128];

        parse(&vm, argc, argv);
        if (stat(vm.image, &status) != 0)
                fail("cannot look at %s", vm.image);
        vm.size = status.st_size;
        prctl(PR_SET_TIMERSLACK, 1);
        signal(SIGPIPE, SIG_IGN); /* it is an error of the write */
        printf("{\"ready\":true}\n");
        fflush(stdout);
        while (fgets(line, sizeof(line), stdin) && command(&vm, line))
                ;
        return 0;
}
