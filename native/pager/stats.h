/* What was done for a machine, in the words of the control protocol. */
#ifndef SNAPSTART_STATS_H
#define SNAPSTART_STATS_H

#include "json_out.h"
#include "offloads.h"
#include "server.h"

/* Put an object with everything about the machine into the array that @out is in. */
void stats_put_machine(struct json_out *out, const struct machine *machine);
void stats_put_offloaded(struct json_out *out, const struct offloaded *one);

#endif
