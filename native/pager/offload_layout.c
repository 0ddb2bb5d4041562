#define _GNU_SOURCE
#include "offload_layout.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "image.h"
#include "json_scan.h"

/* Touches and runs name pages in 32 bits. */
#define MAX_BYTES ((uint64_t)UINT32_MAX * IMAGE_PAGE_BYTES)
/* No processor has more guest physical addresses, no file more bytes: sums of two cannot overflow. */
#define MAX_ADDRESS (UINT64_C(1) << 57)

static int refuse(const char *why, const char **ret_why)
{
        *ret_why = why;
        return -EBADMSG;
}

static bool member(struct json object, const char *name, uint64_t *ret_value)
{
        struct json value;

        return json_find(object, name, &value) == 0 && json_unsigned(value, ret_value) == 0;
}

static bool is_true(struct json object, const char *name)
{
        struct json value;

        return json_find(object, name, &value) == 0 && value.length == 4 && memcmp(value.text, "true", 4) == 0;
}

static int read_slot(struct json mapping, struct offload_slot *ret_slot, const char **ret_why)
{
        uint64_t number, address, size_bytes, file_offset;

        if (!member(mapping, "slot", &number) || !member(mapping, "gpa", &address) ||
            !member(mapping, "size", &size_bytes) || !member(mapping, "file_offset", &file_offset))
                return refuse("a memory mapping of the configuration lacks a number", ret_why);
        if (number > UINT32_MAX || address > MAX_ADDRESS || file_offset > MAX_ADDRESS || size_bytes == 0 ||
            size_bytes > MAX_BYTES)
                return refuse("a memory mapping of the configuration is out of all bounds", ret_why);
        if ((address | size_bytes | file_offset) % IMAGE_PAGE_BYTES)
                return refuse("a memory mapping of the configuration does not consist of whole pages", ret_why);
        *ret_slot = (struct offload_slot){
                .number = (uint32_t)number,
                .is_plugged = is_true(mapping, "virtio_mem"),
                .address = address,
                .size_bytes = size_bytes,
                .file_offset = file_offset,
        };
        return 0;
}

static bool overlaps(const struct offload_slot *a, const struct offload_slot *b)
{
        return a->address < b->address + b->size_bytes && b->address < a->address + a->size_bytes;
}

static int append(struct offload_layout *layout, struct offload_slot slot, const char **ret_why)
{
        if (layout->n_slots == OFFLOAD_MAX_SLOTS)
                return refuse("the configuration has too many memory mappings", ret_why);
        for (size_t i = 0; i < layout->n_slots; i++) {
                if (layout->slots[i].number == slot.number)
                        return refuse("two memory mappings of the configuration have one slot", ret_why);
                if (overlaps(&layout->slots[i], &slot))
                        return refuse("two memory mappings of the configuration overlap", ret_why);
        }
        if (slot.size_bytes > MAX_BYTES - layout->size_bytes)
                return refuse("the configuration has too much memory", ret_why);
        slot.offset = layout->size_bytes;
        layout->size_bytes += slot.size_bytes;
        layout->slots[layout->n_slots++] = slot;
        return 0;
}

static int read_mappings(struct json mappings, struct offload_layout *layout, const char **ret_why)
{
        struct json rest, mapping;
        struct offload_slot slot;
        int r = json_elements(mappings, &rest);

        if (r < 0)
                return refuse("guest_ram_mappings of the configuration is no array", ret_why);
        while ((r = json_next_element(&rest, &mapping)) > 0) {
                r = read_slot(mapping, &slot, ret_why);
                r = r ? r : append(layout, slot, ret_why);
                if (r)
                        return r;
        }
        return layout->n_slots > 0 ? r : refuse("the configuration has no memory", ret_why);
}

int offload_layout_parse(const char *config, size_t length, struct offload_layout *ret_layout, const char **ret_why)
{
        struct offload_layout layout = { 0 };
        struct json object, mappings;
        int r;

        if (json_parse(config, length, &object) < 0)
                return refuse("the configuration is no JSON", ret_why);
        if (json_find(object, "memory_manager_data.guest_ram_mappings", &mappings) < 0)
                return refuse("the configuration lacks memory_manager_data.guest_ram_mappings", ret_why);
        r = read_mappings(mappings, &layout, ret_why);
        if (r == 0)
                *ret_layout = layout;
        return r;
}

size_t offload_layout_at(const struct offload_layout *layout, uint64_t offset)
{
        size_t i = layout->n_slots - 1;

        while (layout->slots[i].offset > offset)
                i--;
        return i;
}

static bool holds(const struct offload_slot *slot, const struct offload_range *range)
{
        return range->address >= slot->address && range->address - slot->address < slot->size_bytes &&
               range->length <= slot->size_bytes - (range->address - slot->address);
}

int offload_layout_pages(const struct offload_layout *layout, const struct offload_range *range,
                         uint64_t *ret_page, uint64_t *ret_pages)
{
        if (range->length == 0 || (range->address | range->length) % IMAGE_PAGE_BYTES)
                return -EINVAL;
        for (size_t i = 0; i < layout->n_slots; i++) {
                const struct offload_slot *slot = &layout->slots[i];

                if (!holds(slot, range))
                        continue;
                *ret_page = (slot->offset + range->address - slot->address) / IMAGE_PAGE_BYTES;
                *ret_pages = range->length / IMAGE_PAGE_BYTES;
                return 0;
        }
        return -EINVAL;
}
