#include "kuasar_sets.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "deadline.h"
#include "kuasar_images.h"
#include "kuasar_log.h"
#include "recording.h"

/* A machine that is recorded. */
struct taking {
        struct taking *next;
        struct timer timer; /* for how long */
        struct kuasar_sets *sets;
        struct vm *vm; /* borrowed, until kuasar_sets_ending(); NULL until it is served */
        char name[JOURNAL_ID_BYTES];
        uint8_t digest[WORKING_SET_DIGEST_BYTES]; /* of its image */
        unsigned index; /* of its record */
};

struct kuasar_sets {
        struct kuasar_images images;
        struct loop *loop;
        int64_t record_ns;
        struct taking *takings;
};

/* -- recordings ------------------------------------------------------------------------------------ */

static struct taking *find_taking(const struct kuasar_sets *sets, const char *name)
{
        struct taking *one = sets->takings;

        while (one && strcmp(one->name, name) != 0)
                one = one->next;
        return one;
}

static void free_taking(struct taking *taking)
{
        struct taking **at = &taking->sets->takings;

        while (*at != taking)
                at = &(*at)->next;
        *at = taking->next;
        loop_unset(taking->sets->loop, &taking->timer);
        free(taking);
}

static void was_written(struct recording *recording)
{
        struct kuasar_sets *sets = recording->context;

        kuasar_images_settle(&sets->images, recording->template->digest, (unsigned)recording->serial,
                             recording->error);
}

static void stop_recording(struct vm *vm)
{
        struct touch *touches;

        if (vm_end_recording(vm, &touches) >= 0)
                free(touches);
}

/* Returns 0 if was_written() will be called, -ENODATA if there is nothing to write, or another negative errno. */
static int write_record(const struct taking *taking)
{
        char path[JOURNAL_PATH_BYTES];
        struct vm *vm = taking->vm;
        int r = -ENODATA;

        if (!vm)
                return r;
        kuasar_record(taking->sets->images.directory, taking->digest, taking->index, path);
        if (vm->n_touches > 0)
                r = recording_end(vm, path, taking->index, taking->sets, was_written);
        if (r)
                stop_recording(vm);
        return r;
}

static void end_taking(struct taking *taking)
{
        int r = write_record(taking);

        if (r)
                kuasar_images_settle(&taking->sets->images, taking->digest, taking->index, r);
        free_taking(taking);
}

static void was_long_enough(struct timer *timer)
{
        end_taking(container_of(timer, struct taking, timer));
}

static void plan_recording(struct kuasar_sets *sets, const struct handshake *said, const struct image *image,
                           struct machine_order *order)
{
        int index = kuasar_images_reserve(&sets->images, said, image, order->digest);
        struct taking *taking = index < 0 ? NULL : calloc(1, sizeof(*taking));

        if (index >= 0 && !taking)
                kuasar_images_settle(&sets->images, order->digest, (unsigned)index, -ENODATA);
        if (!taking)
                return;
        taking->sets = sets;
        taking->timer.due = was_long_enough;
        memcpy(taking->name, order->vm, sizeof(taking->name));
        memcpy(taking->digest, order->digest, sizeof(taking->digest));
        taking->index = (unsigned)index;
        taking->next = sets->takings;
        sets->takings = taking;
        kuasar_record(sets->images.directory, order->digest, taking->index, order->record);
}

/* -- working sets ---------------------------------------------------------------------------------- */

void kuasar_sets_plan(struct kuasar_sets *sets, const struct handshake *said, const struct image *image,
                      struct machine_order *order)
{
        char path[JOURNAL_PATH_BYTES];

        if (!sets)
                return;
        kuasar_digest(&image->identity, order->digest);
        kuasar_file(sets->images.directory, order->digest, KUASAR_SET, path);
        if (access(path, F_OK) == 0)
                memcpy(order->working_set, path, sizeof(path));
        else
                plan_recording(sets, said, image, order);
}

/* Returns why the working set that a machine was to have is of no use, or NULL. */
static const char *find_damage(const struct template *template)
{
        if (template->data_warming.error == -EBADMSG)
                return "its content is damaged";
        return template->set_problem;
}

/* A working set of no use is put aside, and made anew. */
static void drop_if_damaged(struct kuasar_sets *sets, const struct vm *vm)
{
        const struct template *template = vm->template;
        const char *why = find_damage(template);
        char path[JOURNAL_PATH_BYTES], aside[JOURNAL_PATH_BYTES];
        struct kuasar_errand errand = {.order = KUASAR_DROP, .digest = template->digest};

        kuasar_file(sets->images.directory, template->digest, KUASAR_SET, path);
        if (!why || strcmp(vm->journal.head->working_set_path, path) != 0)
                return;
        kuasar_file(sets->images.directory, template->digest, KUASAR_SPOILT, aside);
        if (rename(path, aside) < 0)
                return;
        kuasar_say_dropped(path, why);
        kuasar_clerk_send(&sets->images.clerk, &errand);
}

/* -- machines -------------------------------------------------------------------------------------- */

void kuasar_sets_began(struct kuasar_sets *sets, const char *name, struct vm *vm)
{
        struct taking *taking = sets ? find_taking(sets, name) : NULL;

        if (!sets)
                return;
        drop_if_damaged(sets, vm);
        if (!taking)
                return;
        taking->vm = vm;
        loop_set(sets->loop, &taking->timer, now_ns() + sets->record_ns);
}

void kuasar_sets_ending(struct kuasar_sets *sets, const char *name, struct vm *vm)
{
        struct taking *taking = sets ? find_taking(sets, name) : NULL;

        if (!sets || sets->images.is_stopped)
                return;
        if (vm)
                drop_if_damaged(sets, vm);
        if (taking)
                end_taking(taking);
}

/* -- life ------------------------------------------------------------------------------------------ */

struct kuasar_sets *kuasar_sets_open(const struct kuasar_settings *settings, struct loop *loop)
{
        struct kuasar_sets *sets = calloc(1, sizeof(*sets));
        int r = sets ? kuasar_images_open(&sets->images, settings, loop) : -ENOMEM;

        if (r) {
                kuasar_say_failed("directory", settings->sets, r, "");
                free(sets);
                return NULL;
        }
        sets->loop = loop;
        sets->record_ns = settings->record_ns;
        return sets;
}

void kuasar_sets_stop(struct kuasar_sets *sets)
{
        if (!sets)
                return;
        sets->images.is_stopped = true;
        while (sets->takings)
                free_taking(sets->takings);
}

void kuasar_sets_close(struct kuasar_sets *sets)
{
        if (sets && kuasar_images_close(&sets->images))
                free(sets);
}
