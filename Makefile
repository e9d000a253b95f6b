PYTHON ?= python3
VENV ?= .venv
ifndef RUN
RUN := runs/quickstart-$(shell date +%Y%m%d-%H%M%S)
endif
IN_VENV = $(VENV)/bin
LATENCY = runs/latency.csv

.PHONY: search test

search: $(VENV)/ready $(LATENCY)  ## Install, time blocks, search for networks that read digits, export some of them
	$(IN_VENV)/nasplat search examples/quickstart.yaml --out $(RUN)
	$(IN_VENV)/nasplat report $(RUN)
	$(IN_VENV)/nasplat export $(RUN) --pick bins:3 --test

$(LATENCY): | $(VENV)/ready  # for quick results rather than exact ones; --help says what the figures are
	$(IN_VENV)/nasplat benchmark build latency --space ghost/small --out $@ \
		--points 4 --rounds 2 --calibration 12 --checked 12

test: $(VENV)/ready  ## Install, run all tests
	$(IN_VENV)/python -m pytest

$(VENV)/ready: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(IN_VENV)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
