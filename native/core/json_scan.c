#define _GNU_SOURCE
#include "json_scan.h"

#include <errno.h>
#include <string.h>

/* Position in the text. Every skip function returns false on malformed input, and leaves the position
 * at the end only if it is the end that is wrong: what was read so far can be continued. */
struct cursor {
        const char *at, *end;
};

static bool skip_value(struct cursor *c, int depth);

static bool is_space(char ch)
{
        return (unsigned char)ch <= ' ' && (ch == ' ' || ch == '\t' || ch == '\n' || ch == '\r');
}

static void skip_space(struct cursor *c)
{
        while (c->at < c->end && is_space(*c->at))
                c->at++;
}

static bool skip_char(struct cursor *c, char wanted)
{
        if (c->at == c->end || *c->at != wanted)
                return false;
        c->at++;
        return true;
}

static bool is_digit(char ch)
{
        return ch >= '0' && ch <= '9';
}

static bool skip_digits(struct cursor *c)
{
        const char *start = c->at;

        while (c->at < c->end && is_digit(*c->at))
                c->at++;
        return c->at > start;
}

static bool skip_number(struct cursor *c)
{
        skip_char(c, '-');
        if (!skip_char(c, '0') && !skip_digits(c))
                return false;
        if (skip_char(c, '.') && !skip_digits(c))
                return false;
        if (skip_char(c, 'e') || skip_char(c, 'E')) {
                if (!skip_char(c, '+'))
                        skip_char(c, '-');
                return skip_digits(c);
        }
        return true;
}

static bool skip_word(struct cursor *c, const char *word)
{
        for (; *word; word++)
                if (!skip_char(c, *word))
                        return false;
        return true;
}

static int hex_value(char ch)
{
        if (is_digit(ch))
                return ch - '0';
        if (ch >= 'a' && ch <= 'f')
                return ch - 'a' + 10;
        if (ch >= 'A' && ch <= 'F')
                return ch - 'A' + 10;
        return -1;
}

/* The byte just read cannot stand there, whatever follows it. Returns -1. */
static int32_t step_back(struct cursor *c)
{
        c->at--;
        return -1;
}

/* Read four hexadecimal digits. Returns them, or -1. */
static int32_t read_hex4(struct cursor *c)
{
        int32_t unit = 0;

        for (int i = 0; i < 4; i++) {
                int digit;

                if (c->at == c->end)
                        return -1;
                digit = hex_value(*c->at++);
                if (digit < 0)
                        return step_back(c);
                unit = unit << 4 | digit;
        }
        return unit;
}

/* Read what follows a backslash. Returns the code point, or -1. */
static int32_t read_escape(struct cursor *c)
{
        static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
        const char *name;
        int32_t high, low;

        if (c->at == c->end)
                return -1;
        name = memchr(names, *c->at, sizeof(names) - 1);
        if (name) {
                c->at++;
                return values[name - names];
        }
        if (!skip_char(c, 'u'))
                return -1;
        high = read_hex4(c);
        if (high < 0xd800 || high > 0xdfff)
                return high;
        if (high > 0xdbff)
                return step_back(c);
        if (!skip_word(c, "\\u"))
                return -1;
        low = read_hex4(c);
        if (low < 0)
                return -1;
        if (low < 0xdc00 || low > 0xdfff)
                return step_back(c);
        return 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
}

/* Read one UTF-8 sequence, refusing overlong forms, surrogates and values past U+10FFFF.
 * Returns the code point, or -1. */
