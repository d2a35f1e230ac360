# make demo   trains handwritten digits and shows them
# make test   runs the tests
# make lint   runs the linter and the type checker
# make docs   builds the documentation into site/; a broken link or a missing docstring is an error
# make lock   renews requirements.lock

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint docs lock

demo: .venv/installed
	$(BIN)/python run.py --mode demo --config configs/digits.py --workdir runs/demo

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lock: .venv/installed
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --upgrade requirements-dev.txt -o requirements.lock
	sed -i "1i # Pinned versions, Python by Python; the tests run with those of Python 3.11. Renewed by: make lock" requirements.lock

.venv/installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is `$(PYTHON) --version`: expected Python 3.11 or newer; name one with make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	touch $@
