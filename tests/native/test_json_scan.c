/* The scanner accepts RFC 8259 and nothing else. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "check.h"
#include "json_scan.h"

static const char *const well_formed[] = {
        "{}", "[]", " [ ] ", "0", "-0", "1.5e+10", "-0.0E-1", "true", "false", "null", "\"\"", "\"\\u00e9\\ud83d\\ude00\"",
        "\"\xc3\xa9\xf0\x9f\x98\x80\"", "{\"a\":[1,2,{\"b\":null}]}", "\t\r\n{\"a\" : 1 , \"b\":2}\n", "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
};

static const char *const malformed[] = {
        "", " ", "{", "}", "[", "]", "[1,]", "[,1]", "{,}", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{a:1}", "{1:2}", "{\"a\":1 \"b\":2}",
        "01", "-", "+1", "1.", ".5", "1e", "1e+", "0x10", "NaN", "Infinity", "tru", "truee", "True", "nul", "\"", "\"\\\"", "\"\\x\"",
        "\"\\u12\"", "\"\\u12g4\"", "\"\\ud800\"", "\"\\ud800x\"", "\"\\ud800\\u0041\"", "\"\\udc00\"", "\"\n\"", "\"\x01\"", "\"\x80\"",
        "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"", "\"\xf8\x88\x80\x80\x80\"", "\"\xc3", "'a'", "1 2", "{}{}", "{} x",
        "[1 2]", "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]", "// x\n1", "\xef\xbb\xbf{}",
};

/* Copies the text so that the sanitizer sees any read past its end. */
static int parse_copy(const char *text, size_t n)
{
        char *copy = malloc(n + !n);
        struct json value;
        int r;

        CHECK(copy);
        memcpy(copy, text, n);
        r = json_parse(copy, n, &value);
        free(copy);
        return r;
}

static void test_grammar(void)
{
        for (size_t i = 0; i < sizeof(well_formed) / sizeof(*well_formed); i++)
                CHECK_EQ(parse_copy(well_formed[i], strlen(well_formed[i])), 0);
        for (size_t i = 0; i < sizeof(malformed) / sizeof(*malformed); i++)
                if (parse_copy(malformed[i], strlen(malformed[i])) != -EBADMSG) {
                        fprintf(stderr, "accepted: %s\n", malformed[i]);
                        exit(1);
                }
}

static void test_every_prefix_is_refused(void)
{
        static const char text[] = "{\"a\":[1,-2.5e3,\"x\\u0041\\n\",true,null],\"b\":{\"c\":\"\xc3\xa9\"}}";

        for (size_t n = 0; n < sizeof(text) - 1; n++)
                CHECK_EQ(parse_copy(text, n), -EBADMSG);
}

static struct json parse(const char *text)
{
        struct json value;

        CHECK_EQ(json_parse(text, strlen(text), &value), 0);
        return value;
}

static void test_find(void)
{
        struct json object = parse("{\"a\":{\"b\":{\"c\":7}},\"x\\u0061\":true,\"d\":1,\"d\":2,\"n\":[{\"a\":1}]}"), value;
        int64_t number;

        CHECK_EQ(json_find(object, "a.b.c", &value), 0);
        CHECK_EQ(json_integer(value, &number), 0);
        CHECK_EQ(number, 7);
        CHECK_EQ(json_find(object, "xa", &value), 0);
        CHECK_EQ(json_find(object, "d", &value), -EBADMSG);
        CHECK_EQ(json_find(object, "n.a", &value), -EBADMSG);
        CHECK_EQ(json_find(object, "a.x", &value), -ENOENT);
        CHECK_EQ(json_find(parse("{}"), "a", &value), -ENOENT);
        CHECK_EQ(json_find(parse("[]"), "a", &value), -EBADMSG);
}

static void test_strings(void)
{
        char buffer[8];

        CHECK_EQ(json_string(parse("\"a\\u00e9\\n\\/\""), buffer, sizeof(buffer)), 5);
        CHECK(strcmp(buffer, "a\xc3\xa9\n/") == 0);
        CHECK_EQ(json_string(parse("\"1234567\""), buffer, sizeof(buffer)), 7);
        CHECK_EQ(json_string(parse("\"12345678\""), buffer, sizeof(buffer)), -ENOBUFS);
        CHECK_EQ(json_string(parse("12"), buffer, sizeof(buffer)), -EBADMSG);
        CHECK_EQ(json_string(parse("\"\""), buffer, 0), -ENOBUFS);
        json_text(parse("\"123456\\ud83d\\ude00\""), buffer, sizeof(buffer));
        CHECK(strcmp(buffer, "123456") == 0);
        json_text(parse("[]"), buffer, sizeof(buffer));
        CHECK(buffer[0] == '\0');
}

static void test_integers(void)
{
        int64_t number = 1;

        CHECK_EQ(json_integer(parse("9223372036854775807"), &number), 0);
        CHECK_EQ(number, INT64_MAX);
        CHECK_EQ(json_integer(parse("-9223372036854775808"), &number), 0);
        CHECK_EQ(number, INT64_MIN);
        CHECK_EQ(json_integer(parse("9223372036854775808"), &number), -ERANGE);
        CHECK_EQ(json_integer(parse("-9223372036854775809"), &number), -ERANGE);
        CHECK_EQ(json_integer(parse("1.0"), &number), -EBADMSG);
        CHECK_EQ(json_integer(parse("\"1\""), &number), -EBADMSG);
        CHECK_EQ(number, INT64_MIN);
}

/* Whatever the bytes are, the scanner stays inside them. */
static void test_random_bytes(void)
{
        static const char letters[] = "{}[]\",:\\u0dD8e1-. tn\xc3\xa9\xf0";
        char text[24];

        srandom(1);
        for (int round = 0; round < 200000; round++) {
                size_t n = (size_t)(random() % (long)sizeof(text));
                for (size_t i = 0; i < n; i++)
                        text[i] = letters[random() % (long)(sizeof(letters) - 1)];
                parse_copy(text, n);
        }
}

int main(void)
{
        test_grammar();
        test_every_prefix_is_refused();
        test_find();
        test_strings();
        test_integers();
        test_random_bytes();
        return 0;
}
