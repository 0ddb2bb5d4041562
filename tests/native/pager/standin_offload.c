/* A stand-in for a Cloud Hypervisor at both ends of its offload protocol, for the page server's tests.
 *
 *   standin_offload give --socket S --regions LOW[,HIGH] [--seed N] [--zero-share X] [--running]
 *   standin_offload get --socket S [--seed N] [--zero-share X] [--page-bytes N] [--v53]
 *
 * give: what vm.send-migration with local does: connect to S and give away a machine with LOW bytes of memory
 *   at 0 and HIGH at 4 GiB, of standin_image's pattern, paused unless --running. One line of JSON on stdout:
 *   {"ok":true} once it was answered, {"ok":false,"answer":"error"|"closed"} if not.
 * get: what vm.receive-migration with memory_mode Postcopy does: listen at S, and take commands on stdin, each
 *   answered with a line of JSON:
 *   receive    get the machine                        {"ok":true,"pages":N,"resumed":B}
 *   read N     N pages at random (all: every page)    {"ok":true,"pages":N,"wrong":WORDS,"max_ns":N,"dead":B}
 *   write N    the first word of N pages at random; they are not looked at any more
 *   drain      wait until it has all memory, or was told to give up filling it   {"ok":true,"has_all":B}
 *   memory     what the machine takes                 {"ok":true,"allocated_kb":N,"asked":N,"swept":N}
 *   quit
 * --page-bytes: of the memory zone, 2097152 as of huge pages. --v53: wake only, as v53.0 does. dead: a page it
 *   asked for did not come, upon which the real one ends. It ends when its parent does. */
#define _GNU_SOURCE
#include "standin_offload.h"

#include <getopt.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>

#define LINE_BYTES 64

struct options {
        const char *socket;
        uint64_t low_bytes, high_bytes, seed, page_bytes;
        double zero_share;
        bool is_running, is_v53;
};

struct guest {
        struct options options;
        struct monitor monitor;
        bool *is_written; /* for each page */
        uint64_t n_random;
};

static _Noreturn void usage(void)
{
        fprintf(stderr, "usage: standin_offload give|get --socket S [...]: see standin_offload.c\n");
        exit(2);
}

static void parse(int argc, char **argv, struct options *options)
{
        static const struct option known[] = {
                { "socket", required_argument, NULL, 's' },     { "regions", required_argument, NULL, 'r' },
                { "seed", required_argument, NULL, 'n' },       { "zero-share", required_argument, NULL, 'z' },
                { "page-bytes", required_argument, NULL, 'p' }, { "running", no_argument, NULL, 'c' },
                { "v53", no_argument, NULL, 'v' },              { NULL, 0, NULL, 0 },
        };
        char *end;
        int c;

        *options = (struct options){ .page_bytes = OFF_PAGE };
        while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
                switch (c) {
                case 's':
                        options->socket = optarg;
                        break;
                case 'r':
                        options->low_bytes = strtoull(optarg, &end, 0);
                        options->high_bytes = *end == ',' ? strtoull(end + 1, NULL, 0) : 0;
                        break;
                case 'n':
                        options->seed = strtoull(optarg, NULL, 0);
                        break;
                case 'z':
                        options->zero_share = strtod(optarg, NULL);
                        break;
                case 'p':
                        options->page_bytes = strtoull(optarg, NULL, 0);
                        break;
                case 'c':
                        options->is_running = true;
                        break;
                case 'v':
                        options->is_v53 = true;
                        break;
                default:
                        usage();
                }
        }
        if (!options->socket)
                usage();
}

static int give(const struct options *options)
{
        static const char state[] = "{\"snapshots\":{},\"snapshot_data\":null}";
        struct off_shape shape = off_shape(options->low_bytes, options->high_bytes);
        char *config = off_config(&shape);
        int fd = off_connect(options->socket), answer;

        if (fd < 0)
                OFF_DIE(options->socket);
        off_fill(&shape, options->seed, options->zero_share);
        answer = off_send(fd, &shape, config, state, sizeof(state) - 1);
        if (answer == OFF_OK) {
                off_say(fd, options->is_running ? OFF_COMPLETE : OFF_PAUSED, 0);
                answer = off_hear(fd);
        }
        if (answer == OFF_OK)
                printf("{\"ok\":true}\n");
        else
                printf("{\"ok\":false,\"answer\":\"%s\"}\n", answer == OFF_ERROR ? "error" : "closed");
        close(fd);
        off_release(&shape);
        free(config);
        return answer == OFF_OK ? 0 : 1;
}

