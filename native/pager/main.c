/* snap-pager: the page server of a node (docs/memory.md). */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "control.h"
#include "deadline.h"
#include "fdutil.h"
#include "kuasar_merge.h"
#include "server.h"
#include "supervise.h"
#include "working_set_command.h"

#define READERS 4
#define READERS_MAX 64
#define HAND_OVER_S 10
#define KUASAR_RECORDS 3
#define KUASAR_RECORD_S 10
#define KUASAR_SET_MIB 256
#define KUASAR_SET_MIB_MAX 1048576
#define PAGES_PER_MIB 256

#define EXIT_USAGE 2

static const char USAGE[] =
        "usage: snap-pager serve --control PATH --journal DIRECTORY [--readers N] [--hand-over-s SECONDS]\n"
        "                        [--kuasar-socket PATH --kuasar-directory DIRECTORY\n"
        "                         [--kuasar-sets DIRECTORY] [--kuasar-records N] [--kuasar-record-s SECONDS]\n"
        "                         [--kuasar-set-mib N]]\n"
        "       snap-pager supervise ...      as serve, begun anew whenever it ends\n"
        "       snap-pager working-set --image PATH --digest HEX --out PATH --budget-pages N RECORD...\n";

/* A signal that asks for the end. */
struct ender {
        struct source source;
        struct server *server;
};

static int fail(const char *doing, const char *object, int error, const char *hint)
{
        fprintf(stderr, "snap-pager: %s%s%s: %s\nhint: %s\n", doing, object ? " " : "", object ? object : "",
                strerror(-error), hint);
        return EXIT_FAILURE;
}

static int misused(const char *why)
{
        fprintf(stderr, "snap-pager: %s\n%s", why, USAGE);
        return EXIT_USAGE;
}

static bool read_number(const char *text, double least, double most, double *ret_number)
{
        char *end;
        double number = strtod(text, &end);

        if (!*text || *end || !(number >= least && number <= most))
                return false;
        *ret_number = number;
        return true;
}

/* Returns NULL, or what is wrong. */
static const char *read_settings(int argc, char **argv, struct server_settings *settings)
{
        static const struct option options[] = {
                {"control", required_argument, NULL, 'c'},
                {"journal", required_argument, NULL, 'j'},
                {"readers", required_argument, NULL, 'r'},
                {"hand-over-s", required_argument, NULL, 's'},
                {"kuasar-socket", required_argument, NULL, 'k'},
                {"kuasar-directory", required_argument, NULL, 'd'},
                {"kuasar-sets", required_argument, NULL, 'e'},
                {"kuasar-records", required_argument, NULL, 'n'},
                {"kuasar-record-s", required_argument, NULL, 't'},
                {"kuasar-set-mib", required_argument, NULL, 'm'},
                {0},
        };
        double readers = READERS, hand_over_s = HAND_OVER_S, records = KUASAR_RECORDS, record_s = KUASAR_RECORD_S,
               set_mib = KUASAR_SET_MIB;
        struct kuasar_settings *kuasar = &settings->kuasar;
        int option;

        opterr = 0;
        while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
                if (option == 'c')
                        settings->control_path = optarg;
                else if (option == 'j')
                        settings->journal_path = optarg;
                else if (option == 'k')
                        kuasar->socket = optarg;
                else if (option == 'd')
                        kuasar->directory = optarg;
                else if (option == 'e')
                        kuasar->sets = optarg;
                else if (option == 'r' && !read_number(optarg, 1, READERS_MAX, &readers))
                        return "--readers: a number from 1 to 64";
                else if (option == 's' && !read_number(optarg, 0.01, 3600, &hand_over_s))
                        return "--hand-over-s: seconds, more than 0, at most 3600";
                else if (option == 'n' && !read_number(optarg, 1, KUASAR_RECORDS_MAX, &records))
                        return "--kuasar-records: a number from 1 to 16";
                else if (option == 't' && !read_number(optarg, 0.01, 3600, &record_s))
                        return "--kuasar-record-s: seconds, more than 0, at most 3600";
                else if (option == 'm' && !read_number(optarg, 1, KUASAR_SET_MIB_MAX, &set_mib))
                        return "--kuasar-set-mib: a number from 1 to 1048576";
                else if (option == '?')
                        return "an option is unknown, or has no value";
        }
        if (optind < argc)
                return "an argument that belongs to no option";
        if (!settings->control_path || !settings->journal_path)
                return "--control and --journal are needed";
        if (!kuasar->socket != !kuasar->directory)
                return "--kuasar-socket and --kuasar-directory belong together";
        if (kuasar->sets && !kuasar->socket)
                return "--kuasar-sets: nothing is recorded without --kuasar-socket";
        if ((kuasar->directory && kuasar->directory[0] != '/') || (kuasar->sets && kuasar->sets[0] != '/'))
                return "--kuasar-directory, --kuasar-sets: a full path";
        settings->readers = (unsigned)readers;
        settings->hand_over_ns = (int64_t)(hand_over_s * (double)NS_PER_S);
        kuasar->records = (unsigned)records;
        kuasar->record_ns = (int64_t)(record_s * (double)NS_PER_S);
        kuasar->set_pages = (uint64_t)(set_mib * PAGES_PER_MIB);
        return NULL;
}

