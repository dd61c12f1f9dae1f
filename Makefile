# The commands of the project. `make demo` and `make test` install what they need when run as root, and say what is
# missing otherwise. Everything that is built lands in .venv, build/ or the cache outside the checkout.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

BIN := $(CURDIR)/.venv/bin
PYTHON ?= python3
export PATH := $(BIN):$(PATH)
export INFERHOST_CACHE ?= $(HOME)/.cache/inferhost
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
# Tests have names and ports of their own, so that they never meet a running demo.
TEST_ENV := INFERHOST_SANDBOX_NAME=inferhost-test INFERHOST_SANDBOX_PORT=22122
COLLECTION := collections/ansible_collections/ansible/posix/MANIFEST.json

.PHONY: setup packages demo test test-programs test-hosts test-python test-py39 test-bed test-molecule test-nix test-vm test-slow perf lint generate reality clean

setup: packages .venv/ready $(COLLECTION)

# Silent and quick when nothing is missing.
packages:
	@tests/bed/bed install

.venv/ready: requirements.lock pyproject.toml | packages
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --require-hashes -r requirements.lock
	.venv/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(COLLECTION): collections/ansible.lock collections/requirements.yml | .venv/ready
	mkdir -p "$(INFERHOST_CACHE)/wheels"
	.venv/bin/pip download --quiet --no-deps --require-hashes --dest "$(INFERHOST_CACHE)/wheels" -r collections/ansible.lock
	.venv/bin/python collections/extract.py "$(INFERHOST_CACHE)/wheels"
	touch $@

demo: setup
	@tests/bed/demo

# Two at a time, of about the same length: what runs here, and what runs on sandbox hosts. The output of each part comes
# whole, when it is done.
test: setup lint
	@echo "two halves run side by side; each part prints when it is done (about 15 minutes)"
	+@$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-programs test-hosts

test-programs: setup
	+@$(MAKE) --no-print-directory test-python
	+@$(MAKE) --no-print-directory test-py39

test-hosts: setup
	+@$(MAKE) --no-print-directory test-bed
	+@$(MAKE) --no-print-directory test-molecule

test-python: setup
	.venv/bin/python -m pytest tests --ignore tests/bed

test-py39: setup
	tests/py39

test-bed: setup
	$(TEST_ENV) .venv/bin/python -m pytest tests/bed

test-molecule: setup
	for twin in default c220g5 rtx5090; do $(TEST_ENV) .venv/bin/molecule test --scenario-name $$twin; done

# Part of test-python as well; alone it is quick, and says which tiers ran.
test-nix: setup
	.venv/bin/python -m pytest tests/nix

test-vm: setup
	@tests/vm/vm install
	.venv/bin/python -m pytest tests/vm/test_*.py

perf: setup
	.venv/bin/python -m tests.perf.plans
	.venv/bin/python -m tests.perf.boot

# Every cell of the fault matrices, of which `make test` takes a fixed part; it prints how many. Then what takes
# minutes on containers: real driver packages, container engines, balancers, engines that do not start.
test-slow: setup
	INFERHOST_SLOW=1 .venv/bin/python -m pytest tests/faults
	$(TEST_ENV) INFERHOST_SLOW=1 .venv/bin/python -m pytest tests/slow/test_*.py

lint: setup
	.venv/bin/python -m inferhost.schema.generate --check
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/yamllint --strict .
	.venv/bin/ansible-lint --offline
	shellcheck .ci/run $$(git ls-files -co --exclude-standard tests | xargs -r grep -lE '^#!/(usr/)?bin/(env )?(ba)?sh')

generate: setup
	.venv/bin/python -m inferhost.schema.generate

# How far the predictions are off published figures: docs/accuracy.md.
reality: setup
	.venv/bin/python -m tests.reality.render

clean:
	tests/vm/vm clean
	tests/bed/bed clean
	rm -rf .venv build collections/ansible_collections
