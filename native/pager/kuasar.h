/* Kuasar's monitors (Cloud Hypervisors that it patched). They come unannounced, all to one socket, and say by the
 * path of their image whose sandbox they are: DIRECTORY/SANDBOX/restore/memory.img, a link into the template.
 *
 * Nobody waits for such a machine, and nobody else would end it: a monitor that sent its userfaultfd and cannot
 * be served is killed. One that sent none is only refused: its memory is still its own. */
#ifndef SNAPSTART_KUASAR_H
#define SNAPSTART_KUASAR_H

#include "server.h"

struct kuasar;

/* Listen for them as @server's settings say, which name a socket. What is there is a predecessor's: the caller
 * holds the journal's lock. Returns 0 or a negative errno. */
int kuasar_open(struct server *server, struct kuasar **ret_kuasar);

/* Listen no longer, begin nothing, end no recording: those under way are lost. NULL is fine, here and below. */
void kuasar_stop(struct kuasar *kuasar);

/* Release everything; kuasar_stop() was called, and the machines are gone. */
void kuasar_close(struct kuasar *kuasar);

/* @machine, of whatever protocol, is served from now on. */
void kuasar_began(struct kuasar *kuasar, struct machine *machine);

/* @machine, of whatever protocol, will be served no longer; its vm is still there if it ever was. */
void kuasar_ending(struct kuasar *kuasar, struct machine *machine);

/* Returns whether @path is the image of a sandbox below @directory, with the sandbox's id in @ret_vm, which has
 * room for JOURNAL_ID_BYTES. */
bool kuasar_find_sandbox(const char *path, const char *directory, char *ret_vm);

#endif
