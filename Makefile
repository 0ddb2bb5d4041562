# Everything a person runs. Each target installs what it needs; a second run reuses it.
# JSON=1 prints one JSON object as the last line of any target's output.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMPS := build/.stamps
JSON   ?=

NATIVE := $(shell find native -name '*.[ch]' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.py' 2>/dev/null)

.PHONY: help demo test test-kvm bench lint native clean
.DEFAULT_GOAL := help

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: native ## fork a warm VM before your eyes, then write build/demo/report.html
	@$(PY) -m bench.demo $(if $(JSON),--json)

test: native ## lint, types, layers, unit tests, real virtual machines, coverage
	@$(PY) -m tests.run $(if $(JSON),--json)

test-kvm: native ## the KVM path for real, in a virtual machine with nested virtualisation
	@$(PY) -m tests.run --kvm $(if $(JSON),--json)

bench: native ## the latency and memory promises, measured on this machine
	@$(PY) -m bench.promises $(if $(JSON),--json)

lint: native ## the style checks alone
	@$(PY) -m pytest tests/style -q

native: $(STAMPS)/native

$(STAMPS)/system: deploy/install-system-packages
	@mkdir -p $(@D)
	@deploy/install-system-packages
	@touch $@

$(STAMPS)/venv: pyproject.toml $(STAMPS)/system
	@echo 'installing Python packages into $(VENV)' >&2
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'Python 3.11 or newer is needed; set PYTHON=' >&2; exit 1; }
	@$(PY) deploy/requirements pyproject.toml > build/requirements.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check -r build/requirements.txt
	@touch $@

$(STAMPS)/native: setup.py $(NATIVE) $(STAMPS)/venv
	@echo 'building the native core' >&2
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

clean: ## remove what was built, keep the caches of packages
	rm -rf build $(VENV) agentd/*.so native/build native/shim/*.c
