/* The least a C test needs: say what failed, where, and stop. */
#ifndef SNAPSTART_CHECK_H
#define SNAPSTART_CHECK_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                       \
        do {                                                                                   \
                if (!(condition)) {                                                            \
                        fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
                        exit(1);                                                               \
                }                                                                              \
        } while (0)

#define CHECK_EQ(left, right)                                                                                      \
        do {                                                                                                       \
                long long left_value = (long long)(left), right_value = (long long)(right);                       \
                if (left_value != right_value) {                                                                   \
                        fprintf(stderr, "%s:%d: %s is %lld, not %s = %lld\n", __FILE__, __LINE__, #left, left_value, \
                                #right, right_value);                                                              \
                        exit(1);                                                                                   \
                }                                                                                                  \
        } while (0)

/* Returns how many descriptors this process has open. */
static inline int count_fds(void)
{
        DIR *directory = opendir("/proc/self/fd");
        int n = 0;

        CHECK(directory);
        while (readdir(directory))
                n++;
        closedir(directory);
        return n;
}

#endif
