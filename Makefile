# `make` alone lists the targets. They need only Linux, Python 3.11 or newer, git and make.
.DEFAULT_GOAL := help
SHELL := /bin/sh
.DELETE_ON_ERROR:

# The first of these that is new enough. To choose another: make run PYTHON=/path/to/python3.12
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
# The activated environment of another project, or its PYTHONPATH, must not affect this one.
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
demo: $(LOCAL) ## show the features on the running mesh, or on a new one; figures in build/demo.json
	@$(BIN)/python -m localmesh demo

.PHONY: down
down: $(LOCAL) ## stop the mesh that runs in another terminal
	@$(BIN)/python -m localmesh down

.PHONY: status
status: $(LOCAL) ## show the parts of the running mesh
	@$(BIN)/python -m localmesh status

.PHONY: clean
clean: ## delete the mesh's data, its secrets, and what was built
	@if [ -S .mesh/control.sock ] && [ -x $(BIN)/python ]; then $(BIN)/python -m localmesh down 2>/dev/null || true; fi
	@rm -rf .mesh build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@echo "deleted the mesh's data and what was built ($(VENV) is kept; make distclean deletes it too)"

.PHONY: distclean
distclean: clean ## clean, and delete the virtual environment and the generated code
	@rm -rf $(VENV)
	@find protos \( -name '*_pb2*.py' -o -name '*_pb2*.pyi' \) -delete

## Operating the mesh

.PHONY: login
login: $(LOCAL) ## sign in: make login [SUBJECT=alice]
	@$(CREDMESH) login $(or $(SUBJECT),alice)

.PHONY: keys
keys: $(LOCAL) ## list the signing keys
	@$(CREDMESH) keys

.PHONY: rotate-keys
rotate-keys: $(LOCAL) ## replace the signing key without refusing a call: make rotate-keys [ALGORITHM=ES256] [WATCH=1]
	@$(CREDMESH) rotate-keys $(if $(ALGORITHM),--algorithm $(ALGORITHM)) $(if $(WATCH),--watch)

.PHONY: revoke-key
revoke-key: $(LOCAL) ## remove a key at once: make revoke-key KID=… [WAIT=1]
	@test -n "$(KID)" || { echo "which key? make revoke-key KID=… (make keys lists the keys)" >&2; exit 2; }
	@$(CREDMESH) revoke-key "$(KID)" $(if $(WAIT),--wait)

.PHONY: revoke
revoke: $(LOCAL) ## revoke credentials: make revoke SUBJECT=alice | SESSION=… | CLIENT=… | AUDIENCE=… | EVERYONE=1 [YES=1] [WAIT=1]
	@test -n "$(SUBJECT)$(SESSION)$(CLIENT)$(AUDIENCE)$(EVERYONE)" || \
		{ echo "revoke whom? make revoke SUBJECT=alice (or SESSION=…, CLIENT=…, AUDIENCE=…, EVERYONE=1)" >&2; exit 2; }
	@$(CREDMESH) revoke $(if $(SUBJECT),--subject "$(SUBJECT)") $(if $(SESSION),--session "$(SESSION)") \
		$(if $(CLIENT),--client "$(CLIENT)") $(if $(AUDIENCE),--audience "$(AUDIENCE)") $(if $(EVERYONE),--everyone) \
		$(if $(YES),--yes) $(if $(WAIT),--wait)

.PHONY: sessions
sessions: $(LOCAL) ## list the live sessions: make sessions [SUBJECT=alice]
	@$(CREDMESH) sessions $(if $(SUBJECT),--subject "$(SUBJECT)")

.PHONY: kick
kick: $(LOCAL) ## end one session: make kick SESSION=… [WAIT=1]
	@test -n "$(SESSION)" || { echo "which session? make kick SESSION=… (make sessions lists the sessions)" >&2; exit 2; }
	@$(CREDMESH) kick "$(SESSION)" $(if $(WAIT),--wait)

.PHONY: nodes
nodes: $(LOCAL) ## list the nodes that verify credentials, with the freshness of each
	@$(CREDMESH) nodes --probe

