# make demo    train, sample and evaluate an NCSN on handwritten digits (about 5 minutes on two CPU cores)
# make test    the whole test suite
# make bench   time the operators against torch's, and write benchmarks/results (leave the machine alone meanwhile)
# make docs    build the documentation into docs/_build; its tutorials are run (about two minutes)
# make lint    ruff
# All install into .venv first, where it is missing. TORCH='torch==2.13.0' chooses which torch is installed.

VENV ?= .venv
PYTHON ?= python3
TORCH ?= torch
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet
READY := $(VENV)/.ready-$(shell printf '%s' '$(TORCH)' | cksum | cut -d' ' -f1)

.PHONY: demo test bench docs lint install clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' Makefile

install: $(READY)

$(READY): pyproject.toml setup.py $(shell find csrc -type f)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "fastscore needs Python 3.10 or newer; \
	choose one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) '$(TORCH)' 'setuptools>=77' wheel ninja
	$(PIP) --no-build-isolation '$(TORCH)' --editable '.[dev,docs]'
	@rm -f $(VENV)/.ready-*
	@touch $@

demo: $(READY)
	$(BIN)/fastscore train digits --out runs/demo --resume
	$(BIN)/fastscore evaluate runs/demo

test: $(READY)
	$(BIN)/python -m pytest tests

bench: $(READY)
	$(BIN)/python benchmarks/report.py

docs: $(READY)
	$(BIN)/sphinx-build -E -W --keep-going -n -q docs docs/_build/html
	@echo "open docs/_build/html/index.html"

lint: $(READY)
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) build *.egg-info fastscore/_C*.so
