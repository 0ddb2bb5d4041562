/* Whatever somebody says on the control socket: it is answered line by line, or hung up on, by a server that
 * then serves the next. Input: the lines. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "control.h"
#include "control_request.h"
#include "deadline.h"
#include "fdutil.h"
#include "fuzz.h"
#include "json_scan.h"

#define SAID_MAX (1024 * 1024)

static struct server server;
static struct control control;

/* One client, who reads everything it is answered. */
struct client {
        struct timer timer;
        int fd; /* owned */
        size_t length;
        char answers[SAID_MAX];
};

/* Read, until there is nobody any more whom the server could answer. */
static void look(struct timer *timer)
{
        struct client *client = (struct client *)timer;
        ssize_t n;

        while ((n = recv(client->fd, client->answers + client->length, sizeof(client->answers) - client->length, MSG_DONTWAIT)) > 0)
                client->length += (size_t)n;
        REQUIRE(client->length < sizeof(client->answers));
        if (control.n_links == 0 && n == 0)
                server.loop.is_over = true;
        else
                loop_set(&server.loop, timer, now_ns() + 1);
}

static void run_until_hung_up(struct client *client)
{
        client->timer.due = look;
        server.loop.is_over = false;
        loop_set(&server.loop, &client->timer, now_ns());
        REQUIRE(loop_run(&server.loop) == 0);
        while (control.n_links > 0) { /* it was told to retire */
                server.loop.is_over = false;
                REQUIRE(loop_run(&server.loop) == 0);
        }
        loop_unset(&server.loop, &client->timer);
}

static void start(void)
{
        static char control_path[640];
        struct server_settings settings = { .control_path = control_path, .journal_path = fuzz_directory(), .hand_over_ns = 3600 * NS_PER_S, .readers = 1 };
        struct fuzz_file *image = calloc(1, sizeof(*image));
        const char *why;

        REQUIRE(image);
        image->length = 8192;
        fuzz_write("image", image);
        free(image);
        strcpy(control_path, fuzz_path("control"));
        REQUIRE(server_open(&server, &settings, &why) == 0);
        REQUIRE(control_open(&control, &server, control_path) == 0);
}

static int connect_to(const char *path)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), size = SAID_MAX;

        REQUIRE(fd >= 0 && strlen(path) < sizeof(address.sun_path));
        strcpy(address.sun_path, path);
        REQUIRE(connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
        REQUIRE(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) == 0);
        return fd;
}

static void check_order(const struct machine_order *order)
{
        REQUIRE(order->vm[0] && order->vm[0] != '.' && !strchr(order->vm, '/') && strlen(order->vm) < sizeof(order->vm));
        REQUIRE(order->socket[0] == '/' && strlen(order->socket) < sizeof(order->socket));
        REQUIRE(order->protocol == HANDSHAKE_FIRECRACKER || order->protocol == HANDSHAKE_MEMFD);
        REQUIRE((order->image[0] == '/') == (order->protocol == HANDSHAKE_FIRECRACKER));
        REQUIRE(!order->working_set[0] || order->working_set[0] == '/');
        REQUIRE(!order->record[0] || order->record[0] == '/');
}

/* Have the server expect the machine, with a socket and an image of ours: no other file is touched. */
static void expect(struct machine_order *order)
{
        const char *why;

        check_order(order);
        strcpy(order->socket, fuzz_path(order->vm[0] % 2 ? "socket-a" : "socket-b"));
        if (order->image[0])
                strcpy(order->image, fuzz_path("image"));
        server_listen(&server, order, &why);
}

/* Returns whether @line orders a session with a Cloud Hypervisor, if its operation is one: it would touch
 * files of its choice. */
static bool is_offload(const char *line, size_t length, bool is_save)
{
        static struct offload_order order;
        struct json request;

        if (json_parse(line, length, &request) < 0 || request.text[0] != '{')
                return false;
        order = (struct offload_order){ .is_save = is_save };
        if (request_offload(request, &order))
                return false;
        REQUIRE(order.vm[0] && order.vm[0] != '.' && !strchr(order.vm, '/') && order.socket[0] == '/');
        REQUIRE(order.image[0] == '/' && order.config[0] == '/' && order.state[0] == '/');
        REQUIRE(!order.working_set[0] || order.working_set[0] == '/');
        REQUIRE(!order.record[0] || order.record[0] == '/');
        return true;
}

/* Send one line, unless it is an order: that is checked, and of a machine given by call. */
static void say(int fd, const char *line, size_t length, bool is_last)
{
        struct machine_order order;
        const char *why = NULL;
        int r = control_parse_order(line, length, &order, &why);

        REQUIRE(r == 0 || (r == -EBADMSG && why));
        if (r == 0)
                expect(&order);
        if (r == 0 || is_offload(line, length, false) || is_offload(line, length, true))
                return;
        if (send(fd, line, length, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0 && !is_last)
                send(fd, "\n", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void say_all(int fd, const char *text, size_t length)
{
        while (length > 0) {
                const char *end = memchr(text, '\n', length);
                size_t n = end ? (size_t)(end - text) : length;

                say(fd, text, n, !end);
                n += end ? 1 : 0;
                text += n;
                length -= n;
        }
}

static void check_answer(const char *line, size_t length)
{
        static const char *const words[] = { "invalid", "exists", "unknown", "image", "hand_over", "timeout", "stopped", "system" };
        struct json answer, ok, message;
        size_t i = 0;

        REQUIRE(json_parse(line, length, &answer) == 0 && json_find(answer, "ok", &ok) == 0);
        if (ok.text[0] == 't')
                return;
        while (i < sizeof(words) / sizeof(*words) && !json_member_is(answer, "error", words[i]))
                i++;
        REQUIRE(i < sizeof(words) / sizeof(*words));
        REQUIRE(json_find(answer, "message", &message) == 0 && message.text[0] == '"');
}

/* What it was answered are whole lines. */
static void check_answers(const struct client *client)
{
        const char *line = client->answers, *last = line + client->length, *end;

        while ((end = memchr(line, '\n', (size_t)(last - line)))) {
                check_answer(line, (size_t)(end - line));
                line = end + 1;
        }
        REQUIRE(line == last);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static struct client client;

        if (!control.server)
                start();
        client.length = 0;
        client.fd = connect_to(server.settings.control_path);
        say_all(client.fd, (const char *)data, size);
        REQUIRE(shutdown(client.fd, SHUT_WR) == 0);
        run_until_hung_up(&client);
        client.fd = close_fd(client.fd);
        check_answers(&client);
        while (server.machines)
                server_forget(&server, server.machines->order.vm);
        REQUIRE(!server.stopped);
        return 0;
}
