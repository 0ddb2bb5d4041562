/* `snap-pager working-set`: merge records of an image into its working set, once.
 *
 *     working-set --image PATH --digest HEX --out PATH --budget-pages N RECORD...
 *
 * Prints what it made as one JSON line:
 *     {"pages":N,"runs":N,"data_bytes":N,"dropped_pages":N,"precision":X,"recall":X}
 * with null for a share that is not known. */
#ifndef SNAPSTART_WORKING_SET_COMMAND_H
#define SNAPSTART_WORKING_SET_COMMAND_H

/* @argv: begins with the name of the subcommand.
 * Returns the exit status: 0, 1 with one line on standard error when it failed, 2 likewise when it was
 * asked wrongly. */
int working_set_command(int argc, char **argv);

#endif
