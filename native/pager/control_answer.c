#define _GNU_SOURCE
#include "control_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

struct word {
        int error;
        const char *word;
};

const char *control_word(int error)
{
        static const struct word words[] = {
                {-EEXIST, "exists"},   {-EBADMSG, "invalid"}, {-ENAMETOOLONG, "invalid"},
                {-ENOENT, "unknown"},  {-ENODATA, "unknown"}, {-ETIMEDOUT, "timeout"},
        };

        for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++)
                if (words[i].error == error)
                        return words[i].word;
        return "system";
}

/* Send what is left. Returns false if the client is gone. */
bool control_flush(struct control_link *link)
{
        while (link->at_out < link->n_out) {
                ssize_t n = send(link->source.fd, link->out + link->at_out, link->n_out - link->at_out,
                                 MSG_NOSIGNAL | MSG_DONTWAIT);

                if (n < 0 && errno == EAGAIN)
                        return loop_change(&link->control->server->loop, &link->source, EPOLLOUT) == 0;
                if (n < 0 && errno != EINTR)
                        return false;
                link->at_out += n > 0 ? (size_t)n : 0;
        }
        free(link->out);
        link->out = NULL;
        link->n_out = link->at_out = 0;
        link->is_busy = false;
        return loop_change(&link->control->server->loop, &link->source, EPOLLIN) == 0;
}

/* Answer the request; @out is closed by it. */
void control_answer(struct control_link *link, struct json_out *out)
{
        loop_unset(&link->control->server->loop, &link->timer);
        link->waiting_for[0] = '\0';
        link->out = json_close(out, &link->n_out);
        link->at_out = 0;
        if (!link->out || !control_flush(link))
                control_link_close(link);
        else if (!link->is_reading)
                control_read_on(link);
}

void control_refuse(struct control_link *link, const char *word, const char *message)
{
        struct json_out out;

        if (json_open(&out)) {
                control_link_close(link);
                return;
        }
        json_put_boolean(&out, "ok", false);
        json_put_text(&out, "error", word);
        json_put_text(&out, "message", message);
        control_answer(link, &out);
}

/* Begin a good answer. Returns false, with the client gone, if there is no memory. */
bool control_accept(struct control_link *link, struct json_out *out)
{
        if (json_open(out)) {
                control_link_close(link);
                return false;
        }
        json_put_boolean(out, "ok", true);
        return true;
}

void control_answer_ok(struct control_link *link)
{
        struct json_out out;

        if (control_accept(link, &out))
                control_answer(link, &out);
}
