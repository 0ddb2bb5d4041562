/* Read members out of JSON text without allocating.
 *
 * Our own because libc is the only dependency of the core and because nothing on the path from
 * "start a session" to "session ready" may allocate: a value is a slice of the received text, and
 * strings are decoded into the caller's buffer. Strict RFC 8259: UTF-8 only, no lone surrogates,
 * nothing before or after the value but white space, at most JSON_MAX_DEPTH levels. */
#ifndef SNAPSTART_JSON_SCAN_H
#define SNAPSTART_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define JSON_MAX_DEPTH 32

/* The text of one value. Borrows from the text it was found in. */
struct json {
        const char *text;
        size_t length;
};

/* Check that @length bytes at @text are exactly one JSON value.
 * Returns 0 with the value (without the white space around it), or -EBADMSG. */
int json_parse(const char *text, size_t length, struct json *ret_value);

/* Find the member at @path of @object, a value that json_parse() accepted.
 * @path: names joined by '.', for example "data.status".
 * Returns 0, -ENOENT if there is no such member, -EBADMSG if a name occurs twice or if what holds
 * it is no object. */
int json_find(struct json object, const char *path, struct json *ret_value);

/* Decode the string @value into @buffer of @capacity bytes, ending it with NUL.
 * Returns its length in bytes, -EBADMSG if it is no string, -ENOBUFS if it does not fit. */
ssize_t json_string(struct json value, char *buffer, size_t capacity);

/* Like json_string(), but what does not fit is cut off at a character and what is no string becomes
 * empty: for texts that people read. */
void json_text(struct json value, char *buffer, size_t capacity);

/* Returns 0 with the integer, -EBADMSG if @value is no integer, -ERANGE if it does not fit. */
int json_integer(struct json value, int64_t *ret_integer);

/* Returns whether @object has a string member @path equal to @expected. */
bool json_member_is(struct json object, const char *path, const char *expected);

#endif
