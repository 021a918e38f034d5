# Two commands are enough: `make demo` and `make test`. Everything else is a part of them.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo check lint types imports budgets audit format services test test-fast test-long bench lock release clean

help:            ## this list
	@sed -n 's/^\([a-z-]*\):.*##\(.*\)/  make \1 \t\2/p' $(MAKEFILE_LIST) | expand -t 24

install: $(STAMP) ## .venv with the locked dependencies and this package

$(STAMP): requirements-dev.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: install    ## three example jobs through the whole system; KEEP=1 leaves it running
	$(BIN)/python examples/demo.py $(if $(KEEP),--keep)

check: lint types imports budgets audit ## formatting, lint, types, import contracts, size budgets, known vulnerabilities

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

imports: install
	$(BIN)/lint-imports --no-cache

budgets: install
	$(BIN)/python tests/budgets.py agent

audit: install   ## the locks against known vulnerabilities; says so where no database can be asked
	$(BIN)/python tests/audit.py requirements.lock requirements-dev.lock

format: install  ## format and mend what can be mended by machine
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

services:        ## what the tests need: engine, registry, PostgreSQL, git servers, browser, buildkitd, S3, Kubernetes
	tests/services up

test: install    ## the checks and all tests; brings up the services meanwhile
	tests/run

test-fast: install ## tests that need no services
	$(BIN)/python -m pytest -q tests/unit

test-long: install ## campaigns and repetitions beyond `make test`
	tests/run --long

bench: install services ## the table of docs/benchmarks.md
	$(BIN)/python -m tests.bench

lock: install    ## compute requirements*.lock anew from pyproject.toml
	$(BIN)/uv pip compile -q --generate-hashes --no-emit-index-url --universal --python-version 3.11 pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile -q --generate-hashes --no-emit-index-url --universal --python-version 3.11 --extra dev pyproject.toml -o requirements-dev.lock

release: check   ## dist/: archive, wheel, components (CycloneDX), checksums; SIGN_KEY=FILE signs them (an SSH key)
	rm -rf dist
	$(BIN)/uv build --quiet --no-build-isolation --out-dir dist
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible -o dist/launch-agent.cdx.json requirements.lock
	cd dist && sha256sum -- *.tar.gz *.whl *.json > SHA256SUMS
	$(if $(SIGN_KEY),ssh-keygen -q -Y sign -f $(SIGN_KEY) -n launch-agent dist/SHA256SUMS)

clean:           ## remove what make made
	rm -rf $(VENV) .demo .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
