/* The guest memory of a stand-in machine: mapped and registered as its monitor would. */
#ifndef SNAPSTART_STANDIN_GUEST_H
#define SNAPSTART_STANDIN_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pattern.h"

#define GUEST_MAX_REGIONS 64
#define GUEST_HUGE_BYTES (2u << 20)

struct guest_region {
        uint8_t *memory; /* mapped; owned */
        uint64_t bytes, offset; /* offset: in the image */
        uint64_t page_bytes; /* 4096 or GUEST_HUGE_BYTES */
};

struct guest {
        struct guest_region regions[GUEST_MAX_REGIONS];
        size_t n_regions;
        uint64_t n_pages; /* of 4096 bytes, whatever the regions' own size */
        int image_fd; /* owned; with is_sharing a memfd or a file on tmpfs */
        int uffd_fd; /* owned; FD_NONE before guest_map() and if the monitor keeps none */
        bool is_sharing; /* maps the image privately and has minor faults told */
        bool has_removals; /* asks for EVENT_REMOVE */
};

/* Read "BYTES[h],...": the sizes of regions that follow each other in the image, h: of huge pages. */
void guest_parse_regions(struct guest *guest, const char *text);

/* Open the image; with is_sharing one that is not in shared memory is copied to a memfd. */
void guest_open_image(struct guest *guest, const char *path);

/* Map every region somewhere of its own and register it with a new userfaultfd. */
void guest_map(struct guest *guest);

/* Returns the region that holds page @page of the image. */
const struct guest_region *guest_region_of(const struct guest *guest, uint64_t page);

/* Returns where page @page of the image is. */
uint8_t *guest_page(const struct guest *guest, uint64_t page);

/* Returns how many pages come and go together with @page: 1, or those of a huge page. */
uint64_t guest_unit_pages(const struct guest *guest, uint64_t page);

/* Give @pages pages back to the host, as a balloon does. They are in one region, whole units. */
void guest_remove(const struct guest *guest, uint64_t page, uint64_t pages);

struct guest_memory {
        uint64_t rss_kb, pss_kb, private_dirty_kb;
};

/* What the guest's memory takes of the host, from smaps(5). */
struct guest_memory guest_memory(const struct guest *guest);

#endif
