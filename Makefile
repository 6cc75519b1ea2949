# One environment, .venv, from constraints.txt with every extra; made once, remade when its inputs change.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= auto

.PHONY: env quickstart test lint format bench clean

env: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
# torch first and alone, pinned: a range would let pip take another build of it
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[generate,train,quant,lang,test,bench,dev]"
	touch $@

quickstart: env
	$(BIN)/python recipes/quickstart/quickstart.py

test: env
	$(BIN)/python -m pytest -n $(WORKERS)

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: env
	$(BIN)/python benchmarks/conversion.py

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
