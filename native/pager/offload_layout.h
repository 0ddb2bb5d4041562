/* Where a machine's memory lies: in guest physical addresses, in the descriptors that hold it, in the image.
 *
 * A Cloud Hypervisor says it in the configuration that goes with a migration, as
 * memory_manager_data.guest_ram_mappings. The image is those mappings one after the other, in the order
 * they are listed. Pure. */
#ifndef SNAPSTART_OFFLOAD_LAYOUT_H
#define SNAPSTART_OFFLOAD_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "offload_wire.h"

#define OFFLOAD_MAX_SLOTS 128

/* @size_bytes of guest memory at @address are in slot @number's descriptor at @file_offset, and at @offset
 * of the image. All but the number are multiples of IMAGE_PAGE_BYTES. */
struct offload_slot {
        uint32_t number;
        bool is_plugged; /* memory that a guest plugs in by blocks (virtio-mem): not all of it may be in use */
        uint64_t address, size_bytes, file_offset, offset;
};

struct offload_layout {
        size_t n_slots; /* 1 to OFFLOAD_MAX_SLOTS */
        uint64_t size_bytes; /* of the image */
        struct offload_slot slots[OFFLOAD_MAX_SLOTS]; /* sorted by offset; no two overlap in guest memory */
};

/* Read the layout out of @length bytes of JSON at @config.
 * @ret_why: a static text for people when it is refused.
 * Returns 0 or -EBADMSG. @ret_layout is written only on success. */
int offload_layout_parse(const char *config, size_t length, struct offload_layout *ret_layout, const char **ret_why);

/* Returns the index of the slot that holds @offset of the image. @offset: below size_bytes. */
size_t offload_layout_at(const struct offload_layout *layout, uint64_t offset);

/* Translate guest memory into pages of the image.
 * Returns 0, -EINVAL if @range is empty, does not consist of whole pages or is in no single slot. */
int offload_layout_pages(const struct offload_layout *layout, const struct offload_range *range,
                         uint64_t *ret_page, uint64_t *ret_pages);

#endif
