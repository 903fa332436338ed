# make demo     sets everything up and runs the main job
# make test     sets everything up and passes the tests, lint and types
# make browser  installs Chromium for the tests of the search page (Debian, as root); without it they are skipped
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CATALOG ?=
QUERIES ?=

.PHONY: setup demo test lint types unit browser sanitize format clean
.DEFAULT_GOAL := help

help:
	@sed -n '/^#/!q; s/^# //p' Makefile

# The stamp is renewed when what is installed changes; the extension is rebuilt
# when its sources do. Python sources need nothing: the install is editable.
STAMP := $(VENV)/.stamp
EXTENSION := $(VENV)/.extension

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check --upgrade "pip>=23.2" "setuptools>=77" "pybind11>=3.0"
	SEARCHPIPE_BUILD_JOBS=0 $(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e '.[dev]'
	@touch $@ $(EXTENSION)

$(EXTENSION): $(STAMP) setup.py $(shell find csrc -name '*.cc' -o -name '*.h')
	$(BIN)/python setup.py -q build_ext --inplace
	@touch $@

setup: $(STAMP) $(EXTENSION)

demo: setup
	$(BIN)/python -m searchpipe.demo.run $(if $(CATALOG),--catalog "$(CATALOG)") $(if $(QUERIES),--queries "$(QUERIES)")

test: lint types unit

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $$(find csrc -name '*.cc' -o -name '*.h')

types: setup
	$(BIN)/mypy

unit: setup
	$(BIN)/python -m pytest

browser:
	scripts/browser.sh

sanitize:
	scripts/sanitize.sh

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(find csrc -name '*.cc' -o -name '*.h')

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .bench demo-data
	find . -name '*.so' -not -path './$(VENV)/*' -delete
