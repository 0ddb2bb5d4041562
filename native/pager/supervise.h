/* Begin the page server anew whenever it ends, and keep its descriptors meanwhile, as systemd would. */
#ifndef SNAPSTART_SUPERVISE_H
#define SNAPSTART_SUPERVISE_H

#include <signal.h>

/* What the page server is sent when its supervisor is gone. */
#define SUPERVISOR_GONE SIGUSR1

/* Run this program with @argv, where "supervise" is replaced by "serve", until SIGTERM or SIGINT. A page server that
 * says that it is used wrongly (exit code 2) is not begun anew.
 * @directory: where the socket it talks to this process by is made.
 * Returns the exit code. */
int supervise(int argc, char **argv, const char *directory);

#endif
