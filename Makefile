# `make serve` and `make test` make .venv and install what they need; when nothing changed they start at once.
# Everything runs as .venv/bin/python -m NAME: it works in any folder, one with a space in its name too.
.PHONY: serve test test-slow coverage test-clients lint contract fuzz lock audit bench-engine bench-serving bench-loop bench-statistics bench-gpu bench-masks recipes clean
.NOTPARALLEL:

modern = $(shell "$(1)" -c 'import sys; sys.version_info >= (3, 11) and print(sys.executable)' 2>/dev/null)
PYTHON ?= $(or $(call modern,python3.11),$(call modern,python3))

# The servers that Errorbar is compared with.
SERVERS := fastapi litserve mlserver

serve: .venv/.serve
	exec .venv/bin/python -m service serve $(ARGS)

test: .venv/.test
	.venv/bin/python -m pytest -m "not slow" $(ARGS)

# Real servers that fail, end, are many or fuzzed, every page's examples, and models that are trained again.
test-slow: .venv/.test
	.venv/bin/python -m pytest -m slow $(ARGS)

# All tests, twice as slow, and what of the code they ran.
coverage: .venv/.test
	.venv/bin/python -m pytest --cov=service --cov=models --cov-report=term $(ARGS)

# The clients that people have, each against the real server; in a place of their own, where there is no torch.
test-clients: .venv/.test .venv-clients/.ready
	.venv-clients/bin/python -m pytest --confcutdir=tests/clients -p no:cacheprovider tests/clients $(ARGS)

lint: .venv/.lint
	.venv/bin/python -m ruff check .
	.venv/bin/python -m mypy

# Writes down anew what others build on; the difference is for review.
contract: .venv/.test
	.venv/bin/python -W ignore -m tests.contract

fuzz: .venv/.test
	.venv/bin/python -W ignore -m tests.fuzz $(ARGS)

# What a release image installs, with hashes, on any platform. Without torch: its build is the image's choice.
lock: .venv-audit/.ready
	.venv-audit/bin/python -m piptools compile pyproject.toml --constraint constraints.txt --generate-hashes \
	  --unsafe-package torch --unsafe-package setuptools --strip-extras --no-annotate --no-header --quiet \
	  --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --output-file .venv-audit/lock
	{ echo '# Made by make lock. pip install --require-hashes --requirement requirements-release.lock'; \
	  sed '/^# WARNING/,$$d' .venv-audit/lock; } > requirements-release.lock

# Asks a vulnerability service about the lock, and about everything that is tested, torch too.
audit: .venv-audit/.ready
	.venv-audit/bin/python -m pip_audit --strict --disable-pip --require-hashes --requirement requirements-release.lock $(ARGS)
	.venv-audit/bin/python -m pip_audit --strict --disable-pip --no-deps --requirement constraints.txt $(ARGS)

bench-engine: .venv-peers/.ready
	.venv-peers/bin/python -W ignore -m benchmarks.versus $(ARGS)

bench-serving: .venv/.serve $(SERVERS:%=.venv-serving/%/.ready)
	.venv/bin/python -W ignore -m benchmarks.serving $(ARGS)

bench-loop: .venv/.serve
	.venv/bin/python -W ignore -m benchmarks.engine $(ARGS)

bench-statistics: .venv/.recipes
	.venv/bin/python -W ignore -m benchmarks.estimates $(ARGS)

bench-gpu: .venv/.serve
	.venv/bin/python -W ignore -m benchmarks.gpu $(ARGS)

bench-masks: .venv/.serve
	.venv/bin/python -W ignore -m benchmarks.masks

recipes: .venv/.recipes
	set -e; for folder in models/repository/*; do .venv/bin/python -W ignore -m "models.recipes.$${folder##*/}"; done

clean:
	rm -rf .venv .venv-peers .venv-clients .venv-serving .venv-audit build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage

# A stamp says that .venv holds what its target needs: the package itself, editable, with these extras.
EXTRAS.test := [test]
EXTRAS.lint := [test,lint]
EXTRAS.recipes := [recipes]

# Leaves a whole virtual environment in the folder of the target as it is, and makes any other anew. pip writes a
# package's list of files last, so an interrupted install lacks one.
WHOLE := -I -c 'import pip, importlib.metadata as m; assert all(d.files for d in m.distributions())'
define venv
@"$(@D)/bin/python" $(WHOLE) 2>/dev/null || { \
  "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
    echo 'Errorbar needs Python 3.11 or newer, and found none. Name one: make PYTHON=/path/to/python3.11' >&2; exit 1; }; \
  echo 'making $(@D) with $(PYTHON)'; "$(PYTHON)" -m venv --clear $(@D); }
endef
PIP = $(@D)/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt $(PIP_OPTIONS)

.venv/.serve .venv/.test .venv/.lint .venv/.recipes: pyproject.toml setup.py constraints.txt $(wildcard service/native/*.[ch]) .venv/bin/python
	$(venv)
	$(PIP) --editable ".$(EXTRAS$(@F))"
	@touch $@

# What the engine is compared with, in a place of its own. The engine runs there from this folder.
.venv-peers/.ready: benchmarks/peers.txt benchmarks/peers-need.txt setup.py constraints.txt \
  $(wildcard service/native/*.[ch]) .venv-peers/bin/python
	$(venv)
	$(PIP) --requirement benchmarks/peers-need.txt
	$(PIP) --no-deps --requirement benchmarks/peers.txt
	$(@D)/bin/python -W ignore setup.py --quiet build_ext --inplace
	@touch $@

# Each in a place of its own: what they need excludes each other. One that cannot be installed is left out of the table.
.venv-serving/%/.ready: benchmarks/serving_peers/%.txt constraints.txt .venv-serving/%/bin/python
	$(venv)
	$(@D)/bin/python -m pip install --disable-pip-version-check $(if $(findstring fastapi,$@),--constraint constraints.txt) \
	  $(PIP_OPTIONS) --requirement $< && touch $@ || echo '$(@D) cannot be made: that server is left out' >&2

.venv-clients/.ready: tests/clients/requirements.txt .venv-clients/bin/python
	$(venv)
	$(@D)/bin/python -m pip install --disable-pip-version-check $(PIP_OPTIONS) --requirement $<
	@touch $@

.venv-audit/.ready: Makefile .venv-audit/bin/python
	$(venv)
	$(PIP) pip-audit==2.10.1 pip-tools==7.6.2
	@touch $@

# No recipe: a Python that is gone or was upgraded makes the stamps out of date.
.venv/bin/python .venv-peers/bin/python .venv-clients/bin/python .venv-audit/bin/python $(SERVERS:%=.venv-serving/%/bin/python):
