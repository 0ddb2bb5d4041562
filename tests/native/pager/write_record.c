/* write_record IMAGE DIGEST_BYTE OUT PAGE[w]...: a record as the page server writes one, for the tests of what reads
 * it. The image's digest is DIGEST_BYTE (0 to 255), 32 times. "w": the guest wrote to the page. */
#include <string.h>

#include "check.h"
#include "working_set.h"

int main(int argc, char **argv)
{
        uint8_t digest[WORKING_SET_DIGEST_BYTES];
        struct touch *touches = calloc((size_t)argc, sizeof(*touches));
        struct image image;
        size_t n = 0;

        CHECK(argc >= 4 && touches);
        memset(digest, atoi(argv[2]), sizeof(digest));
        CHECK_EQ(image_open(argv[1], &image), 0);
        for (int i = 4; i < argc; i++) {
                char *end;

                touches[n].page = (uint32_t)strtoul(argv[i], &end, 10);
                touches[n++].flags = *end == 'w' ? TOUCH_WRITTEN : 0;
        }
        CHECK_EQ(record_write(argv[3], &image, digest, touches, n), 0);
        image_close(&image);
        free(touches);
        return 0;
}
