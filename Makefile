PYTHON ?= python3
VENV ?= .venv
ifndef RUN
RUN := runs/quickstart-$(shell date +%Y%m%d-%H%M%S)
endif
IN_VENV = $(VENV)/bin
LATENCY = runs/latency.csv

# Installing compiles nothing, so that the first process to load a module keeps what it has compiled: also where the
# environment asks for no byte code, as in many containers. Otherwise each process compiles torch and Ray again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: search test test-all docs

search: $(VENV)/ready $(LATENCY)  ## Install, time blocks, search for networks that classify digits, export some of them
	$(IN_VENV)/nasplat search examples/quickstart.yaml --out $(RUN)
	$(IN_VENV)/nasplat report $(RUN)
	$(IN_VENV)/nasplat export $(RUN) --pick bins:3 --test

$(LATENCY): | $(VENV)/ready  # for quick results rather than exact ones; --help says what the figures are
	$(IN_VENV)/nasplat benchmark build latency --space ghost/small --out $@ \
		--points 4 --rounds 3 --calibration 24 --checked 24

# Whole modules go to whichever core is free; of long sweeps a part runs that changes with the commit.
PYTEST = $(IN_VENV)/python -m pytest -n auto --dist loadgroup --no-loadscope-reorder

test: $(VENV)/ready  ## Install, run the tests on all cores
	$(PYTEST) $(ARGS)

test-all: $(VENV)/ready  ## Install, run the tests with all of their long sweeps
	$(PYTEST) --whole $(ARGS)

# The doctrees lie beside the site and not in it, and all pages are read anew, so that every warning is seen.
docs: $(VENV)/ready  ## Install, build the documentation in build/docs; a warning, or a link that leads nowhere, is an error
	$(IN_VENV)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet -d build/doctrees docs build/docs

$(VENV)/ready: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(IN_VENV)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
