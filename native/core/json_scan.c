#define _GNU_SOURCE
#include "json_scan.h"

#include <errno.h>
#include <string.h>

/* Position in the text. Every skip function returns false on malformed input. */
struct cursor {
        const char *at, *end;
};

static bool skip_value(struct cursor *c, int depth);

static void skip_space(struct cursor *c)
{
        while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\n' || *c->at == '\r'))
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
        size_t n = strlen(word);

        if ((size_t)(c->end - c->at) < n || memcmp(c->at, word, n) != 0)
                return false;
        c->at += n;
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

/* Read four hexadecimal digits. Returns them, or -1. */
static int32_t read_hex4(struct cursor *c)
{
        int32_t unit = 0;

        if (c->end - c->at < 4)
                return -1;
        for (int i = 0; i < 4; i++) {
                int digit = hex_value(*c->at++);
                if (digit < 0)
                        return -1;
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
        if (high > 0xdbff || !skip_word(c, "\\u"))
                return -1;
        low = read_hex4(c);
        if (low < 0xdc00 || low > 0xdfff)
                return -1;
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

        if (extra < 0 || c->end - c->at < extra)
                return -1;
        point = extra == 0 ? lead : lead & (0x3f >> extra);
        for (int i = 0; i < extra; i++) {
                unsigned char next = (unsigned char)*c->at++;
                if ((next & 0xc0) != 0x80)
                        return -1;
                point = point << 6 | (next & 0x3f);
        }
        if (point < smallest[extra] || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff))
                return -1;
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

static bool skip_string(struct cursor *c)
{
        int32_t point;

        if (!skip_char(c, '"'))
                return false;
        do
                point = read_character(c);
        while (point >= 0);
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
        if (depth > JSON_MAX_DEPTH)
                return false;
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

int json_parse(const char *text, size_t length, struct json *ret_value)
{
        struct cursor c = { text, text + length };
        struct json value;

        if (!take_value(&c, &value))
                return -EBADMSG;
        skip_space(&c);
        if (c.at != c.end)
                return -EBADMSG;
        *ret_value = value;
        return 0;
}

static bool string_equals(struct json value, const char *expected, size_t length)
{
        struct cursor c = { value.text, value.text + value.length };
        int32_t point;
        char bytes[4];
        size_t done = 0;

        if (!skip_char(&c, '"'))
                return false;
        while ((point = read_character(&c)) >= 0) {
                size_t n = encode_utf8(point, bytes);
                if (length - done < n || memcmp(expected + done, bytes, n) != 0)
                        return false;
                done += n;
        }
        return point == -2 && done == length;
}

/* Find a member of one object; @name need not end with NUL. */
static int find_member(struct json object, const char *name, size_t length, struct json *ret_value)
{
        struct cursor c = { object.text, object.text + object.length };
        struct json key, value, found = { NULL, 0 };

        if (!skip_char(&c, '{'))
                return -EBADMSG;
        skip_space(&c);
        if (skip_char(&c, '}'))
                return -ENOENT;
        do {
                if (!take_value(&c, &key))
                        return -EBADMSG;
                skip_space(&c);
                if (!skip_char(&c, ':') || !take_value(&c, &value))
                        return -EBADMSG;
                if (string_equals(key, name, length)) {
                        if (found.text)
                                return -EBADMSG;
                        found = value;
                }
                skip_space(&c);
        } while (skip_char(&c, ','));
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

bool json_member_is(struct json object, const char *path, const char *expected)
{
        struct json value;

        return json_find(object, path, &value) == 0 && string_equals(value, expected, strlen(expected));
}
