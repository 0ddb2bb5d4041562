#define _GNU_SOURCE
#include "kuasar.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fdutil.h"
#include "json_out.h"
#include "kuasar_sets.h"
#include "process.h"
#include "uffd.h"

#define IMAGE_NAME "/restore/memory.img"

_Static_assert(HANDSHAKE_PATH_BYTES <= JOURNAL_PATH_BYTES, "a path that was said fits into the journal");

struct kuasar {
        struct hand_over hand_over;
        struct server *server;
        struct kuasar_sets *sets; /* owned; NULL: none are made */
};

/* -- what they say --------------------------------------------------------------------------------- */

static bool is_id(const char *text)
{
        static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";

        return text[0] && text[0] != '.' && strspn(text, allowed) == strlen(text);
}

/* Returns whether @path lies below @directory, with how long the part is that names @directory. */
static bool is_below(const char *path, const char *directory, size_t *ret_length)
{
        size_t n = strlen(directory);

        while (n > 0 && directory[n - 1] == '/')
                n--;
        *ret_length = n;
        return strncmp(path, directory, n) == 0 && path[n] == '/' && !strstr(path, "/../");
}

bool kuasar_find_sandbox(const char *path, const char *directory, char *ret_vm)
{
        size_t length = strlen(path), tail = sizeof(IMAGE_NAME) - 1, root;
        char vm[JOURNAL_ID_BYTES] = "";
        const char *begin, *end;

        if (!is_below(path, directory, &root) || length <= root + 1 + tail)
                return false;
        end = path + length - tail;
        for (begin = end; begin[-1] != '/'; begin--)
                ;
        if (strcmp(end, IMAGE_NAME) != 0 || (size_t)(end - begin) >= sizeof(vm))
                return false;
        memcpy(vm, begin, (size_t)(end - begin));
        if (!is_id(vm))
                return false;
        memcpy(ret_vm, vm, sizeof(vm));
        return true;
}

/* -- taking them ----------------------------------------------------------------------------------- */

static bool is_expected(const struct server *server, const char *vm)
{
        const struct machine *machine = server_find(server, vm);

        return machine && machine->state != MACHINE_STOPPED;
}

static const char *take(struct kuasar *kuasar, struct handed *handed)
{
        struct machine_order order = {.protocol = HANDSHAKE_KUASAR};
        const char *path = handed->handshake->image_path, *why;
        struct image image;

        if (!kuasar_find_sandbox(path, kuasar->server->settings.kuasar.directory, order.vm))
                return "its image is not where sandboxes of this node have theirs";
        if (is_expected(kuasar->server, order.vm))
                return "this sandbox is served already";
        memcpy(order.image, path, strlen(path) + 1);
        if (image_take(path, &image))
                return "its image cannot be opened";
        kuasar_sets_plan(kuasar->sets, handed->handshake, &image, &order);
        why = server_take_unasked(kuasar->server, &order, &image, handed);
        if (why)
                kuasar_sets_ending(kuasar->sets, order.vm, NULL);
        return why;
}

/* What was not taken is still in @handed. */
static void end_monitor(const struct handed *handed)
{
        struct uffd_facts uffd;

        if (handed->fds[0] >= 0 && handed->pidfd >= 0 && uffd_inspect(handed->fds[0], &uffd) == 0)
                process_end(handed->pidfd, PROCESS_END_SOON_MS);
}

static void say_refused(const struct hand_over *hand_over, const char *why)
{
        struct json_out out;

        if (json_open(&out))
                return;
        json_put_text(&out, "event", "hand_over.refused");
        json_put_text(&out, "socket", hand_over->path);
        json_put_text(&out, "why", why);
        json_log(&out);
}

static void received(struct hand_over *hand_over, struct handed *handed, const char *why)
{
        struct kuasar *kuasar = container_of(hand_over, struct kuasar, hand_over);

        if (handed)
                why = take(kuasar, handed);
        if (handed && why)
                end_monitor(handed);
        if (why)
                say_refused(hand_over, why);
}

/* -- their machines -------------------------------------------------------------------------------- */

static bool is_theirs(const struct kuasar *kuasar, const struct machine *machine)
{
        return kuasar && machine->order.protocol == HANDSHAKE_KUASAR;
}

void kuasar_began(struct kuasar *kuasar, struct machine *machine)
{
        if (is_theirs(kuasar, machine))
                kuasar_sets_began(kuasar->sets, machine->order.vm, machine->vm);
}

void kuasar_ending(struct kuasar *kuasar, struct machine *machine)
{
        if (is_theirs(kuasar, machine))
                kuasar_sets_ending(kuasar->sets, machine->order.vm, machine->vm);
}

/* -- life ------------------------------------------------------------------------------------------ */

int kuasar_open(struct server *server, struct kuasar **ret_kuasar)
{
        static const struct hand_over_caller caller = {.received = received};
        const struct kuasar_settings *settings = &server->settings.kuasar;
        struct kuasar *kuasar = calloc(1, sizeof(*kuasar));
        int r;

        if (!kuasar)
                return -ENOMEM;
        kuasar->server = server;
        kuasar->hand_over = (struct hand_over){
                .protocol = HANDSHAKE_KUASAR,
                .patience_ns = server->settings.hand_over_ns,
                .is_lasting = true,
                .caller = &caller,
        };
        unlink(settings->socket);
        r = hand_over_open(&kuasar->hand_over, &server->loop, settings->socket);
        if (r) {
                free(kuasar);
                return r;
        }
        if (settings->sets)
                kuasar->sets = kuasar_sets_open(settings, &server->loop);
        *ret_kuasar = kuasar;
        return 0;
}

void kuasar_stop(struct kuasar *kuasar)
{
        if (!kuasar)
                return;
        hand_over_close(&kuasar->hand_over);
        kuasar_sets_stop(kuasar->sets);
}

void kuasar_close(struct kuasar *kuasar)
{
        if (!kuasar)
                return;
        kuasar_sets_close(kuasar->sets);
        free(kuasar);
}
