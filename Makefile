# make train: set up and train on the embedded sample corpus.   make test: set up and test.   See README.md.
# make test T=tests/modeling_cpsl/training: test one room.   make test-all: the slow tests too.
# make test-nightly: many more damaged files for each boundary that takes foreign ones.
# make bench OUT=folder: what benchmarks/RESULTS.md says of speed, as JSON and tables; 25 minutes of a quiet machine.
PYTHON ?= python3
BIN := .venv/bin
T ?= tests
OUT ?= outputs/benchmarks
PYTEST := $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder
TORCH_VERSION := $(shell sed -n 's/^torch==//p' constraints.txt)
INSTALLED := .venv/installed
TRANSFORMERS := transformers-$(shell sed -n 's/^transformers==//p' constraints.txt)

.PHONY: setup train test test-all test-nightly lint bench

setup: $(INSTALLED)

# Without a GPU the CPU build of torch is taken where the package index offers it: the default one brings gigabytes of CUDA.
$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("CPSL needs Python 3.11 or later; say make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	nvidia-smi >/dev/null 2>&1 || $(BIN)/pip install --quiet torch==$(TORCH_VERSION)+cpu 2>/dev/null || true
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .[test]
	touch $@

# So small a model is as fast on one thread as on many, and leaves the other cores alone.
train: setup
	OMP_NUM_THREADS=1 $(BIN)/python run_train.py recipes/sample.yaml --resume_from_checkpoint last

test: setup
	$(PYTEST) -m "not slow" $(T)

# Only the source distribution of transformers has its tests. Without them the test that runs them is skipped.
.venv/$(TRANSFORMERS)/tests/__init__.py: $(INSTALLED)
	-$(BIN)/pip download --quiet --no-deps --no-binary transformers --dest .venv $(subst -,==,$(TRANSFORMERS)) && \
		tar -xzf .venv/$(TRANSFORMERS).tar.gz -C .venv $(TRANSFORMERS)/tests && touch $@

test-all: setup .venv/$(TRANSFORMERS)/tests/__init__.py
	$(PYTEST) --durations=25 $(T)

test-nightly: setup
	CPSL_DAMAGED_INPUTS=1000 $(PYTEST) --dist=load tests/test_boundaries.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

BENCH = OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_$(1).py --json $(OUT)/$(1).json $(2) > $(OUT)/$(1).txt && \
	cat $(OUT)/$(1).txt

bench: setup
	mkdir -p $(OUT)
	$(call BENCH,import)
	$(call BENCH,step,--repetitions 3 --plot $(OUT)/step_time.png)
	$(call BENCH,epoch,--repetitions 1 --samples 120)
	$(call BENCH,memory)
	$(call BENCH,inference,--repetitions 1)
	$(call BENCH,scale)
