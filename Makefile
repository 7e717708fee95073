# `make` sets everything up and runs the main job; `make test` sets up and tests. Both are quick when nothing is to do.
VENV := .venv
PYTHON ?= python3
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: main setup test test-cluster lint lock audit test-oldest test-newest clean
main: setup
	dvc repro
	@echo "report: $(CURDIR)/report/index.html"

setup: $(VENV)/ready

$(VENV)/ready: requirements.lock pyproject.toml workflow/setup.sh
	@PYTHON="$(PYTHON)" VENV="$(VENV)" bash workflow/setup.sh
	@touch $@

test: setup lint
	pytest -n 2 --dist loadfile

# On a Slurm of this machine (as root, on Debian); some minutes.
test-cluster: setup
	tests/cluster/slurm.sh install
	pytest -m cluster tests/cluster

lint: setup
	pip check
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow/rules
	snakemake --lint

# Exact versions with their hashes, from pyproject.toml; a version in the file stays where it still fits.
LOCK = uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate
lock: setup
	$(LOCK) --universal --python-version 3.11 --extra dev pyproject.toml -o requirements.lock
	sed -i '1i # Exact versions for Python 3.11 to 3.13 with the hashes of their files; written by `make lock`.' requirements.lock

# Known vulnerabilities of the locked versions. It fails where the package index publishes none to compare with.
audit: setup
	uv tool run pip-audit --strict --disable-pip --no-deps --requirement requirements.lock

# The tests beside other versions of all that pyproject.toml names: the oldest that it allows, and the newest.
test-oldest: RESOLUTION = lowest-direct
test-newest: RESOLUTION = highest
test-oldest test-newest: setup
	uv venv --quiet --clear --seed --python $(VENV)/bin/python .venv-$(RESOLUTION)
	uv pip install --quiet --python .venv-$(RESOLUTION)/bin/python --resolution $(RESOLUTION) --editable '.[dev]'
	PATH="$(CURDIR)/.venv-$(RESOLUTION)/bin:$$PATH" python -m pytest -n 2 --dist loadfile $(TESTS)

clean:
	rm -rf data runs report logs .snakemake
