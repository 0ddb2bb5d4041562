/* The machines of this node: expected, being handed over, served, stopped. */
#ifndef SNAPSTART_SERVER_H
#define SNAPSTART_SERVER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "hand_over.h"
#include "journal.h"
#include "keeper.h"
#include "loop.h"
#include "reader.h"
#include "template.h"
#include "vm.h"

#define STOPPED_KEPT 64 /* reasons remembered */

enum machine_state {
        MACHINE_LISTENING, /* its monitor has not handed its memory over */
        MACHINE_KEEPING, /* the keeper has not said that it holds the userfaultfd */
        MACHINE_SERVING,
        MACHINE_STOPPED, /* remembered for its reason */
};

/* Where a machine is served from, as agentd says. */
struct machine_order {
        char vm[JOURNAL_ID_BYTES];
        char socket[108];
        enum handshake_protocol protocol;
        char image[JOURNAL_PATH_BYTES]; /* empty: it comes with the hand-over */
        char working_set[JOURNAL_PATH_BYTES];
        char record[JOURNAL_PATH_BYTES]; /* empty: what it touches is not recorded */
        uint8_t digest[WORKING_SET_DIGEST_BYTES];
        uid_t uid;
};

/* A hand-over that was checked but waits for the keeper; its descriptors are owned. */
struct pending {
        struct keeping keeping;
        struct journal_head *facts;
        int uffd_fd, pidfd;
};

struct machine {
        struct machine *next;
        struct server *server;
        enum machine_state state;
        struct machine_order order;
        struct template *template; /* from its order or its hand-over; owned; NULL: none yet, or moved on */
        struct hand_over hand_over;
        struct timer timer; /* until when its monitor has to have come */
        struct grave grave;
        struct pending pending;
        struct vm *vm;
        uint64_t touches, written; /* of an ended recording */
        const char *refused; /* why the last hand-over was; static */
        char reason[VM_REASON_BYTES];
};

/* Kuasar's monitors (kuasar.h). */
struct kuasar_settings {
        const char *socket, *directory; /* NULL: no Kuasar here */
        const char *sets; /* directory of working sets; NULL: none are made */
        unsigned records; /* machines of an image that are recorded; 1 to KUASAR_RECORDS_MAX */
        int64_t record_ns; /* each for so long */
        uint64_t set_pages; /* of a working set, at most */
};

struct server_settings {
        const char *control_path, *journal_path;
        struct kuasar_settings kuasar;
        int64_t hand_over_ns;
        unsigned readers;
};

struct server {
        struct server_settings settings;
        struct loop loop;
        struct reader reader;
        struct crew crew;
        struct templates templates;
        struct keeper keeper;
        struct vm_host host;
        struct kuasar *kuasar; /* owned; NULL: no Kuasar here */
        struct machine *machines, *stopped;
        unsigned n_stopped;
        int journal_fd, lock_fd; /* owned */
        int listener_fd; /* the control socket that a keeper listens on for us; owned; FD_NONE: none, or taken */
        int64_t begun_ns;
        bool is_retiring;
        /* Told when a machine's state changed in a way somebody may wait for. */
        void (*changed)(struct server *server, struct machine *machine);
        void *control;
};

/* Take the lock, read the journals, serve every machine they name. Blocks until a predecessor is gone.
 * @ret_why: static text when it fails. Returns 0 or a negative errno. */
int server_open(struct server *server, const struct server_settings *settings, const char **ret_why);

/* Stop serving, leaving every machine to a successor. */
void server_close(struct server *server);

/* The keeper is gone: end every machine whose userfaultfd nobody but the keeper held, so that none of them reads
 * zeros when this process ends. Blocks until they are gone. */
void server_abandon(struct server *server);

/* Expect a machine. An equal order for one that is expected or served is fine.
 * Returns 0, -EEXIST if another is expected under its name, or a negative errno with @ret_why, a static text. */
int server_listen(struct server *server, const struct machine_order *order, const char **ret_why);

/* Serve a machine that nobody ordered, from what its monitor handed over. @image: moved from, or closed. No machine
 * of this name is expected or served.
 * Returns NULL, or why not, a static text; then the monitor has been ended if its userfaultfd was taken. */
const char *server_take_unasked(struct server *server, const struct machine_order *order, struct image *image,
                                struct handed *handed);

/* Returns the machine, a stopped one last; NULL if there is none. */
struct machine *server_find(const struct server *server, const char *vm);

/* Expect or serve it no longer. A monitor that handed its memory over and still lives is ended. */
void server_forget(struct server *server, const char *vm);

#endif
