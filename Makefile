# Everything is installed into .venv at the root; each target sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin
EXTRAS ?= train
RUNS ?= runs/seedling
SOURCES := prompts labels server finetune seedling tests benchmarks examples docs

TSC := .venv/node/node_modules/.bin/tsc

.PHONY: help install setup demo serve test field test-slow test-ray lint scripts types format docs wheel seedling seedling-report bench reliability loop clean
.DEFAULT_GOAL := help

help:  ## Lists the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 20

install:  ## Installs what a server needs (used by the Dockerfile); EXTRAS are extras (train), PIP_ARGS is passed to pip.
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install $(PIP_ARGS) 'setuptools>=77' wheel .
ifneq ($(EXTRAS),)
	# flash-attn, of the extra gpu, builds against the torch that is already installed.
	$(BIN)/pip install $(PIP_ARGS) --no-build-isolation '.[$(EXTRAS)]'
endif

.venv/serve: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[train]'
	touch $@

.venv/dev: .venv/serve
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

setup: .venv/dev  ## Installs florist and the development tools into .venv.

demo: .venv/serve  ## Draws unseen scenes, serves the seedling, sends prompts over HTTP, labels the folder.
	$(BIN)/python -m server.cli.demo --out demo

serve: .venv/serve  ## Serves the seedling on port 8000, with jobs and projects in served/.
	$(BIN)/florist serve --jobs-folder served/jobs --projects-folder served/projects --adapters-folder served/adapters \
		--jobs-sources "$(CURDIR)"

test: lint types  ## Runs lint, types and tests.
	$(BIN)/pytest -n 2

field: .venv/dev  ## Runs the situations from the field (datasets, exports, attacks) and prints a table.
	$(BIN)/pytest tests/field -n 2 --field-table

test-docs: .venv/dev  ## Runs the code blocks of README and docs, in order, in a copy (minutes).
	$(BIN)/pytest -m slow tests/test_code_blocks.py

test-slow: .venv/dev  ## Runs the tests that take minutes.
	$(BIN)/pytest -m slow

.venv/ray: .venv/dev
	$(BIN)/pip install --quiet --editable '.[ray]'
	touch $@

test-ray: .venv/ray  ## Runs the tests on a Ray cluster of this machine (minutes; Ray is about 200 MB).
	$(BIN)/pytest -m slow tests/server/jobs/test_cluster.py tests/server/test_ray_serve.py

lint: .venv/dev  ## Checks format, rules, layers, Dockerfile and compose file.
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory scripts; \
	else echo "npm is not installed: the scripts of the summary page are not checked"; fi

scripts: $(TSC)  ## Checks the types of the scripts of the summary page (needs Node.js and npm).
	$(TSC) --project server/jobs/summary/page/script

$(TSC): | .venv/dev
	npm install --silent --no-audit --no-fund --prefix .venv/node typescript@5.9.3

types: .venv/dev  ## Checks types.
	$(BIN)/mypy

format: .venv/dev  ## Formats the code and fixes what ruff can fix.
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

docs: .venv/docs  ## Builds the documentation site into site/; warnings are errors.
	PATH="$(CURDIR)/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.venv/docs: .venv/dev
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@

wheel: .venv/dev  ## Builds the source archive and the wheel into dist/.
	$(BIN)/python -m build

seedling: .venv/dev  ## Trains the seedling from scratch (hours on two cores); continues where it stopped.
	nice $(BIN)/python -m seedling.pretrain --out $(RUNS)

seedling-report: .venv/dev  ## Evaluates the committed seedling on unseen scenes.
	$(BIN)/python -m seedling.report

.venv/bench: .venv/dev
	$(BIN)/pip install --quiet --editable '.[bench]'
	touch $@

bench: .venv/bench  ## Measures speed against transformers, in one run, into docs/measurements/; BENCH=http runs one benchmark.
	$(BIN)/python -m benchmarks $(BENCH)

reliability: .venv/dev  ## Kills, overloads and attacks a server, and writes docs/measurements/reliability.md (an hour on two cores).
	$(BIN)/python -m benchmarks.reliability

loop: .venv/dev  ## Measures the labeling loop: correct, tune, backtest, promote (an hour on two cores); continues where it stopped.
	$(BIN)/python -m benchmarks.labeling_loop

clean:  ## Removes the environment and everything that was built.
	rm -rf .venv demo served build dist site
