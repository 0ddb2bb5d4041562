/* Places where the page server can be made to die, and mistakes planted in it, for the torture run.
 *
 * In a normal build (without PAGER_KILL_POINTS) all of this is nothing. With it, the environment says, read
 * once when the program starts:
 *   SNAP_PAGER_KILL=STEP:N            kill this process with SIGKILL the N-th time it passes STEP
 *   SNAP_PAGER_KILL_REPORT=PATH       append "STEP\n" to PATH just before that
 *   SNAP_PAGER_PLANT=forget-remove    make this mistake
 * What is not understood ends the program at its start: a torture run that kills nothing proves nothing. */
#ifndef SNAPSTART_KILL_POINT_H
#define SNAPSTART_KILL_POINT_H

#include <stdbool.h>

enum kill_step {
        KILL_RECEIVE, /* "receive": events were read */
        KILL_JOURNAL, /* "journal": a machine's file was written */
        KILL_COPY, /* "copy": a page is about to be installed */
        KILL_REMOVE_READ, /* "remove-read": a removal was read, nothing was done about it */
        KILL_REMOVE_RECORDED, /* "remove-recorded": its pages are marked, its event not yet cleared */
        KILL_WAKE, /* "wake": who waits is about to be woken */
        KILL_STEPS,
};

enum plant {
        PLANT_FORGET_REMOVE, /* "forget-remove": what was given back is forgotten at a death */
        PLANTS,
};

#ifdef PAGER_KILL_POINTS

/* Pass @step, perhaps for the last time. Safe in every thread. */
void kill_point(enum kill_step step);

/* Returns whether this mistake is to be made. */
bool planted(enum plant plant);

#else

static inline void kill_point(enum kill_step step)
{
        (void)step;
}

static inline bool planted(enum plant plant)
{
        (void)plant;
        return false;
}

#endif

#endif
