/* Sessions with Cloud Hypervisors that hand a machine over, or get one: its "offload" snapshot and restore.
 *
 * A snapshot session listens; the monitor is told to migrate to it (vm.send-migration with
 * destination_url unix:SOCKET and local true) and sends descriptors of its memory, its configuration and its
 * state. They are on disk when the monitor is answered, which ends it or lets it go on.
 *
 * A restore session calls a monitor that was told to receive (vm.receive-migration with receiver_url
 * unix:SOCKET and memory_mode Postcopy). It gives it empty memory and fills each page when the monitor asks for
 * it, and those of a working set before, in their order, while the guest runs. The monitor holds its
 * userfaultfd itself and asks over the connection, which nobody can go on with in the middle: a machine that does
 * not have all of its memory ends with its session.
 *
 * A monitor that finds the connection closed, or a request refused, closes its userfaultfd and then ends. Between
 * the two its guest runs on, and reads zeros where memory is missing. So the monitor is killed before its
 * connection is closed, whatever the reason. Against this process's own death somebody else has to hold the
 * connection: then the guest waits in its fault until the successor kills it, by offload_end_orphan().
 *
 * A monitor also fills all memory by itself, page by page in the order of addresses, between the faults of its
 * guest. demand_only keeps it from that: its first request, made before it has anything to run, is
 * refused, upon which it only asks for what its guest touches. Then the machine never has all of its memory:
 * it takes no more than it touches, cannot be snapshotted again, and needs this process for its life. */
#ifndef SNAPSTART_OFFLOAD_H
#define SNAPSTART_OFFLOAD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "image.h"
#include "loop.h"
#include "reader.h"
#include "working_set.h"

struct offload;

enum offload_event {
        OFFLOAD_SAVED, /* of a snapshot: the files have their names, the monitor was told. The end. */
        OFFLOAD_SERVING, /* of a restore: the monitor has the machine, and its faults are answered */
        OFFLOAD_RECORDED, /* offload_end_recording() is done; @why: NULL, or why there is no record */
        OFFLOAD_ENDED, /* of a restore: the monitor closed. It needs nothing more (stats: has_all), or it is
                        * gone. The end. */
        OFFLOAD_FAILED, /* with @why. The end; a monitor that had its machine was killed */
};

/* Whom to speak with, and whom to tell. */
struct offload_peer {
        const char *socket; /* path; copied */
        uid_t uid; /* the only user, besides this process's own, whose monitor it may be */
        int64_t patience_ns; /* to be connected, and for each message after that to be whole */
        /* In the loop, never from within a call of offload_...(). offload_close() may be called in it.
         * @why: static text. */
        void (*event)(void *context, enum offload_event event, const char *why);
        /* After offload_close(): nothing of the order is used any more. */
        void (*closed)(void *context);
        void *context;
};

/* Paths are copied. None of the files may exist; they are made with mode 0600, whole or not at all. */
struct offload_snapshot_order {
        struct offload_peer peer; /* its socket must not exist; made with mode 0600, owned by uid */
        const char *image, *config, *state;
};

struct offload_restore_order {
        struct offload_peer peer;
        const struct image *image; /* borrowed until closed() */
        const char *config, *state; /* files as a snapshot wrote them, the configuration perhaps changed; copied */
        const struct working_set *set; /* borrowed until closed(); NULL: nothing is filled ahead */
        const uint8_t *digest; /* of the image, for the record; copied; may be NULL without record */
        const char *record; /* path, copied; NULL: not recorded. Needs demand_only, and no set */
        bool demand_only; /* what the guest does not touch stays empty */
        bool resume; /* the monitor resumes the guest by itself */
        /* Have the connection for faults held by somebody who outlives this process, and say so by
         * offload_kept(): the monitor does not get its machine before. @fd: borrowed. Returns 0, or a
         * negative errno, which ends the session. NULL: nobody holds it. */
        int (*keep)(void *context, int fd);
};

/* What happened so far. Pages are of IMAGE_PAGE_BYTES, requests of the monitor's page size. */
struct offload_stats {
        pid_t pid; /* of the monitor; 0: not connected yet */
        bool is_serving;
        bool has_all; /* after OFFLOAD_ENDED: the monitor had all of its memory. The machine lives on. */
        uint64_t pages; /* of the machine; 0: not known yet */
        uint64_t data_bytes; /* of a snapshot: written to the image */
        uint64_t faults; /* requests for what the guest touched */
        uint64_t covered; /* of them: filled ahead */
        uint64_t background; /* requests by which the monitor filled its memory in order */
        uint64_t prefetched; /* pages of the working set filled before they were asked for */
        uint64_t copied, zeroed; /* pages, asked for or not, by how they came */
        uint64_t stalls; /* requests answered later than 10 ms after they came */
        uint64_t max_stall_us;
        uint64_t touches, written; /* of the record, after OFFLOAD_RECORDED */
};

/* Begin a session. @loop, @reader: outlive it. Whoever owns it closes it, after its end too, and before the
 * reader.
 * Returns 0, -EINVAL if the order contradicts itself, -EEXIST if a file of a snapshot exists, -EADDRINUSE if
 * its socket does, or another negative errno. */
int offload_snapshot_open(struct loop *loop, struct reader *reader, const struct offload_snapshot_order *order,
                          struct offload **ret_offload);
int offload_restore_open(struct loop *loop, struct reader *reader, const struct offload_restore_order *order,
                         struct offload **ret_offload);

/* The connection that keep() was called for is held by somebody, or (@error, a negative errno) is not, which ends
 * the session. */
void offload_kept(struct offload *offload, int error);

/* End the monitor at the other end of a connection for faults that a predecessor left. @fd: borrowed; to be closed
 * after it.
 * Returns 1 if it was killed, 0 if it was gone, or a negative errno. */
int offload_end_orphan(int fd);

/* Write the record of what the guest touched up to now; OFFLOAD_RECORDED tells.
 * Returns 0, or -ENODATA if it is not recorded, is not serving yet, or was ended before. */
int offload_end_recording(struct offload *offload);

void offload_get_stats(const struct offload *offload, struct offload_stats *ret_stats);

/* End the session: a monitor that needs it to go on is killed, connections are closed, memory goes when no
 * thread uses it any more. The caller must not use @offload again. NULL is fine. */
void offload_close(struct offload *offload);

#endif
