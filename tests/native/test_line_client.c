/* Lines arrive whole however the bytes do, and nobody can make us wait past a limit. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "line_client.h"
#include "qmp.h"

static int peer;
static struct line_client client;

static void setup(void)
{
        int pair[2];

        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        peer = pair[1];
        line_client_attach(&client, pair[0]);
}

static void teardown(void)
{
        close(client.fd);
        close(peer);
        line_client_close(&client);
        line_client_close(NULL);
}

static struct limits soon(void)
{
        return (struct limits){ now_ns() + 20 * 1000000, -1 };
}

static void test_lines_are_joined_from_single_bytes(void)
{
        static const char text[] = "one\r\n\ntwo\nthree";
        static const char *const expected[] = { "one", "", "two" };
        const char *line;
        size_t found = 0;

        setup();
        for (size_t i = 0; i < sizeof(text) - 1; i++) {
                ssize_t n;

                CHECK_EQ(write(peer, text + i, 1), 1);
                CHECK_EQ(line_client_fill(&client), 1);
                n = line_client_take(&client, &line);
                if (n == -EAGAIN)
                        continue;
                CHECK_EQ(n, strlen(expected[found]));
                CHECK(memcmp(line, expected[found++], (size_t)n) == 0);
        }
        CHECK_EQ(found, 3);
        CHECK_EQ(client.end - client.start, 5);
        teardown();
}

static void test_limits(void)
{
        struct limits lim = soon();
        const char *line;
        int cancel = eventfd(1, EFD_CLOEXEC);

        setup();
        CHECK_EQ(line_client_read(&client, &lim, &line), -ETIMEDOUT);
        lim = (struct limits){ INT64_MAX, cancel };
        CHECK_EQ(line_client_read(&client, &lim, &line), -ECANCELED);
        shutdown(peer, SHUT_RDWR);
        lim = soon();
        CHECK_EQ(line_client_read(&client, &lim, &line), -ECONNRESET);
        CHECK_EQ(line_client_send(&client, "x", 1, -1, &lim), -EPIPE);
        close(cancel);
        teardown();
}

static void test_endless_line_is_refused(void)
{
        static char block[4096];
        ssize_t n;

        setup();
        memset(block, 'x', sizeof(block));
        do {
                CHECK_EQ(write(peer, block, sizeof(block)), sizeof(block));
                n = line_client_fill(&client);
        } while (n > 0);
        CHECK_EQ(n, -EMSGSIZE);
        teardown();
}

static void test_full_peer_is_bound_by_the_deadline(void)
{
        static char block[1024 * 1024];
        struct limits lim = soon();

        setup();
        CHECK_EQ(line_client_send(&client, block, sizeof(block), -1, &lim), -ETIMEDOUT);
        teardown();
}

static void test_open(void)
{
        struct limits lim = soon();
        char path[200];

        memset(path, 'x', sizeof(path));
        path[150] = '\0';
        CHECK_EQ(line_client_open(&client, path, &lim), -ENAMETOOLONG);
        CHECK_EQ(line_client_open(&client, "/nonexistent/socket", &lim), -ENOENT);
}

static void test_qmp_error_is_copied(void)
{
        static const char answer[] = "{\"event\":\"STOP\"}\n{\"id\":5,\"error\":{\"class\":\"GenericError\",\"desc\":\"no\"}}\n";
        struct qmp_failure failure;
        struct limits lim = soon();

        setup();
        CHECK_EQ(write(peer, answer, sizeof(answer) - 1), sizeof(answer) - 1);
        CHECK_EQ(qmp_execute(&client, "stop", NULL, 5, -1, &lim, NULL, NULL, &failure, NULL), -EREMOTEIO);
        CHECK(strcmp(failure.text, "stop: GenericError: no") == 0);
        CHECK_EQ(write(peer, "{\"id\":6,\"return\":{}}\n", 21), 21);
        CHECK_EQ(qmp_execute(&client, "stop", NULL, 7, -1, &lim, NULL, NULL, &failure, NULL), -EPROTO);
        teardown();
}

int main(void)
{
        int before = count_fds();

        test_lines_are_joined_from_single_bytes();
        test_limits();
        test_endless_line_is_refused();
        test_full_peer_is_bound_by_the_deadline();
        test_open();
        test_qmp_error_is_copied();
        CHECK_EQ(count_fds(), before);
        return 0;
}
