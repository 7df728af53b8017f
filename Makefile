# Everything a newcomer needs: `make demo`, then `make test`. Needs Python >= 3.11, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
.PHONY: demo test test-slow test-lowest test-cuda bench tour readme-pictures lint docs clean

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "handful needs Python >= 3.11; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	# torch first and alone: the pinned wheel, so that nothing else can ask for another build of it
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(BIN)/.dev: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(BIN)/.installed  ## train a CNN on the digits that scikit-learn ships, from nothing to a report
	$(BIN)/handful train digits --out demo-run --overwrite

test: $(BIN)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	# one thread each: two that share a busy core wait for each other
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not slow' -n auto --dist worksteal

test-slow: $(BIN)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow

LOWEST := .venv-lowest
test-lowest:  ## the oldest versions that pyproject.toml allows (torch as pinned), in an environment of their own: a quick part
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	sed -n 's/^  "\([A-Za-z0-9-]*\)>=\([0-9.]*\)",$$/\1==\2/p' pyproject.toml | grep -v '^torch==' > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r $(LOWEST)/lowest.txt 'click<8.2' pytest hypothesis 'pandas>=2.2,<3' 'polars>=1.0'
	PYTHONPATH=$(CURDIR)/src OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -m 'not slow' -W default tests/test_fit.py tests/test_cli.py tests/test_sklearn.py tests/data tests/runs/test_composed.py

test-cuda: $(BIN)/.dev  ## on a machine with a GPU, and a torch that knows it
	sh benchmarks/on_gpu.sh $(BIN)/python

bench: $(BIN)/.dev
	@for f in benchmarks/bench_*.py benchmarks/ablation.py benchmarks/choice.py benchmarks/choice_rules.py benchmarks/coverage.py benchmarks/house.py; do echo "== $$f"; $(BIN)/python $$f || exit 1; done

tour: $(BIN)/.dev  ## every number and picture of docs/measured.md and docs/zh/measured.md
	$(BIN)/python benchmarks/tour.py

readme-pictures: $(BIN)/.dev  ## the pictures of README.md and what its six lines print
	$(BIN)/python benchmarks/readme_pictures.py

lint: $(BIN)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

SITE := .venv-docs
docs: $(BIN)/.dev  ## doctests of the sources and of the pages; the pages as a site in site/, which opens offline
	$(BIN)/pytest src README.md docs --doctest-glob='*.md'
	test -x $(SITE)/bin/python || $(PYTHON) -m venv $(SITE)
	$(SITE)/bin/python -m pip install --quiet --disable-pip-version-check 'mkdocs-material>=9.6' 'mkdocstrings[python]>=0.29'
	NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --strict --quiet --site-dir site

clean:
	rm -rf $(VENV) $(SITE) demo-run build dist site
