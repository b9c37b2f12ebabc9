# make demo    train, sample and evaluate an NCSN on handwritten digits (2 minutes on two CPU cores, once installed)
# make test    the whole test suite, and the examples in docstrings, on all cores
# make bench   time operators and networks against torch's, write benchmarks/results (leave the machine alone meanwhile)
# make docs    build the documentation into docs/_build; its tutorials are run (about two minutes)
# make lint    style, docstrings, types, who imports whom, and the style of the C++ (make format puts style right)
# make wheel   dist/: the source distribution and, built from it, the wheel
#
# make test-wheel    that wheel in an empty environment, outside the tree: the README's Python blocks
# make test-older    the operators' tests beside torch 2.13: with the wheel's extension, and built without a compiler
# make test-oldest   the operators' tests with the wheel's extension beside torch 2.11, the oldest that it is built for
#
# All install into .venv first, where it is missing. TORCH='torch==2.13.0' chooses which torch is installed.

VENV ?= .venv
PYTHON ?= python3
TORCH ?= torch
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet
READY := $(VENV)/.ready-$(shell printf '%s' '$(TORCH)' | cksum | cut -d' ' -f1)
CPP := $(shell find csrc -type f)
WHEEL := dist/.wheel

.PHONY: demo test bench docs lint lint-style lint-types lint-imports lint-cpp format wheel test-wheel test-older test-oldest
.PHONY: help install clean
.DEFAULT_GOAL := help

help:
	@sed -n '/^# All/q; s/^# \{0,1\}//p' Makefile

install: $(READY)

$(READY): pyproject.toml setup.py $(CPP)
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

# A file stays with one worker: what its tests share is made once. tests/conftest.py has the order: the longest first.
test: $(READY)
	$(BIN)/python -m pytest --doctest-modules -n auto --dist loadfile --no-loadscope-reorder

bench: $(READY)
	$(BIN)/python benchmarks/report.py
	$(BIN)/python benchmarks/report_networks.py
	$(BIN)/python benchmarks/report_solvers.py
	$(BIN)/python benchmarks/scaling.py

docs: $(READY)
	$(BIN)/sphinx-build -E -W --keep-going -n -q docs docs/_build/html
	@echo "open docs/_build/html/index.html"

lint: lint-style lint-types lint-imports lint-cpp

lint-style: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

lint-types: $(READY)
	$(BIN)/mypy

lint-imports: $(READY)
	$(BIN)/lint-imports --no-logo

lint-cpp: $(READY)
	$(BIN)/clang-format --dry-run -Werror $(CPP)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

wheel: $(WHEEL)

$(WHEEL): $(READY) pyproject.toml setup.py MANIFEST.in $(CPP) $(shell find fastscore kernels -name '*.py')
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	@touch $@

test-wheel: $(WHEEL)
	FASTSCORE_DIST=dist $(BIN)/python -m pytest tests/test_wheel.py

test-older: $(WHEEL)
	VENV=$(VENV) tests/another_torch.sh 'torch==2.13.0' dist/*.whl
	VENV=$(VENV) tests/another_torch.sh 'torch==2.13.0' --no-compiler

# Two are left out: that torch's compiler refuses them, by an error.
test-oldest: $(WHEEL)
	VENV=$(VENV) tests/another_torch.sh 'torch==2.11.0' dist/*.whl \
	  --deselect tests/ops/test_vmap.py::test_compiled \
	  --deselect tests/ops/test_transforms.py::TestCompile::test_two_draws_are_independent_and_eagers

clean:
	rm -rf $(VENV) build dist *.egg-info fastscore/_C*.so
