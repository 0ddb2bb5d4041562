/* Kuasar's images that have no working set yet: which records of them there are, which are under way, when they
 * are merged. */
#ifndef SNAPSTART_KUASAR_IMAGES_H
#define SNAPSTART_KUASAR_IMAGES_H

#include "handshake.h"
#include "kuasar_clerk.h"
#include "server.h"

/* What decides whether a machine is recorded. */
struct kuasar_facts {
        bool is_tidy; /* what was left in the directory has been looked through */
        bool is_linked; /* the machine's image is a link: to a template */
        bool is_used_up; /* the template serves this machine and no other */
        bool has_small_pages; /* all of the machine's memory */
        bool is_given_up; /* something failed before */
        uint32_t taken; /* one bit for each record that is there or under way */
        unsigned wanted; /* records of an image */
};

/* Returns which record the machine is to make, below 0: none. Pure. */
int kuasar_choose_record(const struct kuasar_facts *facts);

struct kuasar_images {
        const char *directory; /* borrowed */
        unsigned n_records;
        bool is_tidy, is_stopped;
        struct kuasar_clerk clerk;
        struct kuasar_image *first;
};

/* Begin to look after the directory that @settings name. @loop: must outlive it. Returns 0 or a negative errno. */
int kuasar_images_open(struct kuasar_images *images, const struct kuasar_settings *settings, struct loop *loop);

/* is_stopped was set, and nobody records any more. Returns as kuasar_clerk_close(). */
bool kuasar_images_close(struct kuasar_images *images);

/* Choose whether a machine is recorded, from what its monitor @said and its @image, whose digest is @digest.
 * Returns the number of the record, to be settled later, or below 0. */
int kuasar_images_reserve(struct kuasar_images *images, const struct handshake *said, const struct image *image,
                          const uint8_t *digest);

/* A record that was reserved is written (0), will not be (-ENODATA), or could not be (another negative errno). */
void kuasar_images_settle(struct kuasar_images *images, const uint8_t *digest, unsigned index, int error);

#endif
