# `make` alone lists what there is. Everything needs no more than Linux, Python 3.11, git and make.
.DEFAULT_GOAL := help
SHELL := /bin/sh
.DELETE_ON_ERROR:

# The first of these that is new enough. Or say: make run PYTHON=/path/to/python3.12
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
# An activated environment of another project, or its PYTHONPATH, must not leak into this one.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

LOCAL := $(VENV)/.installed-local
DEV := $(VENV)/.installed-dev
BENCH := $(VENV)/.installed-bench
BUILD_INPUTS := pyproject.toml protos/generate.py $(shell find protos/credmesh -name '*.proto')
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

CREDMESH := $(BIN)/credmesh

## The mesh on this machine

.PHONY: run
run: $(LOCAL) ## start the whole mesh on this machine and keep it up until Ctrl-C
	@$(BIN)/python -m localmesh up

.PHONY: demo
demo: $(LOCAL) ## play the story on the mesh that is up, or on one of its own; figures in build/demo.json
	@$(BIN)/python -m localmesh demo

.PHONY: down
down: $(LOCAL) ## stop the mesh that another terminal runs
	@$(BIN)/python -m localmesh down

.PHONY: status
status: $(LOCAL) ## show the parts of the mesh that is up
	@$(BIN)/python -m localmesh status

.PHONY: clean
clean: ## forget the mesh's data, its secrets, and what was built
	@if [ -S .mesh/control.sock ] && [ -x $(BIN)/python ]; then $(BIN)/python -m localmesh down 2>/dev/null || true; fi
	@rm -rf .mesh build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@echo "the mesh's data and everything built are gone ($(VENV) is kept: make distclean)"

.PHONY: distclean
distclean: clean ## the same, and the virtual environment and the generated code
	@rm -rf $(VENV)
	@find protos \( -name '*_pb2*.py' -o -name '*_pb2*.pyi' \) -delete

## Operating it

.PHONY: login
login: $(LOCAL) ## sign in: make login [SUBJECT=alice]
	@$(CREDMESH) login $(or $(SUBJECT),alice)

.PHONY: keys
keys: $(LOCAL) ## the signing keys
	@$(CREDMESH) keys

.PHONY: rotate-keys
rotate-keys: $(LOCAL) ## a new signing key, without refusing a call: make rotate-keys [ALGORITHM=ES256] [WATCH=1]
	@$(CREDMESH) rotate-keys $(if $(ALGORITHM),--algorithm $(ALGORITHM)) $(if $(WATCH),--watch)

.PHONY: revoke-key
revoke-key: $(LOCAL) ## remove a key at once: make revoke-key KID=… [WAIT=1]
	@test -n "$(KID)" || { echo "which key? make revoke-key KID=… (make keys lists them)" >&2; exit 2; }
	@$(CREDMESH) revoke-key "$(KID)" $(if $(WAIT),--wait)

.PHONY: revoke
revoke: $(LOCAL) ## revoke: make revoke SUBJECT=alice | SESSION=… | CLIENT=… | AUDIENCE=… | EVERYONE=1 [YES=1] [WAIT=1]
	@test -n "$(SUBJECT)$(SESSION)$(CLIENT)$(AUDIENCE)$(EVERYONE)" || \
		{ echo "whom? make revoke SUBJECT=alice (or SESSION=…, CLIENT=…, AUDIENCE=…, EVERYONE=1)" >&2; exit 2; }
	@$(CREDMESH) revoke $(if $(SUBJECT),--subject "$(SUBJECT)") $(if $(SESSION),--session "$(SESSION)") \
		$(if $(CLIENT),--client "$(CLIENT)") $(if $(AUDIENCE),--audience "$(AUDIENCE)") $(if $(EVERYONE),--everyone) \
		$(if $(YES),--yes) $(if $(WAIT),--wait)

.PHONY: sessions
sessions: $(LOCAL) ## the live sessions: make sessions [SUBJECT=alice]
	@$(CREDMESH) sessions $(if $(SUBJECT),--subject "$(SUBJECT)")

.PHONY: kick
kick: $(LOCAL) ## end one session: make kick SESSION=… [WAIT=1]
	@test -n "$(SESSION)" || { echo "which session? make kick SESSION=… (make sessions lists them)" >&2; exit 2; }
	@$(CREDMESH) kick "$(SESSION)" $(if $(WAIT),--wait)

