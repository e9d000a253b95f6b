PYTHON ?= python3
VENV ?= .venv
ifndef RUN
RUN := runs/quickstart-$(shell date +%Y%m%d-%H%M%S)
endif
IN_VENV = $(VENV)/bin

.PHONY: search test

search: $(VENV)/ready  ## Install, search for networks that read digits, export them from small to large
	$(IN_VENV)/nasplat search examples/quickstart.yaml --out $(RUN)
	$(IN_VENV)/nasplat report $(RUN)
	$(IN_VENV)/nasplat export $(RUN) --pick bins:3 --test

test: $(VENV)/ready  ## Install, run all tests
	$(IN_VENV)/python -m pytest

$(VENV)/ready: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(IN_VENV)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
