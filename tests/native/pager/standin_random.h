/* A guest that does as it likes: vCPUs that read and write, a balloon that gives pages back, all at once. */
#ifndef SNAPSTART_STANDIN_RANDOM_H
#define SNAPSTART_STANDIN_RANDOM_H

#include <stdint.h>

#include "standin_touch.h"

struct random_order {
        uint64_t seed; /* decides what every thread does, not how they meet */
        uint64_t touches; /* of all vCPUs together */
        unsigned vcpus;
};

struct random_result {
        uint64_t touches, writes, races, removals, removed_pages;
        struct stay stay;
};

/* Returns when all touches are done. What was wrong is in @model. */
struct random_result random_run(struct model *model, const struct random_order *order);

#endif
