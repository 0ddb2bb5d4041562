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

/* Parses a copy of the text so that the sanitizer sees any read past its end. */
static int parse_copy_with(int (*parse)(const char *, size_t, struct json *), const char *text, size_t n)
{
        char *copy = malloc(n + !n);
        struct json value;
        int r;

        CHECK(copy);
        memcpy(copy, text, n);
        r = parse(copy, n, &value);
        free(copy);
        return r;
}

static int parse_copy(const char *text, size_t n)
{
        return parse_copy_with(json_parse, text, n);
}

static int parse_part(const char *text, size_t n)
{
        return parse_copy_with(json_parse_part, text, n);
}

static void test_grammar(void)
{
        for (size_t i = 0; i < sizeof(well_formed) / sizeof(*well_formed); i++)
                CHECK(parse_copy(well_formed[i], strlen(well_formed[i])) == 0 && parse_part(well_formed[i], strlen(well_formed[i])) == 0);
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

static void test_every_prefix_may_be_completed(void)
{
        static const char text[] = " {\"a\" : [1,-2.5e3,\"x\\u0041\\n\\ud83d\\ude00\",true,null,false],\"b\":{\"c\":\"\xc3\xa9\xf0\x9f\x98\x80\"}} ";

        for (size_t n = 0; n < sizeof(text) - 2; n++)
                CHECK_EQ(parse_part(text, n), -EAGAIN);
        CHECK_EQ(parse_part(text, sizeof(text) - 2), 0);
        CHECK_EQ(parse_part(text, sizeof(text) - 1), 0);
}

static void test_what_nothing_can_complete_is_told_from_what_is_cut(void)
{
        static const char *const hopeless[] = {
                "}", "]", "[,", "[1 2", "[1}", "{]", "{1", "{\"a\"}", "{\"a\" 1", "{\"a\":}", "{\"a\":1,}", "01", "[01", "-x", "1.x", "1e+x", "tx", "trux", "nulL",
                "\"\\x", "\"\\u12g", "\"\\udc00", "\"\\ud800x", "\"\\ud800\\n", "\"\\ud800\\u0041", "\"\n", "\"\x80", "\"\xc3x", "\"\xc0\x80", "\"\xed\xa0\x80", "\"\xf8",
                "{}x", "[] [", "\"\" \"", "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
        };
        static const char *const cut[] = { "", " ", "[", "{\"", "[1,", "-", "1.", "1e", "1e-", "t", "nul", "\"\\", "\"\\u", "\"\\u12", "\"\\ud83d", "\"\\ud83d\\", "\"\\ud83d\\ude0", "\"\xf0\x9f\x98" };

        for (size_t i = 0; i < sizeof(hopeless) / sizeof(*hopeless); i++)
                if (parse_part(hopeless[i], strlen(hopeless[i])) != -EBADMSG) {
                        fprintf(stderr, "awaits more of: %s\n", hopeless[i]);
                        exit(1);
                }
        for (size_t i = 0; i < sizeof(cut) / sizeof(*cut); i++)
                if (parse_part(cut[i], strlen(cut[i])) != -EAGAIN) {
                        fprintf(stderr, "awaits no more of: %s\n", cut[i]);
                        exit(1);
                }
}

/* Returns after how many bytes of @text, seen one by one, it is said to be whole; 0 for never. */
static size_t whole_after(const char *text)
{
        struct json_progress progress = { 0 };

        for (size_t n = 0; n <= strlen(text); n++)
                if (json_is_whole(&progress, text, n))
                        return n;
        return 0;
}

static void test_a_text_in_pieces_is_whole_with_its_last_bracket(void)
{
        static const char *const texts[] = { "[]", " {\"a\":[{\"]\":\"\\\"]}\\\\\"}]}", "\n[[],[[]]]", "{\"\\u007d\":\"}\",\"\\\\\":[\"]\"]}" };

        for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
                struct json_progress progress = { 0 };

                CHECK_EQ(parse_copy(texts[i], strlen(texts[i])), 0);
                CHECK_EQ(whole_after(texts[i]), strlen(texts[i]));
                CHECK(json_is_whole(&progress, texts[i], strlen(texts[i])));
                CHECK(json_is_whole(&progress, texts[i], strlen(texts[i])));
        }
        CHECK_EQ(whole_after("[]]]"), 2);
        CHECK_EQ(whole_after("  [\"]"), 0);
        CHECK_EQ(whole_after("   "), 0);
}

