/* Cloud Hypervisor's local migration protocol, byte by byte (vm-migration/src/protocol.rs of Cloud
 * Hypervisor v53): what goes over the socket when a monitor gives its memory away or gets it.
 *
 * Every request and every response is 16 bytes: a 16 bit command or status, 6 bytes, a 64 bit count of the
 * bytes that follow. The structs are sent as they lie in memory, the rest is little-endian; every machine
 * it runs on with KVM is little-endian. The descriptor of a memory slot comes with the slot's number, which
 * follows its request. Pure: no I/O here. */
#ifndef SNAPSTART_OFFLOAD_WIRE_H
#define SNAPSTART_OFFLOAD_WIRE_H

#include <stdbool.h>
#include <stdint.h>

#define OFFLOAD_HEADER_BYTES 16 /* of a request and of a response */
#define OFFLOAD_SLOT_BYTES 4
#define OFFLOAD_RANGE_BYTES 16
#define OFFLOAD_ROLE_BYTES 2
#define OFFLOAD_VERSION 0 /* the only one there is so far */

enum offload_command {
        OFFLOAD_START = 1, /* the sender's version is in the first two of the 6 bytes */
        OFFLOAD_CONFIG = 2,
        OFFLOAD_STATE = 3,
        OFFLOAD_MEMORY = 4, /* memory through the socket: between hosts only */
        OFFLOAD_COMPLETE = 5, /* and resume the machine */
        OFFLOAD_ABANDON = 6,
        OFFLOAD_MEMORY_FD = 7,
        OFFLOAD_COMPLETE_PAUSED = 8,
        OFFLOAD_PAGE_FAULT = 9,
};

enum offload_status {
        OFFLOAD_OK = 1,
        OFFLOAD_ERROR = 2,
};

/* What an additional connection says first: what it is for. */
enum offload_role {
        OFFLOAD_ROLE_FAULT = 2,
};

struct offload_request {
        enum offload_command command;
        uint16_t version; /* of OFFLOAD_START */
        uint64_t length; /* bytes that follow */
};

struct offload_response {
        enum offload_status status;
        uint64_t length;
};

/* Guest memory, by guest physical address. */
struct offload_range {
        uint64_t address, length;
};

/* Returns 0, or -EBADMSG if there is no such command. */
int offload_read_request(const uint8_t bytes[OFFLOAD_HEADER_BYTES], struct offload_request *ret_request);

/* Returns 0, or -EBADMSG if there is no such status. */
int offload_read_response(const uint8_t bytes[OFFLOAD_HEADER_BYTES], struct offload_response *ret_response);

void offload_read_range(const uint8_t bytes[OFFLOAD_RANGE_BYTES], struct offload_range *ret_range);
uint32_t offload_read_slot(const uint8_t bytes[OFFLOAD_SLOT_BYTES]);

/* @length: bytes that will follow the request. */
void offload_write_request(uint8_t out[OFFLOAD_HEADER_BYTES], enum offload_command command, uint64_t length);
void offload_write_response(uint8_t out[OFFLOAD_HEADER_BYTES], enum offload_status status);
void offload_write_range(uint8_t out[OFFLOAD_RANGE_BYTES], const struct offload_range *range);
void offload_write_slot(uint8_t out[OFFLOAD_SLOT_BYTES], uint32_t slot);
void offload_write_role(uint8_t out[OFFLOAD_ROLE_BYTES], enum offload_role role);

#endif
