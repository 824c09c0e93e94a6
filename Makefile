# make demo          fine-tune a packaged model on packaged data with GenFT and its peers (a few minutes)
# make test          run all tests except the nightly ones; TESTS="tests/ops tests/data" runs a part
# make test-nightly  run the tests that take minutes each
# make lint          check style, types, the direction of imports, and the links of the documentation
# make lock          write constraints.txt anew: the newest versions that fit together
# make clean         delete what the other targets have made
#
# Each target sets up .venv by itself, with the exact versions of constraints.txt.
#   LATEST=1  the newest version of everything, in .venv-latest
#   LOWEST=1  the lowest versions that we allow of the libraries whose insides we use, in .venv-lowest
# PYTHON, VENV and JOBS can be overridden: make test PYTHON=python3.12 VENV=/tmp/env JOBS=8
PYTHON ?= python3
JOBS ?= 2
TESTS ?= examples/notebooks/adapt_a_text_model.ipynb tests

ifdef LATEST
VENV ?= .venv-latest
else ifdef LOWEST
VENV ?= .venv-lowest
CONSTRAINTS := tests/lowest.txt
else
VENV ?= .venv
CONSTRAINTS := constraints.txt
endif
BIN := $(VENV)/bin

# pip reads both from the environment, and so does the build of a package in an environment of its own
ifdef CONSTRAINTS
export PIP_CONSTRAINT := $(CURDIR)/$(CONSTRAINTS)
export PIP_BUILD_CONSTRAINT := $(PIP_CONSTRAINT)
endif
export PIP_DISABLE_PIP_VERSION_CHECK := 1
INSTALL := $(BIN)/python -m pip install -q $(if $(LATEST),--upgrade --upgrade-strategy eager)

.PHONY: demo docs test test-nightly lint lock peft-conformance release-check api clean newest

demo: $(VENV)/demo.done
	$(BIN)/genft demo

test: $(VENV)/dev.done
	$(BIN)/python -m pytest $(TESTS) --nbmake --nbmake-timeout 900 -n $(JOBS) --dist worksteal --durations 10

test-nightly: $(VENV)/dev.done
	$(BIN)/python -m pytest tests -m nightly -n $(JOBS) --dist worksteal --durations 10
	$(BIN)/python -m pytest --nbmake --nbmake-timeout 900 examples/notebooks

# peft's own test file with our case lists in place of peft's
peft-conformance: $(VENV)/dev.done
	$(BIN)/python tests/peft_conformance/run.py

# wheel and sdist, each installed into an empty environment and used there
release-check:
	PYTHON=$(PYTHON) benchmarks/release.sh

# the documentation as a site under build/site; a warning is an error
docs: $(VENV)/docs.done
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/docs.done: $(VENV)/demo.done
	$(INSTALL) -e ".[docs]"
	touch $@

# HTML of every public name under build/api
api: $(VENV)/dev.done
	$(INSTALL) pdoc
	$(BIN)/python -m pdoc genft --docformat google --output-directory build/api

lint: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/test_house.py tests/test_docs.py -k "house or links"

# Versions for every Python and system at once, with markers where they differ. The markers that hold for all of them
# are left out.
EVERYWHERE := python_full_version < '3.14'( and )?|( and )?\(sys_platform == 'darwin' or sys_platform == 'linux' or sys_platform == 'win32'\)
lock:
	test -x .venv-lock/bin/uv || { $(PYTHON) -m venv .venv-lock && PIP_CONSTRAINT= .venv-lock/bin/python -m pip install -q uv; }
	.venv-lock/bin/uv pip compile pyproject.toml constraints.in --universal --python-version 3.10 --all-extras --upgrade \
		--no-annotate --custom-compile-command "make lock" --quiet --output-file constraints.txt
	sed -i.bak -E "s/$(EVERYWHERE)//g; s/( and | ; *)$$//" constraints.txt && rm constraints.txt.bak

# An empty environment; pip itself is the newest
$(VENV)/pip.done:
	@echo "Setting up $(VENV): torch and the other dependencies, a few minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	touch $@

$(VENV)/demo.done: $(VENV)/pip.done pyproject.toml $(CONSTRAINTS) $(if $(LATEST),newest)
	$(INSTALL) -e ".[vision,demo]"
	touch $@

$(VENV)/dev.done: $(VENV)/pip.done pyproject.toml $(CONSTRAINTS) $(if $(LATEST),newest)
	$(INSTALL) -e ".[demo,dev]"
	touch $@

# Asks for the newest versions each time
newest:

# What a run has written into the working directory (runs/, genft-demo/) is the user's, and stays
clean:
	rm -rf $(VENV) .venv-latest .venv-lowest .venv-lock build dist
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .benchmarks
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
