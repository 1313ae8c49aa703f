# make book: the site in _build/html.  make test: every check.  Both need Python >= 3.11 only.
# make pdf: the whole book in _build/book.pdf; needs Chromium too.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LIBRARY := $(wildcard qlinear/*.py qlinear/*/*.py qlinear/*.npz study/*.py tools/*.py models/*.onnx models/*.json)
CACHE := $(CURDIR)/_build/.jupyter_cache
CHAPTERS := $(wildcard notebooks/*.ipynb)
STATIC := $(wildcard tools/sphinx/*.py qlinear/explorer/* book/static/*.css book/static/*.js \
	book/static/*.png)
LOCK := $(BIN)/uv pip compile -q --generate-hashes --annotation-style line \
	--custom-compile-command "make lock" $(UPGRADE)
EVERYWHERE := --universal --python-version 3.11
BINDER := --python-platform x86_64-manylinux_2_28 --python-version 3.12
UV := uv==0.13.9
# what scripts/runtimes.py asks, in an environment of their own; PyTorch says that its quantized
# operators will go
RUNTIMES := ai-edge-litert apache-tvm iree-base-compiler iree-base-runtime openvino torch==2.13.0
# what needs the library alone: no chapter, no site
UNIT := $(addprefix tests/test_,engine.py qlinear_conv.py operators.py hardware.py analog.py compare.py \
	verdict.py cli.py reduce.py scripts.py)
export PYTHONHASHSEED := 0
export ORT_DISABLE_TELEMETRY := 1

.PHONY: book pdf test test-oldest test-newest check notebooks lab models compared lock fuzz mutants clean

book: _build/.fresh _build/.static
	$(BIN)/python -m tools.explorer_data --out book/static/explorer
	$(BIN)/python -m tools.cheatsheet --out book/cheatsheet.md
	$(BIN)/python -m tools.operators --out book/operators.md
	$(BIN)/jupyter-book build . -W -n --keep-going
	@echo "open _build/html/index.html"

pdf: book
	$(BIN)/jupyter-book build . --builder custom --custom-builder singlehtml -W -n --keep-going
	$(BIN)/python -m tools.pdf

test: check book
	$(BIN)/python -m pytest -q tests

# the library's tests on the lower bounds of pyproject.toml, and on the newest releases there are
test-oldest: RESOLUTION := lowest-direct
test-newest: RESOLUTION := highest
test-oldest test-newest:
	rm -rf _build/$@
	$(PYTHON) -m venv _build/$@
	_build/$@/bin/python -m pip install -q $(UV)
	_build/$@/bin/uv pip install -q --resolution $(RESOLUTION) --python _build/$@ -e .
	_build/$@/bin/uv pip install -q --python _build/$@ hypothesis jsonschema pytest
	_build/$@/bin/uv pip list --python _build/$@
	_build/$@/bin/python -m pytest -q $(UNIT)

# everything but the built site: style, stored outputs (nbval, and what it does not see)
check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q --nbval --nbval-current-env --nbval-cell-timeout=600 \
		--nbval-sanitize-with tests/nbval_sanitize.cfg tests/test_notebooks.py notebooks

# run the chapters and store their outputs
notebooks: $(READY)
	$(BIN)/python -m tools.execute

# JupyterLab at the root, so that links from the chapters to other folders work
lab: $(READY)
	JUPYTER_CONFIG_PATH="$(CURDIR)/.jupyter" $(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" \
		--LabApp.default_url=/lab/tree/notebooks/00-start.ipynb $(LAB)

# remake the quantized models and what describes them, byte for byte, from the stored calibration
models: $(READY)
	$(BIN)/python scripts/quantize_onnx.py
	$(BIN)/python scripts/quantize_onnx.py --network mobilenet
	$(BIN)/python scripts/extract_operations.py

# count again on how many elements the tests compare each operator with ONNX Runtime
compared: $(READY)
	COMPARED=models/compared.json $(BIN)/python -m pytest -q $(addprefix tests/test_,operators.py \
		qlinear_conv.py products.py moving.py networks.py)

# remake the pins, with hashes, for every supported Python and system; what fits stays as it is, but
# make lock UPGRADE=--upgrade takes the newest
lock: $(READY)
	$(BIN)/python -m pip install -q $(UV)
	$(LOCK) $(EVERYWHERE) --extra dev pyproject.toml -o requirements.txt
	echo torch | $(LOCK) $(EVERYWHERE) - -c requirements.txt -o requirements-train.txt
	printf '%s\n' $(RUNTIMES) | $(LOCK) $(EVERYWHERE) - pyproject.toml -c requirements.txt \
		-o requirements-runtimes.txt
	$(LOCK) $(BINDER) --extra chapters pyproject.toml -c requirements.txt -o .binder/requirements.txt

clean:
	rm -rf _build mutants $(VENV)

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: $(PYTHON) is older than Python 3.11; name another: make PYTHON=python3.12"; \
		exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --require-hashes -r requirements.txt
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	touch $@

# change the library a little, thousands of times, and list what no test noticed; an hour or two on two
# cores. make mutants MODULES="fuse operators.qgemm" for some; what tests/mutants.md lists is known
mutants: $(READY)
	$(BIN)/python -m pip install -q mutmut==3.8.1
	FEWER_EXAMPLES=10 $(BIN)/python -m mutmut run --max-children 2 $(patsubst %,"qlinear.%.*",$(MODULES))
	$(BIN)/python -m mutmut results | grep -v "not checked" || true

# a minute of damaged models against the loader
fuzz: $(READY)
	$(BIN)/python tests/fuzz_loader.py 60

# Sphinx copies static files only when it writes a page
_build/.static: $(STATIC)
	rm -rf _build/.doctrees
	mkdir -p _build
	touch $@

# Jupyter Book caches a chapter by its code alone, so a changed library must empty the cache. All
# chapters are then run at once, one on each core; what fails here Jupyter Book runs again and reports
_build/.fresh: $(READY) $(LIBRARY)
	rm -rf _build/.jupyter_cache _build/.doctrees
	mkdir -p _build
	echo y | JUPYTERCACHE=$(CACHE) $(BIN)/jcache notebook add $(CHAPTERS) >/dev/null
	JUPYTERCACHE=$(CACHE) $(BIN)/jcache project execute -e local-parallel -t 300 -v ERROR
	touch $@
