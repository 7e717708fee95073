# `make` installs everything and runs the grid; `make test` installs everything and runs the tests. If you run `make`
# again, it runs only what is out of date.
VENV := .venv
PYTHON ?= python3
# CPU=1 installs torch without the CUDA libraries (docs/install.md). Such an environment contains its own lock file.
CPU ?= $(if $(wildcard $(VENV)/requirements.lock),1)
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: main repository setup results test test-fast test-cluster lint docs lock audit test-oldest test-newest clean clean-all
main: repository setup
	dvc repro
	@echo "report: $(CURDIR)/report/index.html"

# DVC cannot run in a folder without git, such as an unpacked archive. Check this before the long installation.
repository:
	@git rev-parse --git-dir >/dev/null || { \
		echo "make: DVC needs a git repository: clone the project with git, or, in this folder, run" \
			"'git init && git add . && git commit -m Start', then make again" >&2; exit 2; }

setup: $(VENV)/ready

$(VENV)/ready: requirements.lock pyproject.toml workflow/setup.sh
	@PYTHON="$(PYTHON)" VENV="$(VENV)" CPU="$(CPU)" bash workflow/setup.sh
	@echo "$(CURDIR)" > $@
# The commands in the environment contain its path, so it is installed again after the project was moved or copied.
ifeq ($(shell [ -s $(VENV)/ready ] && [ "$$(cat $(VENV)/ready)" != "$(CURDIR)" ] && echo moved),moved)
.PHONY: $(VENV)/ready
endif

# Compare the published results with their records, and write their reports. Nothing is trained.
results: setup
	python workflow/check_records.py docs/results/*/
	for name in cifar-conv4 cifar100-conv4 cifar-seeds cifar10-k32 cifar-views cifar10-budget; do \
	    workflow/results.sh check docs/results/$$name .results/$$name || exit; \
	done
	@echo "reports: $(CURDIR)/.results/*/report/index.html"

# By default, pytest-xdist starts the files with the fewest tests last, and the slowest tests are in such files. If the
# files are sorted by name, those in tests/distributed and tests/engines start first, so that both processes end at
# about the same time.
test: setup lint
	pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=25

# Run only the tests that take less than about two seconds each, for frequent use during development.
test-fast: setup
	pytest -n 2 --dist loadfile -m "not slow and not engine and not cluster"

# Run the tests on a local Slurm cluster. This needs root and Debian, and takes several minutes.
test-cluster: setup
	tests/cluster/slurm.sh install
	pytest -m cluster tests/cluster

lint: setup
	pip check
	ruff check .
	ruff format --check .
	codespell
	mypy
	snakefmt --check Snakefile workflow/rules
	snakemake --lint

# Write the reference pages and the tables of results, and build the documentation site in docs/_build.
docs: setup
	python docs/generate.py
	python docs/results_tables.py
	sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build

# Write the exact versions of the dependencies in pyproject.toml to requirements.lock, with hashes. Versions that are
# already in that file are kept if they are still allowed.
LOCK = uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate
lock: setup
	$(LOCK) --universal --python-version 3.11 --extra dev pyproject.toml -o requirements.lock
	sed -i '1i # Exact versions for Python 3.11 to 3.13 with the hashes of their files; written by `make lock`.' requirements.lock

# Check the locked versions for known vulnerabilities. This fails if the package index publishes no vulnerability data.
audit: setup
	uv tool run pip-audit --strict --disable-pip --no-deps --requirement requirements.lock

# Run the tests with the oldest or the newest dependencies that pyproject.toml allows.
test-oldest: RESOLUTION = lowest-direct
test-newest: RESOLUTION = highest
test-oldest test-newest: setup
	uv venv --quiet --clear --seed --python $(VENV)/bin/python .venv-$(RESOLUTION)
	uv pip install --quiet --python .venv-$(RESOLUTION)/bin/python --resolution $(RESOLUTION) --editable '.[dev]'
	PATH="$(CURDIR)/.venv-$(RESOLUTION)/bin:$$PATH" python -m pytest -n 2 --dist loadfile $(TESTS)

# Delete the files that can be recreated quickly. The data and the results of training remain.
clean:
	rm -rf report logs docs/_build

clean-all: clean
	rm -rf data runs .snakemake
