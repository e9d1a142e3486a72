# The README's commands. Everything lives in .venv; a second run of any target installs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test check bench bench-parts live screenshots clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,otel]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/dszig demo

# One process more than there are cores, since many tests wait; a file's tests stay together. JOBS=0: one after another.
JOBS ?= $(shell expr 1 + $$(getconf _NPROCESSORS_ONLN))

test: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# Us beside our peers and the floors, on this machine: writes tests/benchmarks/RESULTS.md. QUICK=1: under two minutes.
# PEERS_PYTHON: another Python that has the peers, where they are not to be installed here (`pip install .[bench]`).
bench: $(STAMP)
	$(BIN)/python tests/benchmarks $(if $(QUICK),--quick)

# Single questions, each by itself: the environment, fan-out in pairs, tracing, DSPy's async path, an evaluation's own cost.
bench-parts: $(STAMP)
	$(BIN)/python tests/benchmarks/environment.py
	$(BIN)/python tests/benchmarks/fan_out.py
	$(BIN)/python tests/benchmarks/trace_overhead.py
	$(BIN)/python tests/benchmarks/dspy_acalls.py
	$(BIN)/python tests/benchmarks/evaluation.py

# The prompts on a real model: make live MODEL=openai/gpt-5-mini. Twelve small runs, a dollar at most.
live: $(STAMP)
	@$(BIN)/python tests/live.py "$(MODEL)"

# The README's pictures, from a run made on the spot. Needs Chromium.
screenshots: $(STAMP)
	$(BIN)/python tests/screenshots.py notebooks/images

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
