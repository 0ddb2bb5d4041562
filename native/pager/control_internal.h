/* What the parts of the control socket share: control.c has the connections, control_operations.c the requests,
 * control_wait.c those that are answered when a machine is ready, control_answer.c sends. */
#ifndef SNAPSTART_CONTROL_INTERNAL_H
#define SNAPSTART_CONTROL_INTERNAL_H

#include "control.h"
#include "json_out.h"
#include "json_scan.h"

/* One client. */
struct control_link {
        struct source source;
        struct timer timer;
        struct grave grave;
        struct control *control;
        struct control_link *next;
        uint64_t serial; /* unlike every other's */
        char *in; /* LINE_MAX_BYTES; owned */
        size_t n_in;
        char *out; /* what was not taken yet; owned */
        size_t n_out, at_out;
        char waiting_for[JOURNAL_ID_BYTES]; /* the machine of a wait that is not answered; empty: none */
        bool is_busy; /* a request is under way: the next is not read */
        bool is_reading; /* read_on() goes on by itself when it is answered */
};

/* -- control.c ------------------------------------------------------------------------------------- */

void control_link_close(struct control_link *link);

/* Do what is complete, one request after the other, each when the one before is answered. */
void control_read_on(struct control_link *link);

/* -- control_operations.c -------------------------------------------------------------------------- */

/* Do the request @line, of @length bytes. */
void control_do_line(struct control_link *link, const char *line, size_t length);

void control_offload_recorded(struct offloads *offloads, struct offloaded *one, const char *why);

/* -- control_wait.c -------------------------------------------------------------------------------- */

void control_wait(struct control_link *link, struct json request);
void control_wait_ended(struct timer *timer);
void control_machine_changed(struct server *server, struct machine *machine);
void control_offload_changed(struct offloads *offloads, struct offloaded *one);

/* Answer a wait for @machine, NULL if there is none, if there is an answer. Returns whether there was. */
bool control_tell(struct control_link *link, const struct machine *machine);

/* Whoever waits for it would wait for nothing. */
void control_tell_forgotten(struct control *control, const char *vm);

/* -- control_answer.c ------------------------------------------------------------------------------ */

/* Returns the word of the protocol for an error. */
const char *control_word(int error);

/* Begin a good answer. Returns false, with the client gone, if there is no memory. */
bool control_accept(struct control_link *link, struct json_out *out);

/* Answer the request; @out is closed by it. */
void control_answer(struct control_link *link, struct json_out *out);
void control_answer_ok(struct control_link *link);
void control_refuse(struct control_link *link, const char *word, const char *message);

/* Send what is left. Returns false if the client is gone. */
bool control_flush(struct control_link *link);

#endif
