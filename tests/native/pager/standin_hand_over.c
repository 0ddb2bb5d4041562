#define _GNU_SOURCE
#include "standin_hand_over.h"

#include <inttypes.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fdutil.h"
#include "standin_die.h"

#define PAUSE_US 20000 /* so that the server sees two pieces */

static void put_page_size(FILE *out, enum dialect dialect, uint64_t page_bytes)
{
        if (dialect != DIALECT_FIRECRACKER_OLD)
                fprintf(out, ",\"page_size\":%" PRIu64, page_bytes);
        /* Bytes, in spite of its name. */
        if (dialect == DIALECT_FIRECRACKER || dialect == DIALECT_FIRECRACKER_OLD)
                fprintf(out, ",\"page_size_kib\":%" PRIu64, page_bytes);
        if (dialect == DIALECT_KUASAR)
                fprintf(out, ",\"zone_id\":null");
}

static void put_regions(FILE *out, enum dialect dialect, const struct guest *guest)
{
        putc('[', out);
        for (size_t i = 0; i < guest->n_regions; i++) {
                const struct guest_region *region = &guest->regions[i];

                fprintf(out, "%s{\"base_host_virt_addr\":%" PRIu64 ",\"size\":%" PRIu64 ",\"offset\":%" PRIu64, i ? "," : "",
                        (uint64_t)(uintptr_t)region->memory, region->bytes, region->offset);
                if (dialect == DIALECT_KUASAR)
                        fprintf(out, ",\"gpa\":%" PRIu64, region->offset);
                put_page_size(out, dialect, region->page_bytes);
                putc('}', out);
        }
        putc(']', out);
}

static char *message_of(const struct hand_over *order, const struct guest *guest, size_t *ret_length)
{
        char *text = NULL;
        FILE *out = open_memstream(&text, ret_length);

        if (!out)
                DIE("open_memstream");
        if (order->dialect == DIALECT_KUASAR)
                fprintf(out, "{\"version\":1,\"snapshot_path\":\"%s\",\"mappings\":", order->image_path);
        if (order->dialect == DIALECT_MEMFD)
                fprintf(out, "{\"protocol\":\"snapstart-memfd\",\"version\":1,\"regions\":");
        put_regions(out, order->dialect, guest);
        if (order->dialect == DIALECT_KUASAR || order->dialect == DIALECT_MEMFD)
                putc('}', out);
        if (fclose(out) != 0)
                DIE("writing the message");
        return text;
}

/* A server that died meanwhile is no surprise: whoever waits for the hand-over will know. */
static void send_piece(int fd, const char *text, size_t length, const int *fds, size_t n_fds)
{
        union {
                char space[CMSG_SPACE(2 * sizeof(int))];
                struct cmsghdr align;
        } control = {0};
        struct iovec piece = {.iov_base = (void *)text, .iov_len = length};
        struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};

        if (n_fds > 0) {
                struct cmsghdr *head = &control.align;

                message.msg_control = &control;
                message.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
                head->cmsg_level = SOL_SOCKET;
                head->cmsg_type = SCM_RIGHTS;
                head->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
                memcpy(CMSG_DATA(head), fds, n_fds * sizeof(int));
        }
        if (sendmsg(fd, &message, MSG_NOSIGNAL) != (ssize_t)length && errno != EPIPE && errno != ECONNRESET)
                DIE("sendmsg");
}

static void send_all(int fd, enum split split, const char *text, size_t length, const int *fds, size_t n_fds)
{
        size_t first = split == SPLIT_LATE ? length : length / 2;

        if (split == SPLIT_NONE) {
                send_piece(fd, text, length, fds, n_fds);
                return;
        }
        send_piece(fd, text, first, fds, split == SPLIT_FIRST ? n_fds : 0);
        usleep(PAUSE_US);
        if (split == SPLIT_LATE)
                send_piece(fd, "\n", 1, fds, n_fds);
        else
                send_piece(fd, text + first, length - first, fds, split == SPLIT_LAST ? n_fds : 0);
}

static int connect_to(const char *path)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        errno = ENAMETOOLONG;
        if (strlen(path) >= sizeof(address.sun_path))
                DIE(path);
        strcpy(address.sun_path, path);
        if (fd < 0)
                DIE("socket");
        if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
                return fd;
        close_fd(fd);
        return -1;
}

int hand_over(const struct hand_over *order, const struct guest *guest)
{
        const int fds[] = {guest->uffd_fd, guest->image_fd};
        int fd = connect_to(order->socket_path);
        size_t length;
        char *text;

        if (fd < 0)
                return -1;
        text = message_of(order, guest, &length);
        send_all(fd, order->split, text, length, fds, order->dialect == DIALECT_MEMFD ? 2 : 1);
        free(text);
        return order->closes ? close_fd(fd) : fd;
}
