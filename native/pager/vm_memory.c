#define _GNU_SOURCE
#include "vm_internal.h"

#include <errno.h>
#include <sys/mman.h>

#include "kill_point.h"
#include "uffd.h"

#define ZEROS_BYTES (64 * IMAGE_PAGE_BYTES) /* copied at once */

static int64_t region_at(const struct journal_head *head, uint64_t address)
{
        uint64_t low = 0, high = head->n_regions;

        while (high - low > 1) {
                uint64_t middle = low + (high - low) / 2;

                if (head->regions[middle].address <= address)
                        low = middle;
                else
                        high = middle;
        }
        return address - head->regions[low].address < head->regions[low].size_bytes ? (int64_t)low : -1;
}

bool vm_find_place(const struct vm *vm, uint64_t address, struct place *ret_place)
{
        int64_t i = region_at(vm_head(vm), address);
        const struct region *region;
        uint64_t in_region;

        if (i < 0)
                return false;
        region = &vm_head(vm)->regions[i];
        in_region = (address - region->address) & ~(region->page_bytes - 1);
        *ret_place = (struct place){
                .region = region,
                .page = vm->first_page[i] + in_region / region->page_bytes,
                .address = region->address + in_region,
                .image_page = (region->offset + in_region) / IMAGE_PAGE_BYTES,
        };
        return true;
}

/* Where page @image_page of the image is in the machine, in regions of small pages. */
bool vm_find_image_page(const struct vm *vm, uint64_t image_page, struct place *ret_place)
{
        const struct journal_head *head = vm_head(vm);
        uint64_t offset = image_page * IMAGE_PAGE_BYTES;

        for (uint64_t i = 0; i < head->n_regions; i++) {
                const struct region *region = &head->regions[i];

                if (offset - region->offset < region->size_bytes && region->page_bytes == IMAGE_PAGE_BYTES)
                        return vm_find_place(vm, region->address + (offset - region->offset), ret_place);
        }
        return false;
}

static bool has_removals(const struct vm *vm)
{
        return vm_head(vm)->features & UFFD_FEATURE_EVENT_REMOVE;
}

/* Returns whether the guest gave the page back: it is owed as zeros. */
bool vm_is_removed(const struct vm *vm, const struct place *place)
{
        if (journal_has(vm->journal.removed, place->page))
                return true;
        return !has_removals(vm) && journal_has(vm->journal.installed, place->page);
}

enum content vm_content(const struct vm *vm, const struct place *place)
{
        if (vm_is_removed(vm, place))
                return CONTENT_ZERO;
        if (place->region->page_bytes > IMAGE_PAGE_BYTES)
                return CONTENT_DATA;
        return image_is_zero(&vm->template->image, place->image_page) ? CONTENT_ZERO : CONTENT_DATA;
}

bool vm_is_sharing(const struct vm *vm)
{
        return vm_head(vm)->protocol == HANDSHAKE_MEMFD;
}

static int64_t fill_huge_zeros(const struct vm *vm, const struct place *place)
{
        uint64_t bytes = place->region->page_bytes;
        /* Never written, so it costs one page of zeros. */
        void *source = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        int64_t r;

        if (source == MAP_FAILED)
                return -ENOMEM;
        r = uffd_copy(vm->uffd.fd, place->address, source, bytes);
        munmap(source, bytes);
        return r;
}

static int64_t fill_zeros(const struct vm *vm, const struct place *place, uint64_t bytes, bool is_write)
{
        static uint8_t zeros[ZEROS_BYTES] __attribute__((aligned(4096))); /* never written: one page in memory */

        if (place->region->page_bytes > IMAGE_PAGE_BYTES)
                return fill_huge_zeros(vm, place);
        /* The page of zeros everybody shares would be copied at the write that waits already. */
        if (!is_write)
                return uffd_zero(vm->uffd.fd, place->address, bytes);
        return uffd_copy(vm->uffd.fd, place->address, zeros, bytes < ZEROS_BYTES ? bytes : ZEROS_BYTES);
}

static int64_t fill_once(const struct vm *vm, const struct fill *fill, const struct place *place, const uint8_t *source,
                         uint64_t bytes)
{
        if (fill->content == CONTENT_ZERO)
                return fill_zeros(vm, place, bytes, fill->is_write);
        if (vm_is_sharing(vm) && !fill->is_write)
                return uffd_continue(vm->uffd.fd, place->address, bytes);
        return uffd_copy(vm->uffd.fd, place->address, source, bytes);
}

void vm_fill_pages(const struct vm *vm, struct fill *fill)
{
        struct place place = fill->place;
        const uint8_t *source = fill->source;
        uint64_t page_bytes = place.region->page_bytes, left = fill->pages;

        fill->filled = 0;
        fill->error = 0;
        while (left > 0) {
                int64_t r;
                uint64_t done;

                kill_point(KILL_COPY);
                r = fill_once(vm, fill, &place, source, left * page_bytes);
                if (r < 0) {
                        fill->error = r;
                        return;
                }
                if (r == 0)
                        kill_point(KILL_WAKE);
                done = r ? (uint64_t)r / page_bytes : 1;
                journal_mark_together(vm->journal.installed, place.page, place.page + done);
                fill->filled += r ? done : 0;
                left -= done;
                place.page += done;
                place.address += done * page_bytes;
                source += done * page_bytes;
        }
}

int64_t vm_count(struct vm *vm, const struct fill *fill)
{
        struct journal_counters *counters = &vm_head(vm)->counters;

        if (fill->place.region->page_bytes == IMAGE_PAGE_BYTES && fill->content == CONTENT_ZERO && !fill->is_write)
                counters->zeroed += fill->filled;
        else if (fill->content == CONTENT_DATA && vm_is_sharing(vm) && !fill->is_write)
                counters->shared += fill->filled;
        else
                counters->copied += fill->filled;
        return fill->error ? fill->error : (int64_t)fill->filled;
}

int64_t vm_fill(struct vm *vm, struct fill fill)
{
        vm_fill_pages(vm, &fill);
        return vm_count(vm, &fill);
}

const uint8_t *vm_source(const struct vm *vm, uint64_t image_page)
{
        return vm->template->image.memory + image_page * IMAGE_PAGE_BYTES;
}