static int32_t read_utf8(struct cursor *c)
{
        static const int32_t smallest[] = { 0, 0x80, 0x800, 0x10000 };
        unsigned char lead = (unsigned char)*c->at++;
        int extra = lead < 0x80 ? 0 : lead >= 0xc0 && lead < 0xe0 ? 1 : lead >= 0xe0 && lead < 0xf0 ? 2 : lead >= 0xf0 && lead < 0xf8 ? 3 : -1;
        int32_t point;

        if (extra < 0)
                return step_back(c);
        point = extra == 0 ? lead : lead & (0x3f >> extra);
        for (int i = 0; i < extra; i++) {
                if (c->at == c->end || ((unsigned char)*c->at & 0xc0) != 0x80)
                        return -1;
                point = point << 6 | ((unsigned char)*c->at++ & 0x3f);
        }
        if (point < smallest[extra] || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff))
                return step_back(c);
        return point;
}

static size_t encode_utf8(int32_t point, char out[4])
{
        if (point < 0x80) {
                out[0] = (char)point;
                return 1;
        }
        if (point < 0x800) {
                out[0] = (char)(0xc0 | point >> 6);
                out[1] = (char)(0x80 | (point & 0x3f));
                return 2;
        }
        if (point < 0x10000) {
                out[0] = (char)(0xe0 | point >> 12);
                out[1] = (char)(0x80 | (point >> 6 & 0x3f));
                out[2] = (char)(0x80 | (point & 0x3f));
                return 3;
        }
        out[0] = (char)(0xf0 | point >> 18);
        out[1] = (char)(0x80 | (point >> 12 & 0x3f));
        out[2] = (char)(0x80 | (point >> 6 & 0x3f));
        out[3] = (char)(0x80 | (point & 0x3f));
        return 4;
}

/* Read the next character of a string. Returns its code point, -1 if malformed, -2 at the closing
 * quote, which is consumed. */
static int32_t read_character(struct cursor *c)
{
        if (c->at == c->end || (unsigned char)*c->at < 0x20)
                return -1;
        if (skip_char(c, '"'))
                return -2;
        if (skip_char(c, '\\'))
                return read_escape(c);
        return read_utf8(c);
}

/* Returns whether @ch stands for itself in a string and is one byte long. */
static bool is_plain(char ch)
{
        return ch >= 0x20 && ch < 0x7f && ch != '"' && ch != '\\';
}

static bool skip_string(struct cursor *c)
{
        int32_t point;

        if (!skip_char(c, '"'))
                return false;
        do {
                while (c->at < c->end && is_plain(*c->at))
                        c->at++;
                point = read_character(c);
        } while (point >= 0);
        return point == -2;
}

static bool skip_member(struct cursor *c, int depth)
{
        skip_space(c);
        if (!skip_string(c))
                return false;
        skip_space(c);
        return skip_char(c, ':') && skip_value(c, depth);
}

/* Skip an object or array whose opening bracket is consumed. */
static bool skip_container(struct cursor *c, char closing, int depth)
{
        if (depth > JSON_MAX_DEPTH) {
                c->at--;
                return false;
        }
        skip_space(c);
        if (skip_char(c, closing))
                return true;
        do {
                if (closing == '}' ? !skip_member(c, depth) : !skip_value(c, depth))
                        return false;
                skip_space(c);
        } while (skip_char(c, ','));
        return skip_char(c, closing);
}

static bool skip_value(struct cursor *c, int depth)
{
        skip_space(c);
        if (c->at == c->end)
                return false;
        switch (*c->at) {
        case '{':
                c->at++;
                return skip_container(c, '}', depth + 1);
        case '[':
                c->at++;
                return skip_container(c, ']', depth + 1);
        case '"':
                return skip_string(c);
        case 't':
                return skip_word(c, "true");
        case 'f':
                return skip_word(c, "false");
        case 'n':
                return skip_word(c, "null");
        default:
                return skip_number(c);
        }
}

/* Skip a value. Returns whether it was well formed; its slice is in @ret_value. */
static bool take_value(struct cursor *c, struct json *ret_value)
{
        const char *start;

        skip_space(c);
        start = c->at;
        if (!skip_value(c, 0))
                return false;
        *ret_value = (struct json){ start, (size_t)(c->at - start) };
        return true;
}

