# make demo   install, upscale a photograph, write a side-by-side picture
# make test   install what tests need and run them
# Everything is installed into .venv; nothing outside this folder is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# onnxruntime and onnxruntime-gpu overwrite each other: one is chosen, by the driver's presence.
RUNTIME ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
SOURCES := pyproject.toml setup.py constraints.txt $(wildcard _ext/*.pyx _ext/*.h)

.PHONY: demo test test-slow bench lint wheel clean

demo: $(VENV)/.run
	$(BIN)/python tools/demo.py

test: $(VENV)/.test
	$(BIN)/python -m pytest

# Large pictures, long random runs, the built wheel in an empty environment.
test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow --timeout 3600

# Everything that is claimed about speed and memory, on an idle machine; ends with README's table.
bench: $(VENV)/.bench
	$(BIN)/python benchmarks/peers.py --models srcnn-915-x2 srcnn-955-x2 srcnn-915-x3 srcnn-915-x4
	$(BIN)/python benchmarks/end_to_end.py
	$(BIN)/python benchmarks/memory.py --json .benchmarks/memory.json
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python -m pytest benchmarks -o addopts= --benchmark-columns=median,iqr,rounds \
	  --benchmark-json=.benchmarks/latest.json
	$(BIN)/python benchmarks/report.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(VENV)/.dev
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) build dist demo .benchmarks *.egg-info srcnn_rt/*.so _ext/_tiles.c

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, got " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

# A stamp for every set of extras, so that a second make starts at once.
$(VENV)/.run: $(BIN)/python $(SOURCES)
	@echo "installing srcnn-rt[$(RUNTIME)] into $(VENV)"
	$(INSTALL) -e '.[$(RUNTIME)]'
	touch $@

$(VENV)/.test: $(BIN)/python $(SOURCES)
	@echo "installing srcnn-rt[$(RUNTIME),test,train] into $(VENV)"
	$(INSTALL) -e '.[$(RUNTIME),test,train]'
	touch $@

$(VENV)/.bench: $(BIN)/python $(SOURCES)
	$(INSTALL) -e '.[$(RUNTIME),bench,train]'
	touch $@

$(VENV)/.dev: $(BIN)/python $(SOURCES)
	$(INSTALL) -e '.[$(RUNTIME),test,train,bench,dev]'
	touch $@
