# pgbaton: `make help` lists the targets.
#
# Files are found by wildcards: a new .c file in common/ protocol/ decoder/
# apply/ proxy/ is built, tests/unit/FOLDER/*.c join that folder's program,
# tests/integration/test_NAME.c and tests/fuzz/fuzz_NAME.c are programs.

ifeq ($(origin CC),default)
  CC := gcc
endif
SAN          ?=
TEST         ?=
OPT          ?= -O2 -g
FUZZ_SECONDS ?= 10
KILLS        ?= 1000
V            ?=
comma        := ,

# Every variant has a folder of its own: build, build/test, build/clang,
# build/san-address-undefined, build/san-thread/test ...
VARIANT := $(if $(findstring clang,$(CC)),/clang)$(if $(SAN),/san-$(subst $(comma),-,$(SAN)))
TOP     := build$(VARIANT)
BUILD   := $(TOP)$(if $(TEST),/test)

# "CC common/arena.c" instead of the command line; V=1 shows that.
Q   := $(if $(V),,@)
say  = $(if $(V),,@printf '%-4s %s\n' $(1) '$(2)')

# Not with other optimisations than the usual: the compilers then see paths that
# do not exist (uninitialised, null), and warn of them.
WERROR := $(if $(filter-out undefined default file,$(origin OPT)),,-Werror)

# Each warning has caught a real bug somewhere; -Wconversion stays off: the
# wire formats need so many casts that it hides more than it shows.
WARN := -Wall -Wextra $(WERROR) -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
        -Wold-style-definition -Wpointer-arith -Wwrite-strings -Wundef -Wvla \
        -Wformat=2 -Wcast-qual -Wnull-dereference -Wdouble-promotion \
        -Wimplicit-fallthrough -Wunused-result

PKGS     := libpq openssl jansson libmicrohttpd libcurl liblz4 libxxhash inih
CPPFLAGS += -D_GNU_SOURCE -I. $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
CFLAGS   += -std=c11 $(OPT) $(WARN) -pthread -fno-omit-frame-pointer -MMD -MP
LDLIBS   += $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lev -lm -pthread
CHECKLIBS = $(shell pkg-config --libs check 2>/dev/null)

ifneq ($(SAN),)
  CFLAGS  += -fsanitize=$(SAN) -fno-sanitize-recover=all
  LDFLAGS += -fsanitize=$(SAN)
else
  # Fortified only where the sanitizers do not look themselves.
  CPPFLAGS += -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
  CFLAGS   += -fstack-protector-strong -fPIE
  LDFLAGS  += -pie -Wl,-z,relro,-z,now
endif
# Fault points (places where a test can stop or kill the process) exist only in
# the test variant, never in what is installed.
ifneq ($(TEST),)
  CPPFLAGS += -DPGBATON_FAULTS
endif

FOLDERS := common protocol decoder apply proxy
find_c   = $(shell find $(1) -name '*.c' 2>/dev/null | LC_ALL=C sort)
SRC     := $(filter-out proxy/main.c,$(call find_c,$(FOLDERS)))
# Libraries from the top of the house to the bottom: the order the linker needs.
libs_of  = $(foreach f,$(1),$(if $(filter $(f)/%,$(SRC)),$(BUILD)/lib$(f).a))
LIBS    := $(call libs_of,proxy apply decoder protocol common)
objects  = $(patsubst %.c,$(BUILD)/%.o,$(1))

# The lists of what a file is made from. They change only when their text does,
# and what depends on one is then made again: a new source may be older than the
# library it belongs to, a removed one leaves no trace at all.
.PHONY: always
$(BUILD)/lists/%: always
	@mkdir -p $(@D)
	@printf '%s\n' '$(LIST)' | cmp -s - $@ || printf '%s\n' '$(LIST)' >$@
$(BUILD)/lists/compile: LIST := $(CC) $(CPPFLAGS) $(CFLAGS)

