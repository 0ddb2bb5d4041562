/* Put files into a state of the page cache, and say how many of their pages are there afterwards.
 *
 * usage: page_cache cold|pieces|whole FILE...; a JSON array of resident pages, a number for each file.
 *
 *   cold    dropped. A page that some process has mapped cannot be: the numbers tell.
 *   pieces  dropped, then read a little at a time: in small folios, as page faults leave a file
 *   whole   dropped, then read from beginning to end: in folios of up to 2 MiB, which the kernel maps
 *           into a process by one fault each */
#define _GNU_SOURCE
#include "common.h"

static void drop(int fd)
{
        if (fsync(fd) != 0 || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0)
                fail("cannot drop a file from the page cache");
}

static void fill(int fd, size_t step)
{
        static char buffer[1 << 20];

        /* Also switches readahead off, which is what makes folios large. */
        if (step < sizeof(buffer) && posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM) != 0)
                fail("cannot switch readahead off");
        while (read(fd, buffer, step) > 0)
                ;
}

static size_t count_resident(int fd)
{
        size_t count = 0, pages;
        unsigned char *there;
        struct stat status;
        void *memory;

        if (fstat(fd, &status) != 0)
                fail("cannot look at a file");
        pages = (status.st_size + PAGE - 1) / PAGE;
        there = calloc(pages + 1, 1);
        memory = mmap(NULL, pages * PAGE, PROT_READ, MAP_SHARED, fd, 0);
        if (!there || memory == MAP_FAILED || mincore(memory, pages * PAGE, there) != 0)
                fail("cannot look which pages are in memory");
        for (size_t i = 0; i < pages; i++)
                count += there[i] & 1;
        munmap(memory, pages * PAGE);
        free(there);
        return count;
}

int main(int argc, char **argv)
{
        if (argc < 3)
                return 2;
        printf("[");
        for (int i = 2; i < argc; i++) {
                int fd = open(argv[i], O_RDONLY | O_CLOEXEC);
                if (fd < 0)
                        fail("cannot open %s", argv[i]);
                drop(fd);
                if (strcmp(argv[1], "pieces") == 0)
                        fill(fd, 1 << 16);
                else if (strcmp(argv[1], "whole") == 0)
                        fill(fd, 1 << 20);
                else if (strcmp(argv[1], "cold") != 0)
                        return 2;
                printf("%s%zu", i > 2 ? "," : "", count_resident(fd));
                close(fd);
        }
        printf("]\n");
        return 0;
}
