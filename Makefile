# make demo    fine-tune a packaged model on packaged data with GenFT and its peers (a few minutes)
# make test    run all tests
# make lint    ruff and mypy
# Each sets up .venv by itself. PYTHON and VENV can be overridden: make test PYTHON=python3.12 VENV=/tmp/env
# With LOWEST=1, the lowest versions of torch, transformers, peft, accelerate and timm that we allow, in .venv-lowest.
PYTHON ?= python3
ifdef LOWEST
VENV ?= .venv-lowest
export PIP_CONSTRAINT := $(CURDIR)/tests/lowest.txt
TORCH := torch torchvision
else
VENV ?= .venv
TORCH := "torch==2.14.1" "torchvision==0.29.1"
endif
BIN := $(VENV)/bin
TESTS ?= tests

.PHONY: demo docs test lint peft-conformance release-check api clean

demo: $(VENV)/demo.done
	$(BIN)/genft demo

test: $(VENV)/dev.done
	$(BIN)/python -m pytest $(TESTS) -n 2 --dist worksteal --durations 10

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
	$(BIN)/python -m pip install -qq -e ".[docs]"
	touch $@

# HTML of every public name under build/api
api: $(VENV)/dev.done
	$(BIN)/python -m pip install -qq pdoc
	$(BIN)/python -m pdoc genft --docformat google --output-directory build/api

lint: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch and torchvision must match, so they are installed together, before anything that asks for torch alone
$(VENV)/torch.done: $(if $(LOWEST),tests/lowest.txt)
	@echo "Setting up $(VENV): torch and the other dependencies, a few minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --upgrade pip
	$(BIN)/python -m pip install -qq $(TORCH) || $(BIN)/python -m pip install -qq torch torchvision
	touch $@

$(VENV)/demo.done: $(VENV)/torch.done pyproject.toml
	$(BIN)/python -m pip install -qq -e ".[vision,demo]"
	touch $@

$(VENV)/dev.done: $(VENV)/torch.done pyproject.toml
	$(BIN)/python -m pip install -qq -e ".[demo,dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
