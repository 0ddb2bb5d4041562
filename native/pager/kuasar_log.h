/* What the log says of Kuasar's working sets. */
#ifndef SNAPSTART_KUASAR_LOG_H
#define SNAPSTART_KUASAR_LOG_H

/* What was left in @directory has been looked through: machines are recorded from now on. */
void kuasar_say_ready(const char *directory);

/* Nothing is recorded of an image, or in a directory. @kind: which, with its @path. @said: by the process that
 * failed; empty: @error tells all. */
void kuasar_say_failed(const char *kind, const char *path, int error, const char *said);

/* @said: by the process that made it, working_set_command.h. */
void kuasar_say_made(const char *image_path, const char *said);

void kuasar_say_dropped(const char *set_path, const char *why);

#endif
