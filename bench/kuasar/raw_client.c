// The floor: one line out, one line back, a connection each, as fast as a client can be.
//
// usage: raw_client SOCKET REQUEST; for every byte on standard input one call, for every call its
// nanoseconds and the bytes of the reply as a line of standard output.
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static long call_once(const struct sockaddr_un *where, const char *request, size_t length)
{
    static char reply[1 << 20];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    long got = -1;

    if (fd < 0)
        return -1;
    if (connect(fd, (const struct sockaddr *)where, sizeof(*where)) == 0 &&
        write(fd, request, length) == (ssize_t)length) {
        got = 0;
        while ((size_t)got < sizeof(reply)) {
            ssize_t n = read(fd, reply + got, sizeof(reply) - got);
            if (n <= 0) {
                got = -1;
                break;
            }
            got += n;
            if (reply[got - 1] == '\n')
                break;
        }
    }
    close(fd);
    return got;
}

int main(int argc, char **argv)
{
    struct sockaddr_un where = {.sun_family = AF_UNIX};
    char go;

    if (argc != 3 || strlen(argv[1]) >= sizeof(where.sun_path))
        return 2;
    strcpy(where.sun_path, argv[1]);
    while (read(STDIN_FILENO, &go, 1) == 1) {
        long long begun = now_ns();
        long got = call_once(&where, argv[2], strlen(argv[2]));
        if (got < 0) {
            fprintf(stderr, "raw_client: %s\n", strerror(errno));
            return 1;
        }
        printf("%lld %ld\n", now_ns() - begun, got);
        fflush(stdout);
    }
    return 0;
}