int json_parse_part(const char *text, size_t length, struct json *ret_value)
{
        struct cursor c = { text, text + length };
        struct json value;

        if (!take_value(&c, &value))
                return c.at == c.end ? -EAGAIN : -EBADMSG;
        skip_space(&c);
        if (c.at != c.end)
                return -EBADMSG;
        *ret_value = value;
        return 0;
}

int json_parse(const char *text, size_t length, struct json *ret_value)
{
        return json_parse_part(text, length, ret_value) < 0 ? -EBADMSG : 0;
}

static bool string_equals(struct json value, const char *expected, size_t length)
{
        struct cursor c = { value.text, value.text + value.length };
        int32_t point;
        char bytes[4];
        size_t done = 0;

        /* Decoding never lengthens. */
        if (value.length < length + 2 || !skip_char(&c, '"'))
                return false;
        for (;;) {
                size_t n;

                while (done < length && c.at < c.end && is_plain(*c.at) && *c.at == expected[done]) {
                        c.at++;
                        done++;
                }
                point = read_character(&c);
                if (point < 0)
                        break;
                n = encode_utf8(point, bytes);
                if (length - done < n || memcmp(expected + done, bytes, n) != 0)
                        return false;
                done += n;
        }
        return point == -2 && done == length;
}

/* What is left of a container once @c has passed an element: nothing after the last. */
static struct json rest_at(struct cursor *c)
{
        return (struct json){ c->at, (size_t)(c->end - c->at) };
}

/* Pass the opening bracket of @container. */
static int enter(struct json container, char opening, char closing, struct json *ret_rest)
{
        struct cursor c = { container.text, container.text + container.length };

        if (!skip_char(&c, opening))
                return -EBADMSG;
        skip_space(&c);
        if (skip_char(&c, closing))
                c.at = c.end;
        *ret_rest = rest_at(&c);
        return 0;
}

/* Pass what separates an element from the next. */
static struct json rest_after(struct cursor *c)
{
        skip_space(c);
        if (!skip_char(c, ','))
                c->at = c->end;
        return rest_at(c);
}

int json_elements(struct json array, struct json *ret_rest)
{
        return enter(array, '[', ']', ret_rest);
}

int json_members(struct json object, struct json *ret_rest)
{
        return enter(object, '{', '}', ret_rest);
}

int json_next_element(struct json *rest, struct json *ret_value)
{
        struct cursor c = { rest->text, rest->text + rest->length };

        if (rest->length == 0)
                return 0;
        if (!take_value(&c, ret_value))
                return -EBADMSG;
        *rest = rest_after(&c);
        return 1;
}

int json_next_member(struct json *rest, struct json *ret_name, struct json *ret_value)
{
        struct cursor c = { rest->text, rest->text + rest->length };
        struct json name;

        if (rest->length == 0)
                return 0;
        if (!take_value(&c, &name))
                return -EBADMSG;
        skip_space(&c);
        if (!skip_char(&c, ':') || !take_value(&c, ret_value))
                return -EBADMSG;
        *ret_name = name;
        *rest = rest_after(&c);
        return 1;
}

/* Find a member of one object; @name need not end with NUL. */
static int find_member(struct json object, const char *name, size_t length, struct json *ret_value)
{
        struct json rest, key, value, found = { NULL, 0 };
        int r = json_members(object, &rest);

        if (r < 0)
                return r;
        while ((r = json_next_member(&rest, &key, &value)) > 0) {
                if (!string_equals(key, name, length))
                        continue;
                if (found.text)
                        return -EBADMSG;
                found = value;
        }
        if (r < 0)
                return r;
        if (!found.text)
                return -ENOENT;
        *ret_value = found;
        return 0;
}

int json_find(struct json object, const char *path, struct json *ret_value)
{
        struct json value = object;

        for (;;) {
                const char *dot = strchrnul(path, '.');
                int r = find_member(value, path, (size_t)(dot - path), &value);

                if (r < 0)
                        return r;
                if (!*dot)
                        break;
                path = dot + 1;
        }
        *ret_value = value;
        return 0;
}