static int64_t ns_now(void)
{
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static uint64_t pages_of(const struct guest *guest)
{
        return off_pages(&guest->monitor.shape);
}

static uint64_t random_page(struct guest *guest)
{
        return splitmix64(guest->options.seed + guest->n_random++) % pages_of(guest);
}

/* In turn if @in_turn, else at random. */
static void read_pages(struct guest *guest, uint64_t n, bool in_turn)
{
        const struct options *options = &guest->options;
        uint64_t wrong = 0, done = 0;
        int64_t max_ns = 0;

        for (; done < n && !guest->monitor.is_dead; done++) {
                uint64_t page = in_turn ? done : random_page(guest);
                int64_t started_ns = ns_now();
                unsigned now = off_wrong(&guest->monitor, page, options->seed, options->zero_share);

                max_ns = ns_now() - started_ns > max_ns ? ns_now() - started_ns : max_ns;
                wrong += guest->is_written[page] || guest->monitor.is_dead ? 0 : now;
        }
        printf("{\"ok\":true,\"pages\":%llu,\"wrong\":%llu,\"max_ns\":%lld,\"dead\":%s}\n", (unsigned long long)done,
               (unsigned long long)wrong, (long long)max_ns, guest->monitor.is_dead ? "true" : "false");
}

static void write_pages(struct guest *guest, uint64_t n)
{
        for (uint64_t i = 0; i < n; i++) {
                uint64_t page = random_page(guest);

                *(volatile uint64_t *)off_page(&guest->monitor, page) = page;
                guest->is_written[page] = true;
        }
        printf("{\"ok\":true}\n");
}

static void receive(struct guest *guest)
{
        bool ok = off_receive(&guest->monitor, 0);

        guest->is_written = calloc(pages_of(guest) + 1, 1);
        printf("{\"ok\":%s,\"pages\":%llu,\"resumed\":%s}\n", ok ? "true" : "false",
               (unsigned long long)(ok ? pages_of(guest) : 0), guest->monitor.is_resumed ? "true" : "false");
}

static void drain(struct guest *guest)
{
        while (!guest->monitor.has_all && !guest->monitor.gave_up && !guest->monitor.is_dead)
                usleep(1000);
        printf("{\"ok\":true,\"has_all\":%s}\n", guest->monitor.has_all ? "true" : "false");
}

static void tell_memory(struct guest *guest)
{
        uint64_t kb = 0;
        struct stat st;

        for (size_t i = 0; i < guest->monitor.shape.n; i++)
                if (fstat(guest->monitor.shape.slots[i].fd, &st) == 0)
                        kb += (uint64_t)st.st_blocks / 2;
        printf("{\"ok\":true,\"allocated_kb\":%llu,\"asked\":%llu,\"swept\":%llu}\n", (unsigned long long)kb,
               (unsigned long long)guest->monitor.n_demand, (unsigned long long)guest->monitor.n_swept);
}

static bool obey(struct guest *guest, const char *line)
{
        if (strcmp(line, "receive") == 0)
                receive(guest);
        else if (strcmp(line, "read all") == 0)
                read_pages(guest, pages_of(guest), true);
        else if (strncmp(line, "read ", 5) == 0)
                read_pages(guest, strtoull(line + 5, NULL, 10), false);
        else if (strncmp(line, "write ", 6) == 0)
                write_pages(guest, strtoull(line + 6, NULL, 10));
        else if (strcmp(line, "drain") == 0)
                drain(guest);
        else if (strcmp(line, "memory") == 0)
                tell_memory(guest);
        else
                return false;
        fflush(stdout);
        return true;
}

static int get(const struct options *options)
{
        struct guest guest = { .options = *options };
        char line[LINE_BYTES];

        off_monitor(&guest.monitor, options->socket, options->is_v53, options->page_bytes);
        while (fgets(line, sizeof(line), stdin)) {
                line[strcspn(line, "\n")] = '\0';
                if (!obey(&guest, line))
                        break;
        }
        off_finish(&guest.monitor);
        free(guest.is_written);
        unlink(options->socket);
        return strcmp(line, "quit") == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
        struct options options;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (argc < 2)
                usage();
        parse(argc - 1, argv + 1, &options);
        if (strcmp(argv[1], "give") == 0)
                return give(&options);
        if (strcmp(argv[1], "get") == 0)
                return get(&options);
        usage();
}
