# One environment, .venv, from constraints.txt with every extra; made once, remade when its inputs change.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= auto

.PHONY: env browser quickstart test lint format bench gpu-check clean

env: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
# torch first and alone, pinned: a range would let pip take another build of it
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[generate,train,quant,lang,pii,dedup,embed,report,eval,harness,ray,test,bench,dev]"
	touch $@

quickstart: env
	$(BIN)/python recipes/quickstart/quickstart.py

test: env browser
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --durations 20

# The pages are tested in a real Chromium: installed where we may; elsewhere those tests skip with the reason.
browser:
	@command -v chromium chromium-browser google-chrome > /dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium > /dev/null; \
	} || echo "no Chromium here and no right to install it: the tests of pages will be skipped"

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: env
	$(BIN)/python benchmarks/conversion.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/training_step.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/supervision_table.py
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python benchmarks/supervision_speed.py
	$(BIN)/python benchmarks/mixing.py
	$(BIN)/python benchmarks/novelty.py
	$(BIN)/python benchmarks/generation.py

# About 8 minutes on one GPU; without one its CPU form, which says that the GPU figures are missing.
gpu-check: env
	$(BIN)/python benchmarks/gpu_check.py

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