static void test_no_time_is_lost_waiting_for_what_is_no_array_or_object(void)
{
        CHECK_EQ(whole_after("hello"), 1);
        CHECK_EQ(whole_after(" \"a\""), 2);
        CHECK_EQ(whole_after(" 12"), 2);
        CHECK_EQ(whole_after("]"), 1);
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

/* Walk through @array of integers, as a number whose digits they are. */
static int64_t walk_digits(struct json array)
{
        struct json rest, value;
        int64_t digits = 0, digit;

        CHECK_EQ(json_elements(array, &rest), 0);
        while (json_next_element(&rest, &value) > 0) {
                CHECK_EQ(json_integer(value, &digit), 0);
                digits = digits * 10 + digit;
        }
        CHECK_EQ(json_next_element(&rest, &value), 0);
        return digits;
}

static void test_elements_are_walked_through_in_order(void)
{
        struct json rest, value;

        CHECK_EQ(walk_digits(parse("[]")), 0);
        CHECK_EQ(walk_digits(parse(" [ ] ")), 0);
        CHECK_EQ(walk_digits(parse("[7]")), 7);
        CHECK_EQ(walk_digits(parse("[1,2 , 3\n,4 ]")), 1234);
        CHECK_EQ(json_elements(parse("[[1,2],{\"a\":[3]},\"]\"]"), &rest), 0);
        CHECK_EQ(json_next_element(&rest, &value), 1);
        CHECK_EQ(walk_digits(value), 12);
        CHECK_EQ(json_next_element(&rest, &value), 1);
        CHECK_EQ(json_find(value, "a", &value), 0);
        CHECK_EQ(walk_digits(value), 3);
        CHECK_EQ(json_next_element(&rest, &value), 1);
        CHECK(json_equals(value, "]"));
        CHECK_EQ(json_next_element(&rest, &value), 0);
        CHECK_EQ(json_elements(parse("{}"), &rest), -EBADMSG);
        CHECK_EQ(json_elements(parse("1"), &rest), -EBADMSG);
        CHECK_EQ(json_elements(parse("\"[]\""), &rest), -EBADMSG);
}

static void test_members_are_walked_through_in_order(void)
{
        struct json rest, name, value;
        int64_t number;

        CHECK_EQ(json_members(parse("{ \"a\" : 1 , \"\\u0062\":{\"c\":2},\"a\":3 }"), &rest), 0);
        CHECK_EQ(json_next_member(&rest, &name, &value), 1);
        CHECK(json_equals(name, "a"));
        CHECK_EQ(json_integer(value, &number), 0);
        CHECK_EQ(number, 1);
        CHECK_EQ(json_next_member(&rest, &name, &value), 1);
        CHECK(json_equals(name, "b"));
        CHECK_EQ(value.length, strlen("{\"c\":2}"));
        CHECK_EQ(json_next_member(&rest, &name, &value), 1);
        CHECK(json_equals(name, "a"));
        CHECK_EQ(json_next_member(&rest, &name, &value), 0);
        CHECK_EQ(json_members(parse("{ }"), &rest), 0);
        CHECK_EQ(json_next_member(&rest, &name, &value), 0);
        CHECK_EQ(json_members(parse("[]"), &rest), -EBADMSG);
        CHECK_EQ(json_members(parse("null"), &rest), -EBADMSG);
}

static void test_a_string_equals_what_it_decodes_to(void)
{
        CHECK(json_equals(parse("\"\""), ""));
        CHECK(json_equals(parse("\"\\u0061\\u00e9\""), "a\xc3\xa9"));
        CHECK(!json_equals(parse("\"ab\""), "a"));
        CHECK(!json_equals(parse("\"a\""), "ab"));
        CHECK(!json_equals(parse("\"\\u0000\""), ""));
        CHECK(!json_equals(parse("1"), "1"));
        CHECK(!json_equals(parse("[\"a\"]"), "a"));
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

static void test_unsigned_integers(void)
{
        uint64_t number = 1;

        CHECK_EQ(json_unsigned(parse("18446744073709551615"), &number), 0);
        CHECK(number == UINT64_MAX);
        CHECK_EQ(json_unsigned(parse("-0"), &number), 0);
        CHECK_EQ(number, 0);
        CHECK_EQ(json_unsigned(parse("4096"), &number), 0);
        CHECK_EQ(json_unsigned(parse("18446744073709551616"), &number), -ERANGE);
        CHECK_EQ(json_unsigned(parse("99999999999999999999"), &number), -ERANGE);
        CHECK_EQ(json_unsigned(parse("-1"), &number), -ERANGE);
        CHECK_EQ(json_unsigned(parse("-18446744073709551616"), &number), -ERANGE);
        CHECK_EQ(json_unsigned(parse("1.0"), &number), -EBADMSG);
        CHECK_EQ(json_unsigned(parse("1e3"), &number), -EBADMSG);
        CHECK_EQ(json_unsigned(parse("\"1\""), &number), -EBADMSG);
        CHECK_EQ(json_unsigned(parse("null"), &number), -EBADMSG);
        CHECK_EQ(number, 4096);
}

/* Walk through all that @value holds: each element within it, behind the one before. */
static void check_walk(struct json value)
{
        struct json rest, name, next;
        const char *end = value.text;
        bool is_array = json_elements(value, &rest) == 0;
        int r;

        if (!is_array && json_members(value, &rest) < 0)
                return;
        while ((r = is_array ? json_next_element(&rest, &next) : json_next_member(&rest, &name, &next)) > 0) {
                CHECK(next.length > 0 && next.text > end && next.text + next.length < value.text + value.length);
                CHECK(is_array || (name.text > end && name.text + name.length < next.text));
                end = next.text + next.length - 1;
                check_walk(next);
        }
        CHECK_EQ(r, 0);
}

/* What can be told of a text before it has come as a whole agrees with what is said of the whole. */
static void check_prefixes(const char *text, size_t n)
{
        struct json_progress progress = { 0 };
        struct json value;
        int r = -EAGAIN;

        for (size_t i = 0; i <= n; i++) {
                int before = r;
                bool is_whole = json_is_whole(&progress, text, i);

                r = json_parse_part(text, i, &value);
                CHECK(before != -EBADMSG || r == -EBADMSG);
                CHECK(r != 0 || is_whole);
                CHECK(r != -EAGAIN || !is_whole || !strchr("{[", text[strspn(text, " ")]));
                CHECK_EQ(json_parse(text, i, &value), r == 0 ? 0 : -EBADMSG);
        }
        if (r == 0)
                check_walk(value);
}

/* Whatever the bytes are, the scanner stays inside them. */
static void test_random_bytes(void)
{
        static const char letters[] = "{}[]\",:\\u0dD8e1-. tn\xc3\xa9\xf0";
        char text[25];

        srandom(1);
        for (int round = 0; round < 200000; round++) {
                size_t n = (size_t)(random() % (long)(sizeof(text) - 1));
                for (size_t i = 0; i < n; i++)
                        text[i] = letters[random() % (long)(sizeof(letters) - 1)];
                text[n] = '\0';
                parse_copy(text, n);
                check_prefixes(text, n);
        }
}

int main(void)
{
        test_grammar();
        test_every_prefix_is_refused();
        test_every_prefix_may_be_completed();
        test_what_nothing_can_complete_is_told_from_what_is_cut();
        test_a_text_in_pieces_is_whole_with_its_last_bracket();
        test_no_time_is_lost_waiting_for_what_is_no_array_or_object();
        test_find();
        test_elements_are_walked_through_in_order();
        test_members_are_walked_through_in_order();
        test_a_string_equals_what_it_decodes_to();
        test_strings();
        test_integers();
        test_unsigned_integers();
        test_random_bytes();
        return 0;
}
