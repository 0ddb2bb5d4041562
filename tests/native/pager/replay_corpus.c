/* Give files to a fuzz target, naming each before its turn: replay_corpus FILE... */
#define _GNU_SOURCE
#include "fuzz.h"

static void replay(const char *path)
{
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        struct stat st;
        uint8_t *data;

        REQUIRE(fd >= 0 && fstat(fd, &st) == 0);
        data = malloc((size_t)st.st_size + !st.st_size);
        REQUIRE(data && read(fd, data, (size_t)st.st_size) == st.st_size);
        close(fd);
        LLVMFuzzerTestOneInput(data, (size_t)st.st_size);
        free(data);
}

int main(int argc, char **argv)
{
        for (int i = 1; i < argc; i++) {
                puts(argv[i]);
                fflush(stdout);
                replay(argv[i]);
        }
        return 0;
}