.PHONY: nodes
nodes: $(LOCAL) ## the nodes that verify credentials, how fresh each is, asked just now
	@$(CREDMESH) nodes --probe

.PHONY: history
history: $(LOCAL) ## whether etcd was ever restored from a backup, and what was done about it
	@$(CREDMESH) history

## Working on it

.PHONY: test
test: $(DEV) ## everything needed to run the tests, and the tests: make test [ARGS="-k revoked"]
	@$(BIN)/python -m pytest -n $(or $(WORKERS),2) $(ARGS)

.PHONY: model
model: $(VENV)/.made ## search the protocol for a broken promise, in every state: make model [NAME=clock-sleeps]
	@$(BIN)/python -m model $(NAME)

.PHONY: chaos
chaos: $(LOCAL) ## faults on a mesh, and whether its promises hold: make chaos [SEED=7] [MINUTES=3] [PLANT=epoch-ignored@node-1]
	@$(BIN)/python -m chaos $(if $(SEED),--seed $(SEED)) --minutes $(or $(MINUTES),3) \
		$(foreach bug,$(PLANT),--plant $(bug)) $(ARGS)

.PHONY: check
check: lint format-check types proto-lint ## what is checked without running anything

.PHONY: lint
lint: $(DEV) ## ruff
	@$(BIN)/ruff check

.PHONY: format
format: $(DEV) ## bring the code into its form
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format

.PHONY: format-check
format-check: $(DEV) ## whether `make format` would change anything
	@$(BIN)/ruff format --check

.PHONY: types
types: $(DEV) ## mypy, strict
	@$(BIN)/mypy

.PHONY: bench
bench: $(BENCH) ## what a call costs, beside what others would pick: make bench [QUICK=1]; figures in build/bench.json
	@$(BIN)/python -m bench --scale $(if $(QUICK),quick,full)

.PHONY: bench-check
bench-check: $(BENCH) ## that the benchmark runs and leaves its figures, whatever they are: a quick one (two minutes)
	@rm -f build/bench.json
	@$(BIN)/python -m bench --scale quick
	@test -s build/bench.json

.PHONY: docs
docs: $(DEV) ## write docs/configuration.md anew from the settings
	@$(BIN)/python docs/configuration.py

.PHONY: proto
proto: $(DEV) ## generate the Python modules of protos/ anew
	@$(BIN)/python protos/generate.py

.PHONY: proto-lint
proto-lint: $(DEV) ## buf's STANDARD rules
	@cd protos && ../$(BIN)/buf lint

.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } \
		/^## / { printf "\n\033[1m%s\033[0m\n", substr($$0, 4) } \
		/^[a-z-]+:.*## / { printf "  \033[36mmake %-12s\033[0m %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# Behind the scenes

$(VENV)/.made:
	@test "$$(uname -s)" = Linux || { \
		echo "credmesh needs Linux (its kernel ends what a killed mesh leaves behind); this is $$(uname -s)." >&2; \
		echo "On another system use a virtual machine or a container with Linux in it." >&2; exit 1; }
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "credmesh needs Python 3.11 or newer; $(or $(PYTHON),python3) is $$($(or $(PYTHON),python3) --version 2>&1)." >&2; \
		echo "Install one, or say where it is: make $(or $(MAKECMDGOALS),run) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@# One that is there and works is kept; one that was interrupted half-way is made anew.
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		echo "making $(VENV) with $$($(PYTHON) --version)"; rm -rf $(VENV); $(PYTHON) -m venv $(VENV) || { \
		echo "python -m venv failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }; }
	@touch $@

$(LOCAL): $(VENV)/.made $(BUILD_INPUTS)
	@echo "installing credmesh and what a mesh on this machine needs (once; a minute or so)"
	@$(PIP) install --editable '.[local]'
	@touch $@

$(BENCH): $(VENV)/.made $(BUILD_INPUTS)
	@echo "installing credmesh and what its benchmark needs, Envoy among it (once; a minute or two)"
	@$(PIP) install --editable '.[bench]'
	@touch $@ $(LOCAL)

$(DEV): $(VENV)/.made $(BUILD_INPUTS)
	@echo "installing credmesh and what its tests need (once; a minute or so)"
	@$(PIP) install --editable '.[dev]'
	@touch $@ $(LOCAL)
