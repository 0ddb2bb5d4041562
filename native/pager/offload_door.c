#define _GNU_SOURCE
#include "offload_door.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "fdutil.h"

#define BACKLOG 8

static int address_of(const char *path, struct sockaddr_un *ret_address)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        if (strlen(path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        strcpy(address.sun_path, path);
        *ret_address = address;
        return 0;
}

static int new_socket(void)
{
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        return fd < 0 ? -errno : fd;
}

/* Nobody can connect before listen(2): the socket belongs to @uid by then. */
static int admit(int fd, const char *path, uid_t uid)
{
        if (chmod(path, 0600) < 0 || (uid != geteuid() && chown(path, uid, (gid_t)-1) < 0) || listen(fd, BACKLOG) < 0)
                return -errno;
        return 0;
}

static int listen_at(const char *path, uid_t uid)
{
        _cleanup_close_ int fd = new_socket();
        struct sockaddr_un address;
        int r = fd < 0 ? fd : address_of(path, &address);

        if (r < 0)
                return r;
        if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                return -errno;
        r = admit(fd, path, uid);
        if (r < 0) {
                unlink(path);
                return r;
        }
        return TAKE_FD(fd);
}

static void ready(struct source *source, uint32_t events)
{
        struct offload_door *door = (struct offload_door *)source;
        int fd = accept4(source->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        (void)events;
        if (fd < 0 && (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR))
                return;
        door->came(door, fd < 0 ? -errno : fd);
}

int offload_door_open(struct offload_door *door, struct loop *loop, const char *path, uid_t uid,
                      void (*came)(struct offload_door *door, int fd))
{
        int fd = listen_at(path, uid);

        *door = (struct offload_door){ 0 };
        if (fd < 0)
                return fd;
        *door = (struct offload_door){ { ready, fd }, loop, path, came };
        return loop_add(loop, &door->source, EPOLLIN);
}

void offload_door_close(struct offload_door *door)
{
        if (!door->loop)
                return;
        loop_remove(door->loop, &door->source);
        door->source.fd = close_fd(door->source.fd);
        unlink(door->path);
        door->loop = NULL;
}

int offload_knock(const char *path)
{
        _cleanup_close_ int fd = new_socket();
        struct sockaddr_un address;
        int r = fd < 0 ? fd : address_of(path, &address);

        if (r < 0)
                return r;
        if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                return -errno;
        return TAKE_FD(fd);
}
