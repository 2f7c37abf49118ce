# Everything that is done by hand or by the continuous integration. `make` alone lists it.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CODE   := pipeline generation training evaluation flows benchmarks tests

# Where this is set, as many containers do, every process parses the libraries again: importing torch, diffusers and
# transformers takes 24 s of CPU instead of 10. With bytecode the first process that imports a module writes it for all
# others: 67 MB for those three. `uv pip sync --compile-bytecode` would write 560 MB in 140 s of CPU, most of it never read.
export PYTHONDONTWRITEBYTECODE :=

##@ Use
demo: install ## install, then the main job: label maps -> images -> segmenters -> report
	@$(BIN)/flexseg run toy

install: $(VENV)/.installed ## make .venv from requirements.lock, hashes checked

##@ Develop
test: install ## the quick tests, in two processes
	@$(BIN)/pytest -m "not slow" --numprocesses=2 --dist=loadfile

test-slow: install ## the slow tests
	@$(BIN)/pytest -m slow

rehearsal: install ## the gta presets at true size with random weights, on a CPU: 20 GB of disk, 24 GB of memory
	@$(BIN)/python -m benchmarks.rehearsal

coverage: install ## the quick tests with the lines that they leave out
	@$(BIN)/pytest -m "not slow" --cov --cov-report=term-missing:skip-covered

check: install check-manifests ## lint, format, types, import rules, the files that other programs read
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

check-manifests: install ## the files of docker/, .github/ and the like against their schemas
	@$(BIN)/hadolint docker/Dockerfile
	@$(BIN)/shellcheck docker/slurm/flexseg.sbatch .ci/run
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker/compose.yaml
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/ci.yaml
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.citation-file-format CITATION.cff
	@$(BIN)/python -m tests.docker.manifests
	@compose=; docker compose version >/dev/null 2>&1 && compose="docker compose"; \
	[[ -n $$compose ]] || ! command -v docker-compose >/dev/null || compose=docker-compose; \
	if [[ -n $$compose ]]; then \
		DATABASE_PASSWORD=x OBJECTS_USER=x OBJECTS_PASSWORD=x $$compose --file docker/compose.yaml config --quiet; \
	else \
		echo "docker/compose.yaml: valid by its schema; no docker compose here that would read it"; \
	fi

format: install ## apply the format and the safe lint fixes
	@$(BIN)/ruff check --fix $(CODE)
	@$(BIN)/ruff format $(CODE)

lock: install ## write requirements.lock anew from pyproject.toml; versions stay where they may
	@$(BIN)/uv pip compile pyproject.toml --extra kubernetes --group dev --universal --generate-hashes --quiet -o requirements.lock

clean: ## remove what tools left behind; .venv, cache/ and runs/ stay
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	@rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage

help: ## this list
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' \
		$(firstword $(MAKEFILE_LIST))

# --- installation ---------------------------------------------------------------------------------------------------
# uv installs the lock in seconds where pip needs minutes. pip brings only uv, at the version and hashes of the lock.

$(VENV)/.installed: requirements.lock pyproject.toml | $(BIN)/uv
	@$(BIN)/uv pip sync --python $(BIN)/python --require-hashes requirements.lock
	@$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(BIN)/uv: | $(BIN)/python
	@$(BIN)/python -m ensurepip >/dev/null
	@awk '/^[^ ]/ { uv = /^uv==/ } uv' requirements.lock > $(VENV)/uv.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $(VENV)/uv.txt

# Debian and Ubuntu ship python3 without ensurepip; python3.N-venv brings it.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$$($(PYTHON) --version 2>&1) found, 3.11 or newer wanted: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
		package=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
		sudo=; [[ $$(id -u) = 0 ]] || sudo="sudo -n"; \
		{ command -v apt-get && $$sudo true; } >/dev/null 2>&1 || { \
			echo "$(PYTHON) has no ensurepip: sudo apt-get install $$package, then make $(MAKECMDGOALS) again" >&2; exit 1; }; \
		echo "installing $$package"; \
		$$sudo apt-get update -qq; \
		$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$package >/dev/null; }
	@$(PYTHON) -m venv --without-pip $(VENV)

.PHONY: demo install test test-slow rehearsal coverage check check-manifests format lock clean help
