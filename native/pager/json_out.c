#define _GNU_SOURCE
#include "json_out.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

int json_open(struct json_out *ret_out)
{
        *ret_out = (struct json_out){0};
        ret_out->stream = open_memstream(&ret_out->text, &ret_out->length);
        if (!ret_out->stream)
                return -ENOMEM;
        fputc('{', ret_out->stream);
        return 0;
}

char *json_close(struct json_out *out, size_t *ret_length)
{
        fputs("}\n", out->stream);
        if (fclose(out->stream) != 0) {
                free(out->text);
                return NULL;
        }
        *ret_length = out->length;
        return out->text;
}

static void quote(FILE *stream, const char *text)
{
        fputc('"', stream);
        for (; *text; text++) {
                unsigned char c = (unsigned char)*text;

                if (c == '"' || c == '\\')
                        fprintf(stream, "\\%c", c);
                else if (c < 0x20 || c >= 0x7f)
                        fprintf(stream, "\\u%04x", c); /* any bytes, as Latin-1: what is shown is valid */
                else
                        fputc(c, stream);
        }
        fputc('"', stream);
}

static void name(struct json_out *out, const char *key)
{
        if (out->needs_comma)
                fputc(',', out->stream);
        out->needs_comma = true;
        if (key) {
                quote(out->stream, key);
                fputc(':', out->stream);
        }
}

void json_put_text(struct json_out *out, const char *key, const char *value)
{
        name(out, key);
        quote(out->stream, value);
}

void json_put_integer(struct json_out *out, const char *key, int64_t value)
{
        name(out, key);
        fprintf(out->stream, "%" PRId64, value);
}

void json_put_real(struct json_out *out, const char *key, double value)
{
        name(out, key);
        if (isfinite(value))
                fprintf(out->stream, "%.6g", value);
        else
                fputs("null", out->stream);
}

void json_put_boolean(struct json_out *out, const char *key, bool value)
{
        name(out, key);
        fputs(value ? "true" : "false", out->stream);
}

void json_enter(struct json_out *out, const char *key, char bracket)
{
        name(out, key);
        fputc(bracket, out->stream);
        out->needs_comma = false;
}

void json_leave(struct json_out *out, char bracket)
{
        fputc(bracket, out->stream);
        out->needs_comma = true;
}

void json_log(struct json_out *out)
{
        size_t length;
        char *line = json_close(out, &length);

        /* In one call, so that lines of several processes do not mix. A log nobody takes is not waited for. */
        if (line && write(STDERR_FILENO, line, length) < 0)
                errno = 0;
        free(line);
}