.PHONY: history
history: $(LOCAL) ## show whether etcd has lost a part of its history, and how the mesh answered
	@$(CREDMESH) history

## Developing

.PHONY: test
test: $(DEV) ## install what the tests need, and run the tests: make test [ARGS="-k revoked"]
	@$(BIN)/python -m pytest -n $(or $(WORKERS),4) --dist worksteal $(ARGS)

.PHONY: model
model: $(VENV)/.made ## search every state of the protocol's model for a broken promise: make model [NAME=clock-sleeps]
	@$(BIN)/python -m model $(NAME)

.PHONY: chaos
chaos: $(LOCAL) ## inject faults into a mesh, and check its promises: make chaos [SEED=7] [MINUTES=3] [PLANT=epoch-ignored@node-1]
	@$(BIN)/python -m chaos $(if $(SEED),--seed $(SEED)) --minutes $(or $(MINUTES),3) \
		$(foreach bug,$(PLANT),--plant $(bug)) $(ARGS)

.PHONY: check
check: lint format-check types proto-lint ## all checks that run none of the code

.PHONY: lint
lint: $(DEV) ## lint with ruff
	@$(BIN)/ruff check

.PHONY: format
format: $(DEV) ## format the code
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format

.PHONY: format-check
format-check: $(DEV) ## check that `make format` would change nothing
	@$(BIN)/ruff format --check

.PHONY: types
types: $(DEV) ## check the types with mypy, strict
	@$(BIN)/mypy

.PHONY: bench
bench: $(BENCH) ## measure what a call costs, compared with the alternatives: make bench [QUICK=1]; figures in build/bench.json
	@$(BIN)/python -m bench --scale $(if $(QUICK),quick,full)

.PHONY: bench-check
bench-check: $(DEV) $(BENCH) ## run the quick benchmark, and check its rows but not their figures (two minutes)
	@$(BIN)/python -m pytest -s tests/bench/check_quick_run.py

.PHONY: docs
docs: $(DEV) ## generate docs/configuration.md from the settings
	@$(BIN)/python docs/configuration.py

.PHONY: proto
proto: $(DEV) ## generate the Python modules of protos/
	@$(BIN)/python protos/generate.py

.PHONY: proto-lint
proto-lint: $(DEV) ## check protos/ with buf's STANDARD rules
	@cd protos && ../$(BIN)/buf lint

.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } \
		/^## / { printf "\n\033[1m%s\033[0m\n", substr($$0, 4) } \
		/^[a-z-]+:.*## / { printf "  \033[36mmake %-12s\033[0m %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# Installing

$(VENV)/.made:
	@test "$$(uname -s)" = Linux || { \
		echo "credmesh needs Linux, whose kernel ends the processes of a killed mesh; this is $$(uname -s)." >&2; \
		echo "On another system use a virtual machine or a container with Linux." >&2; exit 1; }
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "credmesh needs Python 3.11 or newer; $(or $(PYTHON),python3) is $$($(or $(PYTHON),python3) --version 2>&1)." >&2; \
		echo "Install it, or give its path: make $(or $(MAKECMDGOALS),run) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@# An environment that works is kept. One whose creation was interrupted is made again.
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		echo "making $(VENV) with $$($(PYTHON) --version)"; rm -rf $(VENV); $(PYTHON) -m venv $(VENV) || { \
		echo "python -m venv failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }; }
	@touch $@

$(LOCAL): $(VENV)/.made $(BUILD_INPUTS)
	@echo "installing credmesh and what a mesh on this machine needs (once; about a minute)"
	@$(PIP) install --editable '.[local]'
	@touch $@

$(BENCH): $(VENV)/.made $(BUILD_INPUTS)
	@echo "installing credmesh and what the benchmark needs, such as Envoy (once; one to two minutes)"
	@$(PIP) install --editable '.[bench]'
	@touch $@ $(LOCAL)

$(DEV): $(VENV)/.made $(BUILD_INPUTS)
	@echo "installing credmesh and what the tests need (once; about a minute)"
	@$(PIP) install --editable '.[dev]'
	@touch $@ $(LOCAL)
