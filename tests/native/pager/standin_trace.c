#define _GNU_SOURCE
#include "standin_trace.h"

#include <inttypes.h>

#include "standin_die.h"

static void append(struct trace *trace, struct trace_step step)
{
        /* Doubled whenever the number is a power of two. */
        if ((trace->n & (trace->n - 1)) == 0) {
                trace->steps = reallocarray(trace->steps, trace->n ? 2 * trace->n : 1, sizeof(step));
                if (!trace->steps)
                        DIE("trace");
        }
        trace->steps[trace->n++] = step;
}

void trace_read(struct trace *trace, const char *path)
{
        FILE *file = fopen(path, "re");
        struct trace_step step;
        int fields;

        if (!file)
                DIE(path);
        while ((fields = fscanf(file, "%" SCNu64 " %c", &step.page, &step.what)) == 2) {
                errno = EINVAL;
                if (!strchr("rwd", step.what))
                        DIE(path);
                append(trace, step);
        }
        errno = EINVAL;
        if (fields != EOF)
                DIE(path);
        fclose(file);
}

void trace_release(struct trace *trace)
{
        free(trace->steps);
        *trace = (struct trace){0};
}

static void take_step(struct model *model, const struct trace_step *step)
{
        uint64_t unit;
        unsigned word;

        switch (step->what) {
        case 'w':
                touch_write(model, step->page);
                return;
        case 'd':
                unit = guest_unit_pages(model->guest, step->page);
                touch_remove(model, step->page - step->page % unit, unit);
                return;
        default:
                word = model_written_word(model, step->page);
                model_check(model, step->page, word, touch_read(model, step->page, word),
                            model_word(model, step->page, word), "read");
        }
}

static uint64_t run_timed(const struct trace *trace, struct model *model, uint64_t *latencies)
{
        uint64_t start_ns = clock_ns(), last_ns = start_ns;

        for (size_t i = 0; i < trace->n; i++) {
                uint64_t end_ns;

                take_step(model, &trace->steps[i]);
                end_ns = clock_ns();
                latencies[i] = end_ns - last_ns;
                last_ns = end_ns;
        }
        return last_ns - start_ns;
}

uint64_t trace_run(const struct trace *trace, struct model *model, uint64_t *latencies)
{
        uint64_t start_ns;

        if (latencies)
                return run_timed(trace, model, latencies);
        start_ns = clock_ns();
        for (size_t i = 0; i < trace->n; i++)
                take_step(model, &trace->steps[i]);
        return clock_ns() - start_ns;
}
