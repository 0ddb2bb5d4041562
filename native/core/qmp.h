/* Understand the QEMU Machine Protocol (docs/interop/qmp-spec of QEMU): lines of JSON. */
#ifndef SNAPSTART_QMP_H
#define SNAPSTART_QMP_H

#include "json_scan.h"
#include "line_client.h"

enum qmp_kind {
        QMP_GREETING,
        QMP_RETURN,
        QMP_ERROR,
        QMP_EVENT,
};

/* One line of the monitor. Texts that are too long are cut. */
struct qmp_message {
        enum qmp_kind kind;
        int64_t id;            /* of a return or error; -1 if it has none */
        char event[40];        /* name of an event */
        char status[32];       /* data.status of an event, for MIGRATION */
        char error_class[48];
        char error_desc[320];
        struct json body;      /* borrows from the line */
};

/* What QEMU said when it refused a command or a migration. */
struct qmp_failure {
        char text[400];
};

/* Decode one line. Returns 0, or -EPROTO if it is no QMP message. */
int qmp_decode(const char *line, size_t length, struct qmp_message *ret_message);

/* Read the greeting and leave capabilities negotiation.
 * Returns 0, -EPROTO, -EREMOTEIO with @failure set if QEMU refused, or the errors of
 * line_client_read(). */
int qmp_negotiate(struct line_client *client, const struct limits *lim, struct qmp_failure *failure);

/* Execute a command and wait for its answer; events in between go to @on_event (may be NULL).
 * @arguments: a JSON object, or NULL. @id: any, unused on this connection so far.
 * @pass_fd: descriptor to attach, or negative. @ret_message: may be NULL; its body borrows from
 * @client until the next call. Returns as qmp_negotiate(). */
int qmp_execute(struct line_client *client, const char *command, const char *arguments, int64_t id, int pass_fd,
                const struct limits *lim, void (*on_event)(const struct qmp_message *, void *), void *context,
                struct qmp_failure *failure, struct qmp_message *ret_message);

/* Wait for the next event. Returns 0, -EPROTO, or the errors of line_client_read(). */
int qmp_next_event(struct line_client *client, const struct limits *lim, struct qmp_message *ret_message);

#endif
