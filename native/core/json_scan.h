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

/* Like json_parse(), of a text that may not have arrived as a whole.
 * Returns -EAGAIN if it is the beginning of a value, which more text may complete: never for what no
 * text can mend, except that a broken \u or UTF-8 sequence may be found only at its last byte. */
int json_parse_part(const char *text, size_t length, struct json *ret_value);

/* How far a text that arrives in pieces was looked at. Zeroed at its beginning. */
struct json_progress {
        size_t seen;
        size_t depth;
        bool in_string, is_escaped, is_whole;
};

/* Look at what arrived since the last call: each byte once, in however many pieces the text comes, where
 * parsing it with every piece would take the square of its length.
 * Returns whether the outermost bracket was closed, or the text is no array or object: whether it is
 * time for json_parse(), which tells the two apart. */
bool json_is_whole(struct json_progress *progress, const char *text, size_t length);

/* Find the member at @path of @object, a value that json_parse() accepted.
 * @path: names joined by '.', for example "data.status".
 * Returns 0, -ENOENT if there is no such member, -EBADMSG if a name occurs twice or if what holds
 * it is no object. */
int json_find(struct json object, const char *path, struct json *ret_value);

/* Walk through an array or object that json_parse() accepted: json_elements() or json_members(), then
 * the like-named json_next_...() until it returns 0. One walk looks at each byte once.
 * @rest: what is still to be walked through; borrows like the value.
 * The first two return 0, or -EBADMSG if it is no array, no object. The others return 1 with the next
 * element, or with the name (a string) and the value of the next member; 0 if there is none; -EBADMSG
 * if json_parse() had not accepted it. */
int json_elements(struct json array, struct json *ret_rest);
int json_next_element(struct json *rest, struct json *ret_value);
int json_members(struct json object, struct json *ret_rest);
int json_next_member(struct json *rest, struct json *ret_name, struct json *ret_value);

/* Decode the string @value into @buffer of @capacity bytes, ending it with NUL.
 * Returns its length in bytes, -EBADMSG if it is no string, -ENOBUFS if it does not fit. */
ssize_t json_string(struct json value, char *buffer, size_t capacity);

/* Like json_string(), but what does not fit is cut off at a character and what is no string becomes
 * empty: for texts that people read. */
void json_text(struct json value, char *buffer, size_t capacity);

/* Returns 0 with the integer, -EBADMSG if @value is no integer, -ERANGE if it does not fit. */
int json_integer(struct json value, int64_t *ret_integer);

/* Returns 0 with the integer, -EBADMSG if @value is no integer, -ERANGE if it does not fit or is
 * negative. */
int json_unsigned(struct json value, uint64_t *ret_integer);

/* Returns whether @value is a string equal to @expected. */
bool json_equals(struct json value, const char *expected);

/* Returns whether @object has a string member @path equal to @expected. */
bool json_member_is(struct json object, const char *path, const char *expected);

#endif
