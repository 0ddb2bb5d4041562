/* Working sets of Kuasar's machines. Nobody orders recordings of them, so the page server does it of its own accord:
 * the first machines of an image are recorded, each for some seconds or until it ends; what they agree on is the
 * image's working set, which later machines get.
 *
 * Only of an image from which others are likely to come: a link to a template that is not used up by this one
 * machine. For recording is slower than serving on demand.
 *
 * None of it may hurt a machine. Files are written, merged and removed off the loop; what fails is told once
 * for each image, which is then served on demand. */
#ifndef SNAPSTART_KUASAR_SETS_H
#define SNAPSTART_KUASAR_SETS_H

#include "server.h"

struct kuasar_sets;

/* Returns NULL, having said why, if the directory that @settings name cannot be used: machines are served on
 * demand then. @loop: must outlive it. */
struct kuasar_sets *kuasar_sets_open(const struct kuasar_settings *settings, struct loop *loop);

/* No recording begins or ends any more. NULL is fine, here and below. */
void kuasar_sets_stop(struct kuasar_sets *sets);

/* Release everything. If a disk is waited for, that is left behind: this process must be about to end. */
void kuasar_sets_close(struct kuasar_sets *sets);

/* Fill in of @order which digest and working set its @image has, or where it is to be recorded. @said: by its
 * monitor. */
void kuasar_sets_plan(struct kuasar_sets *sets, const struct handshake *said, const struct image *image,
                      struct machine_order *order);

/* The machine @name is served from now on. */
void kuasar_sets_began(struct kuasar_sets *sets, const char *name, struct vm *vm);

/* The machine @name will be served no longer, or never was: @vm is NULL then. Again is harmless. */
void kuasar_sets_ending(struct kuasar_sets *sets, const char *name, struct vm *vm);

#endif
