/* Write a test image: standin_image --seed N --pages N --zero-share X OUT (pattern.h says what it holds).
 * Pages of zeros are holes; OUT is truncated. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pattern.h"

static _Noreturn void fail(const char *what)
{
        fprintf(stderr, "standin_image: %s: %s\n", what, strerror(errno));
        exit(1);
}

static _Noreturn void usage(void)
{
        fprintf(stderr, "usage: standin_image --seed N --pages N --zero-share X OUT\n");
        exit(2);
}

static void write_image(int fd, uint64_t seed, uint64_t pages, double zero_share)
{
        uint64_t words[PATTERN_PAGE_WORDS];

        if (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)(pages * PATTERN_PAGE_BYTES)) < 0)
                fail("ftruncate");
        for (uint64_t page = 0; page < pages; page++) {
                if (pattern_is_zero(seed, page, zero_share))
                        continue;
                pattern_fill(seed, page, words);
                if (pwrite(fd, words, sizeof(words), (off_t)(page * PATTERN_PAGE_BYTES)) != sizeof(words))
                        fail("pwrite");
        }
}

int main(int argc, char **argv)
{
        static const struct option options[] = {
                {"seed", required_argument, NULL, 's'},
                {"pages", required_argument, NULL, 'p'},
                {"zero-share", required_argument, NULL, 'z'},
                {0},
        };
        uint64_t seed = 0, pages = 0;
        double zero_share = 0;
        int option, fd;

        while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
                if (option == 's')
                        seed = strtoull(optarg, NULL, 0);
                else if (option == 'p')
                        pages = strtoull(optarg, NULL, 0);
                else if (option == 'z')
                        zero_share = strtod(optarg, NULL);
                else
                        usage();
        }
        if (optind != argc - 1 || pages == 0)
                usage();
        fd = open(argv[optind], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0)
                fail(argv[optind]);
        write_image(fd, seed, pages, zero_share);
        if (close(fd) < 0)
                fail("close");
        return 0;
}
