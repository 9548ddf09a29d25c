# `make demo` and `make test` are all a fresh clone needs: each sets up .venv first when that is missing or out of date.

# The Python that .venv is made with; used only then. Example: make venv PYTHON=python3.12
PYTHON ?= python3
# Passed on to pytest, to the campaign of faults, or to the fuzzer. Example: make test ARGS="tests/cli -x"
ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed
HASHED = $(BIN)/python -m pip install --require-hashes

# The Python that tests on a GPU run with: one that is named on the command line, with the packages that it has, as a
# machine with a GPU may have no network. Warnings of other versions than the tested ones are no errors then.
ifneq ($(filter command environment,$(origin PYTHON)),)
CUDA_PYTHON := $(PYTHON)
CUDA_WARNINGS := -W default
else
CUDA_PYTHON := $(BIN)/python
test-cuda: venv
endif

.DEFAULT_GOAL := help
.PHONY: help demo demo-llm test test-all test-cuda test-pythons release-check bench faults fuzz architectures commands docs check venv lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: venv ## Train, merge, export and swap adapters on a real model
	$(BIN)/python -m samples.demo

demo-llm: venv ## The same for a language model: train, export, generate, prove, measure
	$(BIN)/python -m samples.demo_llm

test: venv ## Run the tests, a file at a time on each core
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(ARGS)

test-all: venv ## Run the tests with all cases of each, some half an hour more
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile -m "" $(ARGS)

test-cuda: ## Run the tests that need a GPU (PYTHON=python3: with its packages, without making .venv)
	$(CUDA_PYTHON) -m pytest tests/cuda -m cuda -ra --durations=10 $(CUDA_WARNINGS) $(ARGS)

test-pythons: venv ## Run the tests on 3.10, 3.12 and 3.13 (on PATH), and write docs/pythons.md; some GB each
	$(BIN)/python -m tests.pythons $(ARGS)

release-check: ## Build the package, check it, and use it from clean environments of each Python (on PATH)
	$(PYTHON) .ci/release.py $(ARGS)

bench: venv ## Measure latency, swapping and export side by side
	$(BIN)/python -m benchmarks

faults: venv ## Make writes, signals and threads go wrong, and write docs/reliability.md
	$(BIN)/python -m tests.faults $(ARGS)

fuzz: venv ## Look for input that a parser fails on, ten minutes long, guided by the lines that it reaches
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install -c constraints.txt -e '.[fuzz]'
	$(BIN)/python -m tests.fuzz $(ARGS)

architectures: venv ## Measure every architecture and write docs/architectures.md
	$(BIN)/python -m benchmarks.architectures

commands: venv ## Write docs/commands.md, the reference of the command line
	$(BIN)/python -m docs._commands

docs: ## Build the pages into build/site; a warning or a broken link is an error
	$(PYTHON) -m venv .cache/docs-venv
	@# The extra by itself: with the package, pip would install all that serves a bundle.
	sed -n 's/^docs = \[\(.*\)\]/\1/p' pyproject.toml | tr -d '" ' | tr ',' '\n' > .cache/docs-venv/requirements.txt
	.cache/docs-venv/bin/python -m pip install --quiet -r .cache/docs-venv/requirements.txt
	.cache/docs-venv/bin/python docs/_site.py
	.cache/docs-venv/bin/zensical build --clean --strict --config-file build/zensical.toml
	@echo "build/site/index.html"

check: venv ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

venv: $(INSTALLED) ## Set up .venv with everything, in the tested versions

$(INSTALLED): pyproject.toml constraints.txt requirements.lock requirements-cpu.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: Python 3.10 or newer is needed and '$(PYTHON)' is not; name one: make venv PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up .venv: some minutes and some GB, once"
	$(PYTHON) -m venv .venv
	$(HASHED) -r requirements-cpu.lock || $(HASHED) -r requirements.lock || \
		{ echo "No hashes of requirements.lock fit what pip finds here: installing the versions of constraints.txt unchecked" >&2; \
		$(BIN)/python -m pip install -c constraints.txt 'setuptools>=77.0.3' '.[all,test,dev]'; }
	$(BIN)/python -m pip install --no-deps --no-build-isolation -e .
	@touch $@

lock: ## Write the lock files and constraints.txt anew (ARGS=--upgrade for newer versions)
	$(PYTHON) -m venv .cache/lock
	.cache/lock/bin/python -m pip install --quiet uv
	.cache/lock/bin/python .ci/lock.py $(ARGS)

clean: ## Remove everything made here: .venv, downloads, caches, outputs
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build dist out *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
