# `make serve` and `make test` make .venv and install what they need; when nothing changed they start at once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: serve test lint bench-engine recipes clean
serve: .venv/.serve
	exec $(BIN)/python -m service serve $(ARGS)

test: .venv/.test
	$(BIN)/python -m pytest --cov=service --cov=models --cov-report=term $(ARGS)

bench-engine: .venv/.test
	$(BIN)/python -W ignore -m benchmarks.engine $(ARGS)

recipes: .venv/.test
	for name in digits digits_cnn diabetes breast_cancer; do $(BIN)/python -W ignore -m models.recipes.$$name || exit 1; done

lint: .venv/.lint
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

.venv/bin/python:
	"$(PYTHON)" -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; call make PYTHON=/path/to/python3.11")'
	"$(PYTHON)" -m venv .venv

.venv/.serve: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) --editable .
	touch $@

.venv/.test: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) --editable ".[test]"
	touch $@

.venv/.lint: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) --editable ".[test,lint]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
