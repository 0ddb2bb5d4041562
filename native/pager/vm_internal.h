/* What the parts of a machine's memory server share: vm.c begins and ends it, vm_memory.c fills pages, vm_demand.c
 * serves faults, vm_events.c reads them, vm_install.c goes ahead of them. */
#ifndef SNAPSTART_VM_INTERNAL_H
#define SNAPSTART_VM_INTERNAL_H

#include "vm.h"

/* A page of a machine. */
struct place {
        const struct region *region;
        uint64_t page; /* among all of the machine */
        uint64_t address;
        uint64_t image_page;
};

enum content { CONTENT_ZERO, CONTENT_DATA };

/* Pages of one content that follow each other, from @place on. */
struct fill {
        struct place place;
        const uint8_t *source; /* what they hold */
        uint64_t pages;
        enum content content;
        bool is_write; /* whoever asked, or will ask, wants to write */
        /* What came of it: */
        uint64_t filled; /* here; those that were there already are skipped */
        int64_t error; /* of uffd_copy(); 0: all of them are there now */
};

static inline struct journal_head *vm_head(const struct vm *vm)
{
        return vm->journal.head;
}

/* -- vm_memory.c ----------------------------------------------------------------------------------- */

/* Returns false if the machine did not hand over memory at @address. */
bool vm_find_place(const struct vm *vm, uint64_t address, struct place *ret_place);

/* Where page @image_page of the image is in the machine, in regions of small pages. */
bool vm_find_image_page(const struct vm *vm, uint64_t image_page, struct place *ret_place);

/* Returns whether the guest gave the page back: it is owed as zeros. */
bool vm_is_removed(const struct vm *vm, const struct place *place);

enum content vm_content(const struct vm *vm, const struct place *place);

/* Returns whether pages of the image are mapped as they are, and copied when they are written. */
bool vm_is_sharing(const struct vm *vm);

/* Returns what the page holds in the image. */
const uint8_t *vm_source(const struct vm *vm, uint64_t image_page);

/* Fill pages and mark them. Other threads may fill other pages of the machine meanwhile. */
void vm_fill_pages(const struct vm *vm, struct fill *fill);

/* Count what a fill did. Returns how many pages it filled, or its error. */
int64_t vm_count(struct vm *vm, const struct fill *fill);

/* Both. */
int64_t vm_fill(struct vm *vm, struct fill fill);

/* -- vm_demand.c ----------------------------------------------------------------------------------- */

/* Serve one fault. @may_be_cold: false when a reader has just brought the page. */
void vm_serve(struct vm *vm, const struct parked *fault, bool may_be_cold);

/* Try those again that the kernel refused while the address space was changing, and those that waited for what comes
 * soon. */
void vm_retry_parked(struct vm *vm);

/* -- vm_events.c ----------------------------------------------------------------------------------- */

/* Carry the removals in the ring over into the bit map, whatever their place among the events. Returns false if the
 * machine did what cannot be followed. */
bool vm_note_removals(struct vm *vm);

void vm_clear_ring(struct vm *vm);

void vm_events_ready(struct source *source, uint32_t events);

/* -- vm_install.c ---------------------------------------------------------------------------------- */

bool vm_install_some(struct idler *idler);
void vm_install_more(struct vm *vm);

/* Whether page @image_page is installed so soon, unasked, that to read it by itself would take longer. */
bool vm_comes_soon(const struct vm *vm, uint64_t image_page);

/* Have the crew begin nothing more for this machine, and wait for what it has begun. */
void vm_pause_plan(struct vm *vm);

/* Go on with what was paused. */
void vm_resume_plan(struct vm *vm);

/* Forget it; what is missing is installed all the same. */
void vm_drop_plan(struct vm *vm);

void vm_warmed(struct warm_waiter *waiter);
void vm_retry_due(struct timer *timer);
void vm_make_ready(struct vm *vm);

/* -- vm.c ------------------------------------------------------------------------------------------ */

void vm_stop_with(struct vm *vm, const char *what, int error);

/* What a call on its userfaultfd said: 0 to go on, 1 to try again later, -1 if that was its end. */
int vm_classify(struct vm *vm, int64_t result);

/* Something was taken from the image: see that it still was what it should be. */
void vm_check_image(struct vm *vm);

#endif
