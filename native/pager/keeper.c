#define _GNU_SOURCE
#include "keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "deadline.h"
#include "fdutil.h"

#define FIRST_LISTEN_FD 3 /* SD_LISTEN_FDS_START */
#define FDS_MAX 4
#define ANSWER_NS (5 * NS_PER_S)

static int connect_to(const char *path)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        size_t n = strlen(path);
        _cleanup_close_ int fd = FD_NONE;

        if (n >= sizeof(address.sun_path) || (path[0] != '/' && path[0] != '@'))
                return -EINVAL;
        memcpy(address.sun_path, path, n);
        if (path[0] == '@')
                address.sun_path[0] = '\0';
        fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return -errno;
        if (connect(fd, (struct sockaddr *)&address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)) < 0)
                return -errno;
        return TAKE_FD(fd);
}

static long number_in(const char *variable)
{
        const char *text = getenv(variable);
        char *end;
        long number = text ? strtol(text, &end, 10) : -1;

        return text && *text && !*end ? number : -1;
}

/* The names are separated by colons, one for each descriptor. */
static int take_kept(struct keeper *keeper)
{
        long n = number_in("LISTEN_PID") == (long)getpid() ? number_in("LISTEN_FDS") : 0;
        const char *names = getenv("LISTEN_FDNAMES");

        if (n <= 0)
                return 0;
        keeper->kept = calloc((size_t)n, sizeof(*keeper->kept));
        if (!keeper->kept)
                return -ENOMEM;
        for (long i = 0; i < n; i++) {
                struct kept *kept = &keeper->kept[i];
                size_t length = names ? strcspn(names, ":") : 0;

                kept->fd = FIRST_LISTEN_FD + (int)i;
                fcntl(kept->fd, F_SETFD, FD_CLOEXEC);
                snprintf(kept->name, sizeof(kept->name), "%.*s", (int)length, names ? names : "");
                names = names && names[length] ? names + length + 1 : NULL;
        }
        keeper->n_kept = (size_t)n;
        return 0;
}

int keeper_open(struct keeper *keeper, struct loop *loop)
{
        const char *path = getenv("NOTIFY_SOCKET");
        int r;

        *keeper = (struct keeper){.loop = loop, .fd = FD_NONE};
        r = take_kept(keeper);
        if (!r && path)
                keeper->fd = connect_to(path);
        if (!r && path && keeper->fd < 0) {
                r = keeper->fd;
                keeper->fd = FD_NONE;
        }
        unsetenv("NOTIFY_SOCKET");
        unsetenv("LISTEN_PID");
        unsetenv("LISTEN_FDS");
        unsetenv("LISTEN_FDNAMES");
        return r;
}

int keeper_take(struct keeper *keeper, const char *name)
{
        for (size_t i = 0; i < keeper->n_kept; i++)
                if (keeper->kept[i].fd >= 0 && strcmp(keeper->kept[i].name, name) == 0)
                        return TAKE_FD(keeper->kept[i].fd);
        return -ENOENT;
}

void keeper_close(struct keeper *keeper)
{
        for (size_t i = 0; i < keeper->n_kept; i++)
                close_fd(keeper->kept[i].fd);
        free(keeper->kept);
        keeper->kept = NULL;
        keeper->n_kept = 0;
        keeper->fd = close_fd(keeper->fd);
}

static int say(struct keeper *keeper, const char *text, const int *fds, size_t n)
{
        struct iovec part = {.iov_base = (void *)text, .iov_len = strlen(text)};
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(FDS_MAX * sizeof(int))];
        } control = {0};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

        if (n > 0) {
                message.msg_control = control.space;
                message.msg_controllen = CMSG_SPACE(n * sizeof(int));
                control.header.cmsg_level = SOL_SOCKET;
                control.header.cmsg_type = SCM_RIGHTS;
                control.header.cmsg_len = CMSG_LEN(n * sizeof(int));
                memcpy(CMSG_DATA(&control.header), fds, n * sizeof(int));
        }
        while (sendmsg(keeper->fd, &message, MSG_NOSIGNAL) < 0)
                if (errno != EINTR)
                        return -errno;
        return 0;
}

static void answered(struct keeping *keeping, int error)
{
        keeping_cancel(keeping);
        keeping->kept(keeping, error);
}

static void pipe_closed(struct source *source, uint32_t events)
{
        (void)events;
        answered(container_of(source, struct keeping, source), 0);
}

static void too_late(struct timer *timer)
{
        answered(container_of(timer, struct keeping, timer), -ETIMEDOUT);
}

int keeper_store(struct keeper *keeper, const char *name, const int *fds, size_t n, struct keeping *keeping)
{
        char text[KEEPER_NAME_BYTES + 64];
        _cleanup_close_ int ours = FD_NONE, theirs = FD_NONE;
        int ends[2], r;

        snprintf(text, sizeof(text), "FDSTORE=1\nFDPOLL=0\nFDNAME=%s", name);
        r = say(keeper, text, fds, n);
        if (r)
                return r;
        if (pipe2(ends, O_CLOEXEC) < 0)
                return -errno;
        ours = ends[0];
        theirs = ends[1];
        /* It is closed only after everything that was said before has been heard. */
        r = say(keeper, "BARRIER=1", &theirs, 1);
        if (r)
                return r;
        keeping->loop = keeper->loop;
        keeping->timer = (struct timer){.due = too_late};
        keeping->source = (struct source){.ready = pipe_closed, .fd = ours};
        r = loop_add(keeper->loop, &keeping->source, EPOLLIN);
        if (r)
                return r;
        ours = FD_NONE;
        loop_set(keeper->loop, &keeping->timer, now_ns() + ANSWER_NS);
        return 0;
}

void keeping_cancel(struct keeping *keeping)
{
        if (!keeping->loop)
                return;
        loop_unset(keeping->loop, &keeping->timer);
        loop_remove(keeping->loop, &keeping->source);
        keeping->source.fd = close_fd(keeping->source.fd);
        keeping->loop = NULL;
}

void keeper_forget(struct keeper *keeper, const char *name)
{
        char text[KEEPER_NAME_BYTES + 64];

        if (keeper->fd < 0)
                return;
        snprintf(text, sizeof(text), "FDSTOREREMOVE=1\nFDNAME=%s", name);
        say(keeper, text, NULL, 0);
}

void keeper_say(struct keeper *keeper, const char *text)
{
        if (keeper->fd >= 0)
                say(keeper, text, NULL, 0);
}
