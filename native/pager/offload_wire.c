#define _GNU_SOURCE
#include "offload_wire.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

static uint16_t get16(const uint8_t *bytes)
{
        uint16_t value;

        memcpy(&value, bytes, sizeof(value));
        return le16toh(value);
}

static uint64_t get64(const uint8_t *bytes)
{
        uint64_t value;

        memcpy(&value, bytes, sizeof(value));
        return le64toh(value);
}

static void put16(uint8_t *bytes, uint16_t value)
{
        value = htole16(value);
        memcpy(bytes, &value, sizeof(value));
}

static void put64(uint8_t *bytes, uint64_t value)
{
        value = htole64(value);
        memcpy(bytes, &value, sizeof(value));
}

int offload_read_request(const uint8_t bytes[OFFLOAD_HEADER_BYTES], struct offload_request *ret_request)
{
        uint16_t command = get16(bytes);

        if (command < OFFLOAD_START || command > OFFLOAD_PAGE_FAULT)
                return -EBADMSG;
        *ret_request = (struct offload_request){
                .command = (enum offload_command)command,
                .version = get16(bytes + 2),
                .length = get64(bytes + 8),
        };
        return 0;
}

int offload_read_response(const uint8_t bytes[OFFLOAD_HEADER_BYTES], struct offload_response *ret_response)
{
        uint16_t status = get16(bytes);

        if (status != OFFLOAD_OK && status != OFFLOAD_ERROR)
                return -EBADMSG;
        *ret_response = (struct offload_response){
                .status = (enum offload_status)status,
                .length = get64(bytes + 8),
        };
        return 0;
}

void offload_read_range(const uint8_t bytes[OFFLOAD_RANGE_BYTES], struct offload_range *ret_range)
{
        *ret_range = (struct offload_range){ .address = get64(bytes), .length = get64(bytes + 8) };
}

uint32_t offload_read_slot(const uint8_t bytes[OFFLOAD_SLOT_BYTES])
{
        uint32_t slot;

        memcpy(&slot, bytes, sizeof(slot));
        return le32toh(slot);
}

static void write_header(uint8_t out[OFFLOAD_HEADER_BYTES], uint16_t word, uint64_t length)
{
        memset(out, 0, OFFLOAD_HEADER_BYTES);
        put16(out, word);
        put64(out + 8, length);
}

void offload_write_request(uint8_t out[OFFLOAD_HEADER_BYTES], enum offload_command command, uint64_t length)
{
        write_header(out, (uint16_t)command, length);
        if (command == OFFLOAD_START)
                put16(out + 2, OFFLOAD_VERSION);
}

void offload_write_response(uint8_t out[OFFLOAD_HEADER_BYTES], enum offload_status status)
{
        write_header(out, (uint16_t)status, 0);
}

void offload_write_range(uint8_t out[OFFLOAD_RANGE_BYTES], const struct offload_range *range)
{
        put64(out, range->address);
        put64(out + 8, range->length);
}

void offload_write_slot(uint8_t out[OFFLOAD_SLOT_BYTES], uint32_t slot)
{
        slot = htole32(slot);
        memcpy(out, &slot, sizeof(slot));
}

void offload_write_role(uint8_t out[OFFLOAD_ROLE_BYTES], enum offload_role role)
{
        put16(out, (uint16_t)role);
}
