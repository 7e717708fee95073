# `make` sets everything up and runs the main job; `make test` sets up and tests. Both are quick when nothing is to do.
VENV := .venv
PYTHON ?= python3
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: main setup test lint clean
main: setup
	dvc repro
	@echo "report: $(CURDIR)/report/index.html"

setup: $(VENV)/ready

$(VENV)/ready: requirements.lock pyproject.toml workflow/setup.sh
	@PYTHON="$(PYTHON)" VENV="$(VENV)" bash workflow/setup.sh
	@touch $@

test: setup lint
	pytest -n 2 --dist loadfile

lint: setup
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow/rules
	snakemake --lint

clean:
	rm -rf data runs report logs .snakemake
