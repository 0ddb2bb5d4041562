# Everything a person runs. Each target installs what it needs; a second run reuses it.
# JSON=1 prints one JSON object as the last line of any target's output, of a failed one too.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMPS := build/.stamps
RELEASE := build/release
JSON   ?=

NATIVE := $(shell find native agentd/kuasar/pb -name '*.proto' -o -path native/Makefile -o -name '*.[ch]' -o -name '*.pyx' -o -name '*.pxd' \
  -o -path 'native/*.py' 2>/dev/null)

SEEDS  ?= 10000
SEED   ?=
DEATHS ?= 1000
CPU_MINUTES ?= 10
MINUTES ?= 20
BASE ?= HEAD~1
ROUNDS ?= 16
SUITES ?=

.DEFAULT_GOAL := help

.PHONY: help
help:
	@echo 'usage: make TARGET [JSON=1]'
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: demo
demo: ## fork a warm VM before your eyes, then write build/demo/report.html
	@deploy/run-target '$(JSON)' $(PY) -m bench.demo

.PHONY: demo-cluster
demo-cluster: ## a Kubernetes of two nodes whose sessions start as forks
	@deploy/run-target '$(JSON)' $(PY) -m bench.demo_cluster

.PHONY: test
test: ## lint, types, layers, unit tests, real virtual machines, coverage
	@deploy/run-target '$(JSON)' $(PY) -m tests.run

.PHONY: test-kvm
test-kvm: ## the KVM path for real, in a virtual machine with nested virtualisation
	@deploy/run-target '$(JSON)' $(PY) -m tests.run --only kvm

.PHONY: test-systemd
test-systemd: ## the units under Debian's systemd, in a virtual machine with nested virtualisation
	@deploy/run-target '$(JSON)' $(PY) -m tests.run --only systemd

.PHONY: simulate
simulate: ## the control plane in SEEDS=10000 worlds that misbehave by seed
	@deploy/run-target '$(JSON)' $(PY) -m tests.simulation \
	  $(if $(SEED),--seed $(SEED),--quick --seeds $(SEEDS))

.PHONY: bench
bench: ## the promises and what they are made of, measured in ten minutes; FULL=1 for all samples
	@deploy/run-target '$(JSON)' $(PY) -m bench.suites $(if $(FULL),--form full)

.PHONY: lint
lint: native ## the style checks alone
	@$(PY) -m pytest tests/style -q

.PHONY: native
native: $(STAMPS)/native ## install what is needed, build the C core, make .venv

$(STAMPS)/system: deploy/install-system-packages
	@mkdir -p $(@D)
	@deploy/install-system-packages
	@touch $@

$(STAMPS)/venv: deploy/locks/dev.txt $(STAMPS)/system
	@echo 'installing Python packages into $(VENV)' >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'error: $(PYTHON) is not Python 3.11 or newer' >&2; \
	       echo 'hint: name one that is: make PYTHON=/usr/bin/python3.11' >&2; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r $< \
	  || { echo 'error: pip could not install what $< lists' >&2; \
	       echo 'hint: look at its words above; it needs a package index (pip config list)' >&2; \
	       exit 1; }
	@touch $@

$(STAMPS)/native: setup.py $(NATIVE) $(STAMPS)/venv
	@echo 'building the native core' >&2
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e . \
	  || { echo 'error: the C core did not build; the compiler said why above' >&2; \
	       echo 'hint: make clean, then again; if it persists report it as a defect' >&2; exit 1; }
	@touch $@

.PHONY: bench-kuasar
bench-kuasar: ## what agentd adds to a call of a Kuasar sandboxer, a stand-in
	@deploy/run-target '$(JSON)' $(PY) -m bench.kuasar

.PHONY: bench-pager
bench-pager: ## the page server against the smallest C loop, the kernel, and its limits
	@deploy/run-target '$(JSON)' $(PY) -m bench.pager

.PHONY: bench-regress
bench-regress: ## this checkout against BASE=HEAD~1, in ROUNDS=16 rounds; status 3 when a series is worse
	@deploy/run-target '$(JSON)' $(PY) -m bench.compare $(BASE) --rounds $(ROUNDS) \
	  $(addprefix --suite ,$(SUITES))

