/* A test program dies of any surprise, saying what it was. */
#ifndef SNAPSTART_STANDIN_DIE_H
#define SNAPSTART_STANDIN_DIE_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIE(what)                                                                                \
        do {                                                                                     \
                fprintf(stderr, "standin_vm: %s:%d: %s: %s\n", __FILE__, __LINE__, what, strerror(errno)); \
                exit(1);                                                                         \
        } while (0)

#endif
