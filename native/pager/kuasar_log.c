#include "kuasar_log.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "json_out.h"
#include "json_scan.h"

#define NUMBER_BYTES 32

static void say(const char *event, const char *kind, const char *path, const char *why)
{
        struct json_out out;

        if (json_open(&out))
                return;
        json_put_text(&out, "event", event);
        json_put_text(&out, kind, path);
        json_put_text(&out, "why", why);
        json_log(&out);
}

void kuasar_say_ready(const char *directory)
{
        say("working_set.ready", "directory", directory, "the first machines of an image are recorded");
}

void kuasar_say_failed(const char *kind, const char *path, int error, const char *said)
{
        if (error == -ESTALE)
                said = "the image is gone, or was changed";
        say("working_set.failed", kind, path, *said ? said : strerror(-error));
}

void kuasar_say_dropped(const char *set_path, const char *why)
{
        say("working_set.dropped", "working_set", set_path, why);
}

static double share_of(struct json made, const char *name)
{
        char text[NUMBER_BYTES], *end;
        struct json value;
        double share;

        if (json_find(made, name, &value) || value.length >= sizeof(text))
                return NAN;
        memcpy(text, value.text, value.length);
        text[value.length] = '\0';
        share = strtod(text, &end);
        return *end ? NAN : share; /* null */
}

static int64_t count_of(struct json made, const char *name)
{
        struct json value;
        int64_t count;

        return json_find(made, name, &value) || json_integer(value, &count) ? 0 : count;
}

void kuasar_say_made(const char *image_path, const char *said)
{
        static const char *const counts[] = {"pages", "runs", "data_bytes", "dropped_pages"};
        static const char *const shares[] = {"precision", "recall"};
        struct json made;
        struct json_out out;

        if (json_parse(said, strlen(said), &made) || json_open(&out))
                return;
        json_put_text(&out, "event", "working_set.made");
        json_put_text(&out, "image", image_path);
        for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++)
                json_put_integer(&out, counts[i], count_of(made, counts[i]));
        for (size_t i = 0; i < sizeof(shares) / sizeof(*shares); i++)
                json_put_real(&out, shares[i], share_of(made, shares[i]));
        json_log(&out);
}
