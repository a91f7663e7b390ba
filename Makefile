# Everything lands in .venv at the root; each target sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin
RUNS ?= runs/seedling
SOURCES := prompts labels server finetune seedling tests benchmarks

.PHONY: help install setup demo serve test test-slow test-ray lint types format seedling seedling-report bench loop clean
.DEFAULT_GOAL := help

help:  ## Lists the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 20

install:  ## Only what serving needs (the Dockerfile's step); EXTRAS=gpu adds flash-attn, PIP_ARGS goes to pip.
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install $(PIP_ARGS) .
ifneq ($(EXTRAS),)
	# flash-attn asks the torch that is already there how to build itself.
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

demo: .venv/serve  ## Draws unseen scenes, serves the seedling, asks it over HTTP, labels the folder.
	$(BIN)/python -m server.cli.demo --out demo

serve: .venv/serve  ## Serves the seedling on port 8000.
	$(BIN)/florist serve

test: lint types  ## Lint, types, tests.
	$(BIN)/pytest -n 2

test-slow: .venv/dev  ## The checks that take minutes.
	$(BIN)/pytest -m slow

.venv/ray: .venv/dev
	$(BIN)/pip install --quiet --editable '.[ray]'
	touch $@

test-ray: .venv/ray  ## The checks on a Ray cluster of this machine (minutes; Ray itself is some 200 MB).
	$(BIN)/pytest -m slow tests/server/jobs/test_cluster.py tests/server/test_ray_serve.py

lint: .venv/dev  ## ruff, format and check.
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/hadolint Dockerfile

types: .venv/dev
	$(BIN)/mypy

format: .venv/dev  ## Lets ruff mend what it can.
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

seedling: .venv/dev  ## Teaches the seedling from scratch (hours on two cores); goes on where it stopped.
	nice $(BIN)/python -m seedling.pretrain --out $(RUNS)

seedling-report: .venv/dev  ## What the committed seedling can do on unseen scenes.
	$(BIN)/python -m seedling.report

.venv/bench: .venv/dev
	$(BIN)/pip install --quiet --editable '.[bench]'
	touch $@

bench: .venv/bench  ## Every figure of speed, both sides in one run, into docs/ and the README; BENCH=http runs that one.
	$(BIN)/python -m benchmarks $(BENCH)

loop: .venv/dev  ## The labeling loop, measured: correct, tune, backtest, promote (an hour on two cores); goes on where it stopped.
	$(BIN)/python -m benchmarks.labeling_loop

clean:  ## Removes the environment and what the demo made.
	rm -rf .venv demo