.PHONY: all
all: $(if $(wildcard proxy/main.c),$(BUILD)/pgbaton) compile_commands.json ## build/pgbaton and compile_commands.json (the default)
ifeq ($(wildcard proxy/main.c),)
all: $(LIBS)
endif

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z_-]+:.*## / { printf "  %-20s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  CC=clang  SAN=address,undefined  SAN=thread  OPT='-O0 -g3'  choose another build"
	@echo "  V=1               show the command lines"
	@echo "  unit-FOLDER       one folder's unit tests: unit-common, unit-protocol, ..."
	@echo "  INTEGRATION=NAME  one integration program: tests/integration/test_NAME.c"
	@echo "  CK_RUN_CASE=NAME, CK_FORK=no: Check's own choices, for one case and for a debugger"

$(BUILD)/pgbaton: $(BUILD)/proxy/main.o $(LIBS)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

define folder_lib
$(BUILD)/lists/lib$(1): LIST = $$(filter $(1)/%,$$(SRC))
$(BUILD)/lib$(1).a: $$(call objects,$$(filter $(1)/%,$$(SRC))) $(BUILD)/lists/lib$(1)
	$$(call say,AR,$$@)
	@rm -f $$@
	$$(Q)ar rcs $$@ $$(filter %.o,$$^)
endef
$(foreach f,$(FOLDERS),$(eval $(call folder_lib,$(f))))

$(BUILD)/%.o: %.c $(BUILD)/lists/compile
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

## --- tests ---

