#define _GNU_SOURCE
#include "offload_intake.h"

#include <errno.h>
#include <stdbool.h>

static int refuse(struct intake *intake, const char *why)
{
        intake->why = why;
        return -EPROTO;
}

static int start(struct intake *intake, const struct offload_request *request)
{
        if (intake->stage != INTAKE_NEW)
                return refuse(intake, "the monitor started twice");
        if (request->version != OFFLOAD_VERSION)
                return refuse(intake, "the monitor speaks another version of the migration protocol");
        if (request->length != 0)
                return refuse(intake, "the monitor's start has a content");
        intake->stage = INTAKE_STARTED;
        return INTAKE_ACKNOWLEDGE;
}

static int memory_fd(struct intake *intake, const struct offload_request *request)
{
        if (intake->stage != INTAKE_STARTED)
                return refuse(intake, "the monitor sent memory out of turn");
        if (request->length != OFFLOAD_SLOT_BYTES)
                return refuse(intake, "the number of a memory slot has another length");
        if (intake->n_slots == OFFLOAD_MAX_SLOTS)
                return refuse(intake, "the monitor sent too many memory slots");
        return INTAKE_RECEIVE_SLOT;
}

static int config(struct intake *intake, const struct offload_request *request)
{
        if (intake->stage != INTAKE_STARTED)
                return refuse(intake, "the monitor sent its configuration out of turn");
        if (intake->n_slots == 0)
                return refuse(intake, "the monitor sent no memory: it must have shared memory, and migrate locally");
        if (request->length == 0 || request->length > OFFLOAD_MAX_CONFIG_BYTES)
                return refuse(intake, "the monitor's configuration is empty or too long");
        return INTAKE_RECEIVE_CONFIG;
}

static int state(struct intake *intake, const struct offload_request *request)
{
        if (intake->stage != INTAKE_CONFIGURED)
                return refuse(intake, "the monitor sent its state out of turn");
        if (request->length == 0 || request->length > OFFLOAD_MAX_STATE_BYTES)
                return refuse(intake, "the monitor's state is empty or too long");
        intake->stage = INTAKE_STATED;
        return INTAKE_RECEIVE_STATE;
}

static int complete(struct intake *intake, const struct offload_request *request)
{
        if (intake->stage != INTAKE_STATED)
                return refuse(intake, "the monitor ended before it had sent everything");
        if (request->length != 0)
                return refuse(intake, "the monitor's last message has a content");
        intake->stage = INTAKE_COMPLETE;
        return INTAKE_SAVE;
}

int intake_request(struct intake *intake, const struct offload_request *request)
{
        switch (request->command) {
        case OFFLOAD_START:
                return start(intake, request);
        case OFFLOAD_MEMORY_FD:
                return memory_fd(intake, request);
        case OFFLOAD_CONFIG:
                return config(intake, request);
        case OFFLOAD_STATE:
                return state(intake, request);
        case OFFLOAD_COMPLETE:
        case OFFLOAD_COMPLETE_PAUSED:
                return complete(intake, request);
        case OFFLOAD_ABANDON:
                intake->stage = INTAKE_ABANDONED;
                intake->why = "the monitor abandoned it";
                return INTAKE_END;
        case OFFLOAD_MEMORY:
                return refuse(intake, "the monitor sends memory through the socket: it must migrate locally");
        case OFFLOAD_PAGE_FAULT:
                break;
        }
        return refuse(intake, "the monitor asks for memory it is to give");
}

int intake_slot(struct intake *intake, uint32_t number)
{
        for (size_t i = 0; i < intake->n_slots; i++)
                if (intake->slots[i] == number)
                        return refuse(intake, "the monitor sent one memory slot twice");
        intake->slots[intake->n_slots++] = number;
        return 0;
}

static bool has_slot(const struct intake *intake, uint32_t number)
{
        for (size_t i = 0; i < intake->n_slots; i++)
                if (intake->slots[i] == number)
                        return true;
        return false;
}

/* The numbers of both are unlike each other: as many of each, and every one of the layout came. */
static bool are_the_same_slots(const struct intake *intake, const struct offload_layout *layout)
{
        for (size_t i = 0; i < layout->n_slots; i++)
                if (!has_slot(intake, layout->slots[i].number))
                        return false;
        return layout->n_slots == intake->n_slots;
}

int intake_config(struct intake *intake, const char *text, size_t length)
{
        struct offload_layout layout;

        if (offload_layout_parse(text, length, &layout, &intake->why) < 0)
                return -EPROTO;
        if (!are_the_same_slots(intake, &layout))
                return refuse(intake, "the memory slots that came are not those of the configuration");
        intake->layout = layout;
        intake->stage = INTAKE_CONFIGURED;
        return 0;
}

size_t intake_source(const struct intake *intake, size_t i)
{
        size_t source = 0;

        while (intake->slots[source] != intake->layout.slots[i].number)
                source++;
        return source;
}