static void asked_to_end(struct source *source, uint32_t events)
{
        struct ender *ender = (struct ender *)source;
        struct signalfd_siginfo signal;

        (void)events;
        if (read(source->fd, &signal, sizeof(signal)) == sizeof(signal) && signal.ssi_signo == SUPERVISOR_GONE)
                server_abandon(ender->server);
        ender->server->loop.is_over = true;
}

static sigset_t signals_to_end(void)
{
        sigset_t signals;

        sigemptyset(&signals);
        sigaddset(&signals, SIGTERM);
        sigaddset(&signals, SIGINT);
        sigaddset(&signals, SUPERVISOR_GONE);
        return signals;
}

static int watch_signals(struct ender *ender, struct server *server)
{
        sigset_t signals = signals_to_end();

        ender->server = server;
        ender->source = (struct source){.ready = asked_to_end, .fd = signalfd(-1, &signals, SFD_CLOEXEC)};
        if (ender->source.fd < 0)
                return -errno;
        return loop_add(&server->loop, &ender->source, EPOLLIN);
}

/* Before any thread is there, so that none of them is interrupted in its place. */
static void block_signals(void)
{
        sigset_t signals = signals_to_end();

        sigprocmask(SIG_BLOCK, &signals, NULL);
        signal(SIGPIPE, SIG_IGN);
}

/* Each machine takes four descriptors. */
static void raise_limits(void)
{
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
                limit.rlim_cur = limit.rlim_max;
                setrlimit(RLIMIT_NOFILE, &limit);
        }
}

static int run(struct server *server, const struct server_settings *settings)
{
        struct ender ender = {.source.fd = FD_NONE};
        struct control control;
        int r = watch_signals(&ender, server);

        if (r)
                return fail("watching signals", NULL, r, "raise the limit of open files");
        r = control_open(&control, server, settings->control_path);
        if (r) {
                close_fd(ender.source.fd);
                return fail("listening at", settings->control_path, r,
                            "its directory has to be there; at most 107 bytes");
        }
        keeper_say(&server->keeper, "READY=1");
        r = loop_run(&server->loop);
        control_close(&control);
        loop_remove(&server->loop, &ender.source);
        close_fd(ender.source.fd);
        return r ? fail("waiting for events", NULL, r, "this is a defect, please report it") : EXIT_SUCCESS;
}

static int serve(const struct server_settings *settings)
{
        struct server *server = calloc(1, sizeof(*server));
        const char *why;
        int r;

        if (!server)
                return fail("starting", NULL, -ENOMEM, "free some memory");
        block_signals();
        raise_limits();
        r = server_open(server, settings, &why);
        if (r)
                r = fail(why, settings->journal_path, r, "name another directory with --journal, or mend this one");
        else
                r = run(server, settings);
        server_close(server);
        free(server);
        return r;
}

int main(int argc, char **argv)
{
        struct server_settings settings = {0};
        const char *why;

        if (argc >= 2 && strcmp(argv[1], "working-set") == 0)
                return working_set_command(argc - 1, argv + 1);
        if (argc >= 2 && strcmp(argv[1], "--help") == 0) {
                fputs(USAGE, stdout);
                return EXIT_SUCCESS;
        }
        if (argc < 2 || (strcmp(argv[1], "serve") != 0 && strcmp(argv[1], "supervise") != 0))
                return misused("serve, supervise or working-set");
        why = read_settings(argc - 1, argv + 1, &settings);
        if (why)
                return misused(why);
        return strcmp(argv[1], "serve") == 0 ? serve(&settings) : supervise(argc, argv, settings.journal_path);
}
