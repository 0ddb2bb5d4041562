/* Touches in a given order, one after the other: what a recorded guest does. */
#ifndef SNAPSTART_STANDIN_TRACE_H
#define SNAPSTART_STANDIN_TRACE_H

#include <stddef.h>
#include <stdint.h>

#include "standin_touch.h"

struct trace_step {
        uint64_t page;
        char what; /* 'r'ead, 'w'rite, 'd': give back */
};

struct trace {
        struct trace_step *steps; /* owned */
        size_t n;
};

/* Read lines "PAGE r|w|d". */
void trace_read(struct trace *trace, const char *path);
void trace_release(struct trace *trace);

/* Do it. @latencies: n of them are written, in nanoseconds; NULL: no touch is timed by itself.
 * Returns the nanoseconds that all of it took. What was wrong is in @model. */
uint64_t trace_run(const struct trace *trace, struct model *model, uint64_t *latencies);

#endif
