# Build the fuzz targets of the page server: one program for each fuzz_NAME.c.
#
#   make -f tests/native/pager/fuzz.mk O=DIR             DIR/fuzz_NAME FILE... replays inputs
#   make -f tests/native/pager/fuzz.mk O=DIR FUZZER=1    with libFuzzer: DIR/fuzz_NAME CORPUS; needs
#                                                        clang with its runtime (libclang-rt-14-dev)
# Both under the address and undefined-behaviour sanitizers. Files that a target writes go below TMPDIR.

TESTS    := $(dir $(lastword $(MAKEFILE_LIST)))
NATIVE   := $(TESTS)../../../native
O        ?= build/fuzz
FUZZER   ?=
CLANG    ?= $(firstword $(shell for name in clang clang-14; do command -v $$name; done) clang)

CPPFLAGS += -I$(NATIVE)/core -I$(NATIVE)/pager -I$(TESTS)..
CFLAGS   := -std=gnu11 -O1 -g -Wall -Wextra -Werror -fno-omit-frame-pointer -fno-sanitize-recover=all
CFLAGS   += -fsanitize=address,undefined
LDLIBS   += -pthread -lm
ifneq ($(FUZZER),)
CC       := $(CLANG)
CFLAGS   += -fsanitize=fuzzer-no-link
ENGINE   := -fsanitize=fuzzer
else
ENGINE   := $(TESTS)replay_corpus.c
endif

HEADERS  := $(wildcard $(NATIVE)/core/*.h $(NATIVE)/pager/*.h $(TESTS)*.h)
OBJECTS  := $(patsubst $(NATIVE)/core/%.c,$(O)/core-%.o,$(wildcard $(NATIVE)/core/*.c)) \
  $(patsubst $(NATIVE)/pager/%.c,$(O)/pager-%.o,$(filter-out %/main.c,$(wildcard $(NATIVE)/pager/*.c)))
PROGRAMS := $(patsubst $(TESTS)%.c,$(O)/%,$(wildcard $(TESTS)fuzz_*.c))

.PHONY: all
all: $(PROGRAMS)
.SECONDARY:

$(O):
	mkdir -p $@

$(O)/core-%.o: $(NATIVE)/core/%.c $(HEADERS) | $(O)
	$(CC) $(CPPFLAGS) $(CFLAGS) -c $< -o $@

$(O)/pager-%.o: $(NATIVE)/pager/%.c $(HEADERS) | $(O)
	$(CC) $(CPPFLAGS) $(CFLAGS) -c $< -o $@

# Each target takes out of it what it needs.
$(O)/all.a: $(OBJECTS)
	rm -f $@
	ar rc $@ $^

$(O)/fuzz_%: $(TESTS)fuzz_%.c $(O)/all.a $(HEADERS) $(TESTS)replay_corpus.c
	$(CC) $(CPPFLAGS) $(CFLAGS) $(ENGINE) $< $(O)/all.a $(LDLIBS) -o $@
