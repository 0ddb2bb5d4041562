/* What a monitor says when it hands its memory over, in the words of three protocols.
 *
 * Firecracker (docs/snapshotting/handling-page-faults-on-snapshot-resume.md): a JSON array of regions, one
 * descriptor. Page size in bytes as page_size, in older versions as page_size_kib, which holds bytes
 * too. Cloud Hypervisor as Kuasar patches it: an object {version: 1, snapshot_path, mappings}, one
 * descriptor. Our own, for monitors that map a template's memfd privately: an object
 * {"protocol": "snapstart-memfd", "version": 1, "regions": [as Firecracker's]}, two descriptors: the
 * userfaultfd, the memfd.
 *
 * In all of them members we do not know are ignored, those we know may come only once. Addresses, sizes
 * and offsets are multiples of the region's page size, in Firecracker's message of the one page size of
 * all regions. No two regions overlap, neither in memory nor in the image. Firecracker's are together as
 * long as the image: its handlers check that, for the machine's state does not name its memory file.
 *
 * Whoever reaches the socket can send anything: nothing is believed unchecked. A message is read in time
 * proportional to its length (and to n log n of its regions), without recursion deeper than JSON's. */
#ifndef SNAPSTART_HANDSHAKE_H
#define SNAPSTART_HANDSHAKE_H

#include <stddef.h>
#include <stdint.h>

#define HANDSHAKE_MAX_BYTES (256 * 1024)
#define HANDSHAKE_MAX_REGIONS 1024
#define HANDSHAKE_MAX_FDS 8 /* taken in one message; more are a protocol error */
#define HANDSHAKE_PATH_BYTES 4096

enum handshake_protocol {
        HANDSHAKE_FIRECRACKER = 1,
        HANDSHAKE_KUASAR = 2,
        HANDSHAKE_MEMFD = 3,
};

/* A range of guest memory: @size_bytes at @address in the monitor hold what is at @offset of the image.
 * All are multiples of @page_bytes, a power of two from 4 KiB to 1 GiB. */
struct region {
        uint64_t address, size_bytes, offset, page_bytes;
};

struct handshake {
        enum handshake_protocol protocol;
        char image_path[HANDSHAKE_PATH_BYTES]; /* Kuasar's; else empty. Absolute, normal, NUL-ended */
        size_t n_regions; /* 1 to HANDSHAKE_MAX_REGIONS, sorted by address, none overlapping */
        struct region regions[HANDSHAKE_MAX_REGIONS];
};

/* Read @length bytes at @text as what a monitor of @protocol says. @image_bytes: length of the image, as
 * for handshake_fits(); 0 if it is not known yet (then handshake_fits() is to be asked).
 * @ret_why: a static text for people when it is refused, else not written.
 * Returns 0, -EAGAIN if it may be the beginning of such a message (more has to be read), -EBADMSG if it
 * is none and never will be: HANDSHAKE_MAX_BYTES that are no whole message among them. @ret_handshake
 * is written only on success.
 * A message in pieces: ask json_is_whole() after each, and this once it agrees. Whoever sends byte by
 * byte would else have every byte read as often as there are bytes. */
int handshake_parse(enum handshake_protocol protocol, const char *text, size_t length,
                    uint64_t image_bytes, struct handshake *ret_handshake, const char **ret_why);

/* Returns 0 if every region lies within @image_bytes, and Firecracker's make up the whole of it;
 * -EBADMSG with @ret_why if not. */
int handshake_fits(const struct handshake *handshake, uint64_t image_bytes, const char **ret_why);

/* Returns how many descriptors come with a message of @protocol: the userfaultfd first. */
int handshake_fds(enum handshake_protocol protocol);

#endif
