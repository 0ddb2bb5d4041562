/* What a request of the control protocol says, checked. Nothing in it is believed. */
#ifndef SNAPSTART_CONTROL_REQUEST_H
#define SNAPSTART_CONTROL_REQUEST_H

#include "json_scan.h"
#include "offloads.h"
#include "server.h"

/* Read the text member @name. One that is not needed may be missing: it is empty then.
 * Returns 0 or -EBADMSG: it is no text, does not fit, holds a NUL, or is missing. */
int request_text(struct json request, const char *name, bool is_needed, char *buffer, size_t capacity);

/* Read the name of a machine, of JOURNAL_ID_BYTES. Returns 0 or -EBADMSG. */
int request_vm(struct json request, char *ret_vm);

/* Read a number of seconds, 0 to a day. Returns 0 or -EBADMSG. */
int request_seconds(struct json request, const char *name, double *ret_seconds);

/* Read an order to expect a machine. @order: zeroed. Returns NULL, or what is wrong, for people. */
const char *request_order(struct json request, struct machine_order *order);

/* Read an order to speak with a Cloud Hypervisor. @order: zeroed, but for is_save. Returns as request_order(). */
const char *request_offload(struct json request, struct offload_order *order);

/* As request_order() of one line, for tests and fuzzing. Returns 0, or -EBADMSG with @ret_why. */
int control_parse_order(const char *text, size_t length, struct machine_order *ret_order, const char **ret_why);

#endif
