# make demo   install, upscale a photograph, write a side-by-side image
# make test   install what tests need and run them
# Everything is installed into .venv; nothing outside this folder is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# onnxruntime and onnxruntime-gpu overwrite each other: one is chosen, by the driver's presence.
RUNTIME ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
SOURCES := pyproject.toml setup.py constraints.txt $(wildcard _ext/*.pyx _ext/*.h)

.PHONY: demo test test-slow test-kill load fuzz sanitize neon bench bench-gpu lint wheel clean

demo: $(VENV)/.run
	$(BIN)/python tools/demo.py

# A file's tests stay together, one process a core.
test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# Large images, long random runs, the built wheel in an empty environment.
test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow --timeout 3600

# 1,000 requests to examples/fastapi_service.py, 32 at once, a tenth of them damaged; half a minute.
load: $(VENV)/.test
	$(BIN)/python -m pytest -s -m slow tests/examples/test_service.py

# Damaged images and models: make fuzz N=2000 KINDS="tiff model". What it finds is in scratch/fuzz/findings.
N ?= 100000
fuzz: $(VENV)/.test
	$(BIN)/python tools/fuzz.py -n $(N) $(if $(KINDS),--kinds $(KINDS))

# The tiler's tests with a build of the extension that stops at the first sample read or written outside of
# an array, or at undefined behaviour. The normal build stays where it is. PyMalloc would hide small arrays.
SANITIZE := -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
sanitize: $(VENV)/.test
	CFLAGS="$(SANITIZE)" $(BIN)/python setup.py -q build_ext --force --build-lib build/sanitize \
	  --build-temp build/sanitize/temp
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc \
	  SRCNN_RT_EXTENSIONS=build/sanitize/srcnn_rt \
	  $(BIN)/python -m pytest -p tests.helpers.sanitized -p no:cacheprovider --capture=sys --timeout 1200 \
	  tests/tiling/test_kernels.py tests/tiling/test_kernels_bounds.py tests/backends/test_native_kernels.py \
	  tests/backends/test_native_padded.py tests/backends/test_native_srcnn.py tests/io/tiff/test_deflate.py

# The kernels of the native backend for ARM, under emulation.
neon: $(VENV)/.test
	$(BIN)/python tools/check_neon.py

# 200 SIGKILLs at random moments; twenty minutes. Ends with docs/reliability.md's table.
test-kill: $(VENV)/.test
	$(BIN)/python tools/kill_test.py

# Everything that is claimed about speed and memory, on an idle machine; ends with README's table.
bench: $(VENV)/.bench
	$(BIN)/python benchmarks/peers.py --models srcnn-915-x2 srcnn-955-x2 srcnn-955-x3 srcnn-955-x4 compact-m4c16-x2 compact-m10c32-x2 \
	  --sides 64 512 --rounds 5 --seconds 0.5
	$(BIN)/python benchmarks/end_to_end.py
	$(BIN)/python benchmarks/memory.py --json .benchmarks/memory.json
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/regions.py --out .benchmarks
	$(BIN)/python benchmarks/ending.py --out .benchmarks
	$(BIN)/python -m pytest benchmarks -o addopts= --benchmark-columns=median,iqr,rounds \
	  --benchmark-json=.benchmarks/latest.json
	$(BIN)/python benchmarks/report.py

# The same on a GPU: at most about eight minutes. Ends with status 2 where there is none.
bench-gpu: $(VENV)/.bench
	$(BIN)/python benchmarks/gpu.py

# Style, types, which way imports point, spelling and words.
lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell $$(git ls-files)
	$(BIN)/python tools/check_words.py

wheel: $(VENV)/.dev
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) build dist demo .benchmarks *.egg-info srcnn_rt/*.so _ext/_*.c

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, got " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

# A stamp for every set of extras, so that a second make starts at once.
$(VENV)/.run: $(BIN)/python $(SOURCES)
	@echo "installing srcnn-rt[$(RUNTIME)] into $(VENV)"
	$(INSTALL) -e '.[$(RUNTIME)]'
	touch $@

$(VENV)/.test: $(BIN)/python $(SOURCES)
	@echo "installing srcnn-rt[$(RUNTIME),test,train,spandrel] into $(VENV)"
	$(INSTALL) -e '.[$(RUNTIME),test,train,spandrel]'
	touch $@

$(VENV)/.lint: $(VENV)/.test
	$(INSTALL) -e '.[lint]'
	touch $@

$(VENV)/.bench: $(BIN)/python $(SOURCES)
	$(INSTALL) -e '.[$(RUNTIME),bench,train]'
	touch $@

$(VENV)/.dev: $(BIN)/python $(SOURCES)
	$(INSTALL) -e '.[$(RUNTIME),test,train,spandrel,bench,dev]'
	touch $@
