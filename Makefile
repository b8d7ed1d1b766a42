# Two commands do everything on a fresh machine with Python 3.11 or 3.12, git and make: `make demo` and `make test`.
# All software goes into .venv, from the lock file; uv itself too, if the machine has none.

# The first Python that starts and is 3.11 or 3.12 (a name on PATH may be a shim for a version that is not there).
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$p && break; done)
UV := $(shell command -v uv 2>/dev/null)
ifeq ($(UV),)
UV := .uv/bin/uv
endif
RUN := .venv/bin

export OMP_NUM_THREADS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint bench clean

help:           ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/ —/'

.uv/bin/uv:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed: install it, or give make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5'

.venv/.synced: pyproject.toml uv.lock | $(filter .uv/bin/uv,$(UV))
	$(UV) sync --locked --extra hf --extra vad --extra judge --python $(PYTHON)
	@touch $@

install: .venv/.synced  ## install everything into .venv

demo: install   ## the main job: from real speech to a talking model, about ten minutes on two cores
	$(RUN)/lst run recipes/demo.yaml

lint: install   ## ruff and mypy --strict
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

test: lint      ## linters, then the fast tests with coverage
	$(RUN)/pytest --cov --cov-report=term:skip-covered --cov-fail-under=85

test-all: lint  ## every test, the slow ones too
	$(RUN)/pytest -m "slow or not slow"

bench: install  ## speed and size, one JSON line per figure
	$(RUN)/python -m benchmarks

clean:          ## remove what was installed and made (not your data)
	rm -rf .venv .uv outputs