.PHONY: bench-compare-proof
bench-compare-proof: ## a slow-down of 15 % in a real build is found, 20 comparisons of equal builds are calm
	@deploy/run-target '$(JSON)' $(PY) -m bench.compare.proof

.PHONY: bench-instructions
bench-instructions: ## instructions of the pure-CPU series under callgrind, against their budgets
	@deploy/run-target '$(JSON)' $(PY) -m bench.instructions

.PHONY: release
release: $(STAMPS)/release ## the tools that make and judge packages, in build/release

$(STAMPS)/release: $(STAMPS)/release-tools
	@deploy/install-system-packages git debootstrap buildah
	@touch $@

.PHONY: release-tools
release-tools: $(STAMPS)/release-tools

$(STAMPS)/release-tools: deploy/locks/release.txt $(STAMPS)/system
	@echo 'installing the tools of releases into $(RELEASE)' >&2
	@test -x $(RELEASE)/bin/python || $(PYTHON) -m venv $(RELEASE)
	@$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

.PHONY: package
package: ## wheel, sdist, pins, component list of the last commit, in dist/
	@NEEDS='native release' deploy/run-target '$(JSON)' $(PY) -m tests.package --only-build dist

.PHONY: lock
lock: release ## pin anew, with hashes, what pyproject.toml asks for: deploy/locks/
	@PATH="$(CURDIR)/$(RELEASE)/bin:$$PATH" deploy/lock

.PHONY: audit
audit: ## ask for known vulnerabilities of what is pinned; status 4 if nobody could be asked, 0 with IF_REACHABLE=1
	@NEEDS='native release-tools' deploy/run-target '$(JSON)' $(PY) -m tests.package.audit \
	  $(if $(IF_REACHABLE),--if-reachable)

.PHONY: test-package
test-package: ## install, use, remove wheel and sdist on a clean Debian
	@NEEDS='native release' deploy/run-target '$(JSON)' $(PY) -m tests.package

.PHONY: test-image
test-image: ## build the container images, look into them, fork a machine in one
	@NEEDS='native release' deploy/run-target '$(JSON)' $(PY) -m tests.package.image

.PHONY: torture
torture: ## kill the page server DEATHS=1000 times under machines that verify every byte
	@deploy/run-target '$(JSON)' $(PY) -m tests.torture --deaths $(DEATHS) \
	  $(if $(SEED),--seed $(SEED))

.PHONY: docs-reference
docs-reference: native ## docs/reference, made of the code
	@$(PY) -m tests.docs.reference

.PHONY: docs
docs: native ## the pages of docs/ as a site in build/docs-site
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet -f deploy/docs-site/mkdocs.yml -d $(CURDIR)/build/docs-site
	@echo 'wrote build/docs-site/index.html'

.PHONY: test-upgrade
test-upgrade: ## replace agentd, page server, control plane under load, to another build (REVISION=) and back
	@deploy/run-target '$(JSON)' $(PY) -m tests.upgrade $(if $(REVISION),--revision $(REVISION))

.PHONY: bench-cold
bench-cold: ## what a disk costs the first fork of a template after a start of agentd
	@deploy/run-target '$(JSON)' $(PY) -m bench.pager.qemu_cold

.PHONY: fuzz
fuzz: ## the page server's parsers under libFuzzer for CPU_MINUTES=10 in all
	@deploy/run-target '$(JSON)' $(PY) -m tests.fuzz --cpu-minutes $(CPU_MINUTES)

.PHONY: soak
soak: ## use a node for MINUTES=20, see that nothing grows; build/soak/report.html
	@deploy/run-target '$(JSON)' $(PY) -m bench.soak --minutes $(MINUTES)

.PHONY: validate
validate: ## the validation plan: cold, restored, failing, many at once, lost nodes (FULL=1); build/validate
	@deploy/run-target '$(JSON)' $(PY) -m bench.validate $(if $(FULL),--full)

.PHONY: clean
clean: ## remove what was built and fetched
	rm -rf build $(VENV) agentd/*.so agentd/snap-pager agentd/kuasar/pb/*_pb2.py* native/build native/shim/*.c agentd/_version.py dist
