# Everything runs in a virtual environment of its own, .venv; nothing but python3, pip and make is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := demo
# Tests compute in one thread each; a worker takes up to 2 GiB.
WORKERS ?= 2
VENV_BENCH := .venv-bench
STAMP_BENCH := $(VENV_BENCH)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast lint docs bench dist clean

help:  ## Show what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

install: $(STAMP)  ## Make the virtual environment and install leukolens into it

demo: $(STAMP)  ## Compare the five networks on synthetic cells; ends with the path of a report
	$(BIN)/leukolens phantom $(DEMO) --cells 400 --subjects 80
	$(BIN)/leukolens compare $(DEMO)/phantom_C-NMC_Leukemia --config configs/demo.yaml --out $(DEMO)/results
	@echo "open $(CURDIR)/$(DEMO)/results/report.html"

test: $(STAMP)  ## Run all tests, WORKERS at a time
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

test-fast: $(STAMP)  ## Run the tests that take less than about ten seconds each
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not slow"

lint: $(STAMP)  ## ruff, mypy strict, import-linter
	$(BIN)/ruff check src tests docs benchmarks experiments
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP)  ## Build the documentation in build/site; a warning is an error
	$(BIN)/python docs/site/build.py build

$(STAMP_BENCH): benchmarks/requirements.txt
	$(PYTHON) -m venv $(VENV_BENCH)
	echo '*' > $(VENV_BENCH)/.gitignore
	$(VENV_BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/requirements.txt
	touch $(STAMP_BENCH)

bench: $(STAMP) $(STAMP_BENCH)  ## Measure leukolens beside other libraries and rewrite docs/benchmarks.md (two hours)
	$(BIN)/python benchmarks/throughput.py

dist: $(STAMP)  ## Build the wheel and the source archive in dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .  # the wheel out of the archive, so that neither has what the other lacks

clean:  ## Remove the virtual environments and the demo
	rm -rf $(VENV) $(VENV_BENCH) $(DEMO)
