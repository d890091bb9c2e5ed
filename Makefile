# Two commands for a newcomer: `make demo` and `make test`. Both do all set-up in .venv.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The newest Python that Consilium supports; set PYTHON=... to choose another.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$p && break; done)
BIN := .venv/bin

# Data sets kept beside the checkout save their download.
ifneq ($(wildcard ../shared/data),)
export CONSILIUM_DATA ?= $(abspath ../shared/data)
endif

.PHONY: help demo test lint types unit benchmarks chaos clean

help: ## Show this help
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

demo: .venv/.installed ## Install, then run the scenario `clinic` (under a minute after installation)
	$(BIN)/consilium simulate clinic

test: lint types unit ## Install, then linter, type checker and all tests

lint: .venv/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.tools
	$(BIN)/mypy

unit: .venv/.tools
	$(BIN)/pytest -n 2 --dist worksteal

# Each leaves its figures in docs/results; the README's tables are drawn from there.
define benchmark
$(BIN)/python simulations/benchmarks/$(1).py --json docs/results/$(2).json | tee docs/results/$(2).md
endef

benchmarks: .venv/.tools ## Measure all figures of the README anew (about three hours)
	$(call benchmark,clinic_seeds,clinic)
	$(call benchmark,flamby_heart,flamby_heart)
	$(call benchmark,one_shot_ladder,one_shot_ladder)
	$(call benchmark,wire_bytes,wire_bytes)
	$(call benchmark,unlike_architectures,unlike)
	$(call benchmark,byzantine,byzantine)
	$(call benchmark,negative_controls,controls)
	$(BIN)/python simulations/benchmarks/allocation.py --long --json docs/results/allocation.json | tee docs/results/allocation.md
	$(BIN)/python simulations/benchmarks/allocation.py --controls --seeds 3 --json docs/results/allocation_controls.json | tee docs/results/allocation_controls.md
	$(BIN)/python simulations/benchmarks/allocation_factorial.py --seeds 6 --json docs/results/allocation_factorial.json | tee docs/results/allocation_factorial.md
	$(BIN)/python simulations/benchmarks/allocation_plot.py docs/results/allocation.json docs/allocation.png
	$(call benchmark,allocation_solver,allocation_solver)
	$(call benchmark,makespan,makespan)
	$(call benchmark,service_gate,service_gate)
	$(call benchmark,affinity,affinity)
	$(call benchmark,family_digits,family)
	$(call benchmark,modality,modality)
	$(call benchmark,no_op_round,no_op_round)
	$(call benchmark,hostile_messages,hostile_messages)
	$(call benchmark,journal_cost,journal_cost)
	$(BIN)/python simulations/benchmarks/stock_kills.py --together 3 --json docs/results/stock_kills.json | tee docs/results/stock_kills.md
	$(BIN)/python simulations/benchmarks/readme_tables.py

chaos: .venv/.tools ## Kill anything: every journal step, and real processes at seeded moments (about an hour)
	$(BIN)/python -m simulations.chaos.proof --json docs/results/chaos_journal.json | tee docs/results/chaos_journal.md
	$(BIN)/python -m simulations.chaos --long --json docs/results/chaos_real.json | tee docs/results/chaos_real.md

clean: ## Remove .venv and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Consilium needs Python 3.11 to 3.13; install one, or call make PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/.tools: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
