#define _GNU_SOURCE
#include "kill_point.h"

#ifdef PAGER_KILL_POINTS

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const STEPS[KILL_STEPS] = {
        [KILL_RECEIVE] = "receive",
        [KILL_JOURNAL] = "journal",
        [KILL_COPY] = "copy",
        [KILL_REMOVE_READ] = "remove-read",
        [KILL_REMOVE_RECORDED] = "remove-recorded",
        [KILL_WAKE] = "wake",
};

static const char *const PLANT_NAMES[PLANTS] = {
        [PLANT_FORGET_REMOVE] = "forget-remove",
};

/* The exception to "no mutable globals": nothing here exists in what is shipped. */
static struct {
        int step; /* KILL_STEPS: none */
        long left; /* passes until the last */
        const char *report; /* borrowed from the environment */
        bool has_plant[PLANTS];
} orders = {.step = KILL_STEPS};

static _Noreturn void refuse(const char *name, const char *value)
{
        fprintf(stderr, "snap-pager: %s=%s is not understood\n", name, value);
        _exit(2);
}

static int find(const char *const *names, int n, const char *name, size_t length)
{
        for (int i = 0; i < n; i++)
                if (strlen(names[i]) == length && strncmp(names[i], name, length) == 0)
                        return i;
        return -1;
}

static void read_kill(const char *value)
{
        const char *colon = strchr(value, ':');
        char *end = NULL;

        if (!colon)
                refuse("SNAP_PAGER_KILL", value);
        orders.step = find(STEPS, KILL_STEPS, value, (size_t)(colon - value));
        orders.left = strtol(colon + 1, &end, 10);
        if (orders.step < 0 || end == colon + 1 || *end || orders.left < 1)
                refuse("SNAP_PAGER_KILL", value);
}

static void read_plant(const char *value)
{
        int plant = find(PLANT_NAMES, PLANTS, value, strlen(value));

        if (plant < 0)
                refuse("SNAP_PAGER_PLANT", value);
        orders.has_plant[plant] = true;
}

static __attribute__((constructor)) void read_orders(void)
{
        const char *value = getenv("SNAP_PAGER_KILL");

        if (value && *value)
                read_kill(value);
        value = getenv("SNAP_PAGER_PLANT");
        if (value && *value)
                read_plant(value);
        orders.report = getenv("SNAP_PAGER_KILL_REPORT");
}

static void report(const char *path, const char *step)
{
        int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

        if (fd < 0 || dprintf(fd, "%s\n", step) < 0)
                fprintf(stderr, "snap-pager: cannot report a death at %s to %s\n", step, path);
        if (fd >= 0)
                close(fd);
}

void kill_point(enum kill_step step)
{
        if ((int)step != orders.step || __atomic_sub_fetch(&orders.left, 1, __ATOMIC_RELAXED) != 0)
                return;
        if (orders.report)
                report(orders.report, STEPS[step]);
        kill(getpid(), SIGKILL);
        for (;;)
                pause();
}

bool planted(enum plant plant)
{
        return orders.has_plant[plant];
}

#endif