HARNESS     := $(wildcard tests/harness/*.c)
HARNESS_LIB := $(BUILD)/libharness.a
RUNNER      := $(BUILD)/tests/unit/runner.o

$(BUILD)/lists/libharness: LIST = $(HARNESS)
$(HARNESS_LIB): $(call objects,$(HARNESS)) $(BUILD)/lists/libharness
	$(call say,AR,$@)
	@rm -f $@
	$(Q)ar rcs $@ $(filter %.o,$^)
# The binary that integration tests start is always the test variant.
$(BUILD)/tests/harness/%.o: CPPFLAGS += -DHARNESS_PGBATON='"$(abspath $(TOP)/test/pgbaton)"' \
                                        $(if $(SAN),-DHARNESS_SANITIZED)

# Unit tests: one program for each tests/unit/FOLDER, from all its files. It is
# linked with the folders its own folder may know, and with the harness.
define unit_test
$(BUILD)/lists/unit-$(1): LIST = $$(call find_c,tests/unit/$(1))
$(BUILD)/unit-$(1): $$(call objects,$$(call find_c,tests/unit/$(1))) $$(RUNNER) $$(HARNESS_LIB) $$(call libs_of,$(2)) $(BUILD)/lists/unit-$(1)
	$$(call say,LD,$$@)
	$$(Q)$$(CC) $$(CFLAGS) $$(LDFLAGS) -o $$@ $$(filter-out $(BUILD)/lists/%,$$^) $$(LDLIBS) $$(CHECKLIBS)
.PHONY: unit-$(1)
unit-$(1): $(BUILD)/unit-$(1)
	$(BUILD)/unit-$(1)
endef
$(eval $(call unit_test,common,common))
$(eval $(call unit_test,protocol,protocol common))
$(eval $(call unit_test,decoder,decoder protocol common))
$(eval $(call unit_test,apply,apply decoder protocol common))
$(eval $(call unit_test,proxy,proxy apply decoder protocol common))
# Its tests also call the program itself.
unit-proxy $(BUILD)/unit-proxy: | $(BUILD)/pgbaton
$(eval $(call unit_test,harness,common))

UNITS := $(foreach f,$(FOLDERS) harness,$(if $(wildcard tests/unit/$(f)/*.c),unit-$(f)))

# Integration tests: test_*.c are programs, other files there help all of them.
INTEGRATION ?=
IT_ALL    := $(sort $(wildcard tests/integration/test_*.c))
IT_HELP   := $(call objects,$(filter-out $(IT_ALL),$(call find_c,tests/integration)))
IT_CHOSEN := $(if $(INTEGRATION),$(foreach n,$(INTEGRATION),tests/integration/test_$(patsubst test_%,%,$(n)).c),$(IT_ALL))
it_bins    = $(patsubst tests/integration/%.c,$(BUILD)/integration/%,$(1))
IT_BINS   := $(call it_bins,$(IT_CHOSEN))

$(call it_bins,$(IT_ALL)): $(BUILD)/integration/%: $(BUILD)/tests/integration/%.o $(IT_HELP) $(RUNNER) $(HARNESS_LIB) $(LIBS)
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS) $(CHECKLIBS)

.PHONY: unit integration check test-binary unit-programs integration-programs
unit: $(UNITS) ## all unit tests

test-binary: ## build/test/pgbaton: the variant with fault points
ifneq ($(wildcard proxy/main.c),)
	+@$(MAKE) --no-print-directory TEST=1 $(TOP)/test/pgbaton
endif

unit-programs: $(patsubst unit-%,$(BUILD)/unit-%,$(UNITS)) ## build the unit tests, do not run them
integration-programs: $(IT_BINS) test-binary ## build the integration tests, do not run them

integration: integration-programs ## all integration tests, or INTEGRATION=NAME
	@status=0; for program in $(IT_BINS); do \
	  echo "$$program"; "$$program" || status=1; \
	done; exit $$status

check: unit integration ## unit and integration tests

.PHONY: bench-apply
bench-apply: all ## a backlog drained beside a subscription of PostgreSQL's own
	bash bench/apply.sh

.PHONY: bench-lag
bench-lag: all ## commit to commit under a steady load, beside a subscription of PostgreSQL's own
	bash bench/lag.sh

.PHONY: bench-large
bench-large: all ## a transaction of a million rows, beside a subscription of PostgreSQL's own
	bash bench/large.sh

.PHONY: bench-memory
bench-memory: all ## peak memory at each size that could hurt
	bash bench/memory.sh

$(BUILD)/bench/log: $(BUILD)/bench/log.o $(call libs_of,decoder protocol common)
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

.PHONY: bench-log
bench-log: $(BUILD)/bench/log ## the transaction log beside plain writes of the same bytes
	$(BUILD)/bench/log

$(BUILD)/bench/move: $(BUILD)/bench/move.o $(HARNESS_LIB) $(LIBS)
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS) $(CHECKLIBS)

.PHONY: bench-move
bench-move: $(BUILD)/bench/move ## what a move of 500 sessions costs, ahead of the hold and in it
	$(BUILD)/bench/move

.PHONY: bench-listener
bench-listener: all ## the listener beside pgbouncer: throughput, CPU, COPY, idle memory
	bash bench/listener.sh

.PHONY: bench-cutover
bench-cutover: all ## the longest wait of a client at the switch, beside the recipe with pgbouncer
	bash bench/cutover.sh

.PHONY: bench-many
bench-many: all ## databases of 1,000, 3,000 and 10,000 tables: start, copy, status, memory
	bash bench/many.sh

.PHONY: bench-copy
bench-copy: all ## a migration from start to end beside pg_dump, pgcopydb and a bare pipe
	bash bench/copy.sh

.PHONY: bench-eta
bench-eta: all ## what the status says is left of a copy, beside what was left
	bash bench/eta.sh

.PHONY: bench-lobs
bench-lobs: all ## large objects: the copy beside pg_dump, and what their comparison holds writers for
	bash bench/lobs.sh

ifneq ($(wildcard tests/integration/test_torture.c),)
.PHONY: torture
torture: $(BUILD)/integration/test_torture test-binary ## kill -9 at random moments, KILLS=1000
	KILLS=$(KILLS) CK_DEFAULT_TIMEOUT=86400 $(BUILD)/integration/test_torture
endif

.PHONY: valgrind
valgrind: unit-programs ## the unit tests under valgrind
	@for program in $(patsubst unit-%,$(BUILD)/unit-%,$(filter-out unit-harness,$(UNITS))); do \
	  CK_DEFAULT_TIMEOUT=1200 valgrind --quiet --leak-check=full --show-leak-kinds=definite \
	    --error-exitcode=1 "$$program" || exit 1; \
	done

.PHONY: coverage
coverage: ## unit tests with gcov; build/coverage/index.html
	rm -rf build/coverage
	+$(MAKE) --no-print-directory VARIANT=/coverage OPT='-O0 -g --coverage' unit
	lcov --quiet --capture --directory build/coverage --output-file build/coverage/all.info
	lcov --quiet --remove build/coverage/all.info '/usr/*' '*/tests/*' --output-file build/coverage/lcov.info
	genhtml --quiet build/coverage/lcov.info --output-directory build/coverage
	lcov --summary build/coverage/lcov.info

# Fuzzing: each tests/fuzz/fuzz_NAME.c has LLVMFuzzerTestOneInput. With clang it
# is driven by libFuzzer; with any compiler replay.c feeds it the files of
# tests/fuzz/corpus/NAME, so that old findings stay tests.
FUZZERS := $(patsubst tests/fuzz/fuzz_%.c,%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))

$(FUZZERS:%=$(BUILD)/fuzz/replay_%): $(BUILD)/fuzz/replay_%: $(BUILD)/tests/fuzz/fuzz_%.o $(BUILD)/tests/harness/fuzz/replay.o $(LIBS)
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(FUZZERS:%=$(BUILD)/fuzz/fuzz_%): $(BUILD)/fuzz/fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(LIBS)
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(LDLIBS)

.PHONY: fuzz fuzz-run fuzz-replay
fuzz-replay: $(addprefix $(BUILD)/fuzz/replay_,$(FUZZERS)) ## the fuzz targets over tests/fuzz/corpus
	@for name in $(FUZZERS); do $(BUILD)/fuzz/replay_$$name tests/fuzz/corpus/$$name || exit 1; done

fuzz: ## libFuzzer on every target, FUZZ_SECONDS=10 each (needs clang)
	+@$(MAKE) --no-print-directory CC=clang SAN=fuzzer-no-link,address,undefined fuzz-run

# New inputs stay in build/; a crash is written to build/fuzz/ and belongs, once
# understood, into tests/fuzz/corpus/NAME.
fuzz-run: $(addprefix $(BUILD)/fuzz/fuzz_,$(FUZZERS))
	@for name in $(FUZZERS); do \
	  mkdir -p build/fuzz/corpus/$$name; \
	  echo "fuzz: $$name"; \
	  $(BUILD)/fuzz/fuzz_$$name -max_total_time=$(FUZZ_SECONDS) -timeout=10 -verbosity=0 \
	    -artifact_prefix=build/fuzz/$$name- build/fuzz/corpus/$$name $$(ls -d tests/fuzz/corpus/$$name 2>/dev/null) || exit 1; \
	done

## --- the source itself ---

ALL_C := $(SRC) $(wildcard proxy/main.c) $(call find_c,tests bench)
ALL_H  = $(shell find $(FOLDERS) tests bench -name '*.h' 2>/dev/null | LC_ALL=C sort)

.PHONY: layers format format-check lint
layers: ## fails when an #include points the wrong way
	@tools/layers

format: ## clang-format over all sources
	@clang-format -i $(ALL_C) $(ALL_H)

format-check: ## fails when format would change something
	@bad=$$(clang-format --dry-run $(ALL_C) $(ALL_H) 2>&1 | sed -n 's/^\([^: ]*\):.*/\1/p' | LC_ALL=C sort -u); \
	[ -z "$$bad" ] || { echo 'format-check: make format would change' $$bad; exit 1; }

lint: ## cppcheck and shellcheck
	cppcheck --quiet --std=c11 --enable=warning,portability --inline-suppr --error-exitcode=1 \
	  --suppress=missingIncludeSystem -D_GNU_SOURCE -I. $(SRC) $(wildcard proxy/main.c)
	shellcheck -x -P SCRIPTDIR $(shell grep -lE '^#!.*(ba)?sh' tools/* .ci/* bench/* 2>/dev/null)

# One entry a source file, for editors and clang tools.
compile_commands.json: Makefile $(ALL_C)
	@{ echo '['; separator=''; \
	for source in $(ALL_C); do \
	  printf '%b{"directory": "%s", "file": "%s", "command": "%s"}' "$$separator" '$(CURDIR)' "$$source" \
	    "$$(printf '%s' '$(CC) $(CPPFLAGS) -DHARNESS_PGBATON=\"\" $(CFLAGS) -c '"$$source" | sed 's/[\\"]/\\&/g')"; \
	  separator=',\n'; \
	done; echo; echo ']'; } > $@

.PHONY: clean
clean: ## removes build/
	rm -rf build compile_commands.json

-include $(patsubst %.c,$(BUILD)/%.d,$(ALL_C))
