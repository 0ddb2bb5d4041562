/* Write one line of JSON: replies, the log. */
#ifndef SNAPSTART_JSON_OUT_H
#define SNAPSTART_JSON_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Between json_open() and json_close(). A @key of NULL is an element of an array. */
struct json_out {
        FILE *stream;
        char *text;
        size_t length;
        bool needs_comma;
};

/* Begin a line with an object. Returns 0 or -ENOMEM. */
int json_open(struct json_out *ret_out);

/* End the object and the line. Returns the text, owned by the caller (free()), with *ret_length without the
 * NUL; NULL if there is no memory. */
char *json_close(struct json_out *out, size_t *ret_length);

void json_put_text(struct json_out *out, const char *key, const char *value);
void json_put_integer(struct json_out *out, const char *key, int64_t value);
void json_put_real(struct json_out *out, const char *key, double value); /* null if it is no number */
void json_put_boolean(struct json_out *out, const char *key, bool value);
void json_enter(struct json_out *out, const char *key, char bracket); /* '{' or '[' */
void json_leave(struct json_out *out, char bracket); /* '}' or ']' */

/* Write what was built to standard error, as the log is; @out is closed by it. */
void json_log(struct json_out *out);

#endif
