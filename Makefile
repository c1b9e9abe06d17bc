# pgbaton: `make help` lists the targets.

CC      ?= gcc
BUILD   ?= build
SAN     ?=
OPT     ?= -O2 -g

# Each warning has caught a real bug somewhere; -Wconversion stays off: the
# wire formats need so many casts that it hides more than it shows.
WARN := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
        -Wold-style-definition -Wpointer-arith -Wwrite-strings -Wundef -Wvla \
        -Wformat=2 -Wcast-qual -Wnull-dereference -Wdouble-promotion \
        -Wimplicit-fallthrough -Wunused-result

PKGS := libpq openssl jansson libmicrohttpd liblz4 libxxhash inih
CPPFLAGS += -D_GNU_SOURCE -I. $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
CFLAGS   += -std=c11 $(OPT) $(WARN) -pthread -fno-omit-frame-pointer -MMD -MP
LDLIBS   += $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lev -lm -pthread
ifneq ($(SAN),)
  CFLAGS  += -fsanitize=$(SAN) -fno-sanitize-recover=all
  LDFLAGS += -fsanitize=$(SAN)
  BUILD   := build/san-$(subst $(comma),-,$(SAN))
endif
comma := ,

FOLDERS := common protocol decoder apply proxy
SRC  := $(filter-out proxy/main.c,$(shell find $(FOLDERS) -name '*.c' 2>/dev/null | LC_ALL=C sort))
# Libraries from the top of the house to the bottom: the order the linker needs.
LIBS := $(foreach f,proxy apply decoder protocol common,$(if $(filter $(f)/%,$(SRC)),$(BUILD)/lib$(f).a))

.PHONY: all
all: $(BUILD)/pgbaton

$(BUILD)/pgbaton: $(BUILD)/proxy/main.o $(LIBS)
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

define folder_lib
$(BUILD)/lib$(1).a: $$(patsubst %.c,$(BUILD)/%.o,$$(filter $(1)/%,$$(SRC)))
	@rm -f $$@
	ar rcs $$@ $$^
endef
$(foreach f,$(FOLDERS),$(eval $(call folder_lib,$(f))))

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

# Unit tests: one program for each tests/unit/FOLDER, from all its files.
define unit_test
$(BUILD)/unit-$(1): $$(patsubst %.c,$(BUILD)/%.o,$$(shell find tests/unit/$(1) -name '*.c' 2>/dev/null)) $(BUILD)/tests/unit/runner.o \
    $$(foreach f,$(2),$$(if $$(filter $$(f)/%,$$(SRC)),$(BUILD)/lib$$(f).a))
	$(CC) $(CFLAGS) $(LDFLAGS) -o $$@ $$^ $$(LDLIBS) $$(shell pkg-config --libs check)
.PHONY: unit-$(1)
unit-$(1): $(BUILD)/unit-$(1)
	$(BUILD)/unit-$(1)
endef
$(eval $(call unit_test,common,common))
$(eval $(call unit_test,protocol,protocol common))
$(eval $(call unit_test,decoder,decoder protocol common))
$(eval $(call unit_test,apply,apply decoder protocol common))
$(eval $(call unit_test,proxy,proxy apply decoder protocol common))

.PHONY: clean
clean:
	rm -rf build

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