/* Decode as much of a string as fits. Returns the length; *@ret_state is the last result of
 * read_character(), or 0 if the buffer was too small. */
static size_t decode_string(struct json value, char *buffer, size_t capacity, int32_t *ret_state)
{
        struct cursor c = { value.text, value.text + value.length };
        size_t used = 0;
        int32_t point = -1;

        if (skip_char(&c, '"')) {
                while ((point = read_character(&c)) >= 0) {
                        char bytes[4];
                        size_t n = encode_utf8(point, bytes);

                        if (capacity - used <= n) {
                                point = 0;
                                break;
                        }
                        memcpy(buffer + used, bytes, n);
                        used += n;
                }
        }
        buffer[used] = '\0';
        *ret_state = point;
        return used;
}

ssize_t json_string(struct json value, char *buffer, size_t capacity)
{
        int32_t state;
        size_t used;

        if (capacity == 0)
                return -ENOBUFS;
        used = decode_string(value, buffer, capacity, &state);
        if (state == -2)
                return (ssize_t)used;
        return state == -1 ? -EBADMSG : -ENOBUFS;
}

void json_text(struct json value, char *buffer, size_t capacity)
{
        int32_t state;

        if (capacity > 0)
                decode_string(value, buffer, capacity, &state);
}

int json_integer(struct json value, int64_t *ret_integer)
{
        struct cursor c = { value.text, value.text + value.length };
        bool negative = skip_char(&c, '-');
        int64_t number = 0;

        if (c.at == c.end)
                return -EBADMSG;
        for (; c.at < c.end; c.at++) {
                if (!is_digit(*c.at))
                        return -EBADMSG;
                if (__builtin_mul_overflow(number, 10, &number) ||
                    __builtin_sub_overflow(number, *c.at - '0', &number))
                        return -ERANGE;
        }
        if (!negative && __builtin_sub_overflow(0, number, &number))
                return -ERANGE;
        *ret_integer = number;
        return 0;
}

int json_unsigned(struct json value, uint64_t *ret_integer)
{
        struct cursor c = { value.text, value.text + value.length };
        bool negative = skip_char(&c, '-');
        uint64_t number = 0;

        if (c.at == c.end)
                return -EBADMSG;
        for (; c.at < c.end; c.at++) {
                if (!is_digit(*c.at))
                        return -EBADMSG;
                if (__builtin_mul_overflow(number, 10, &number) ||
                    __builtin_add_overflow(number, *c.at - '0', &number))
                        return -ERANGE;
        }
        if (negative && number > 0)
                return -ERANGE;
        *ret_integer = number;
        return 0;
}

bool json_equals(struct json value, const char *expected)
{
        return string_equals(value, expected, strlen(expected));
}

bool json_member_is(struct json object, const char *path, const char *expected)
{
        struct json value;

        return json_find(object, path, &value) == 0 && json_equals(value, expected);
}

/* Returns whether @ch closes the bracket that was opened first, or stands where one has to be. */
static bool ends_all(struct json_progress *progress, char ch)
{
        if (progress->in_string) {
                progress->in_string = progress->is_escaped || ch != '"';
                progress->is_escaped = !progress->is_escaped && ch == '\\';
        } else if (ch == '"') {
                progress->in_string = true;
        } else if (ch == '{' || ch == '[') {
                progress->depth++;
        } else if (ch == '}' || ch == ']') {
                return progress->depth <= 1 || --progress->depth == 0;
        }
        return progress->depth == 0 && !is_space(ch);
}

bool json_is_whole(struct json_progress *progress, const char *text, size_t length)
{
        while (!progress->is_whole && progress->seen < length)
                progress->is_whole = ends_all(progress, text[progress->seen++]);
        return progress->is_whole;
}
