/* A small image with holes, for targets that read files about an image. */
#ifndef SNAPSTART_FUZZ_IMAGE_H
#define SNAPSTART_FUZZ_IMAGE_H

#include <sys/mman.h>

#include "fuzz.h"
#include "image.h"
#include "working_set.h"

#define FUZZ_IMAGE_PAGES 700

static const uint8_t fuzz_digest[WORKING_SET_DIGEST_BYTES] = { 1, 2, 3 };

/* Every seventh page is in a hole. */
static inline const struct image *fuzz_image(void)
{
        static struct image image;
        static uint8_t page[IMAGE_PAGE_BYTES];
        int fd;

        if (image.pages > 0)
                return &image;
        fd = memfd_create("image", MFD_CLOEXEC);
        REQUIRE(fd >= 0 && ftruncate(fd, FUZZ_IMAGE_PAGES * IMAGE_PAGE_BYTES) == 0);
        for (int i = 0; i < FUZZ_IMAGE_PAGES; i++) {
                memset(page, i | 1, sizeof(page));
                REQUIRE(i % 7 == 0 || pwrite(fd, page, sizeof(page), i * (off_t)sizeof(page)) == sizeof(page));
        }
        REQUIRE(image_open_fd(fd, &image) == 0);
        return &image;
}

#endif
