# make demo   trains handwritten digits and shows them
# make test   runs the tests
# make lint   runs the linter and the type checker
# make parity compares the samplers, step by step, with diffusers' schedulers, in an environment with PyTorch
# make docs   builds the documentation into site/; a broken link or a missing docstring is an error
# make lock   renews requirements.lock

PYTHON ?= python3
BIN := .venv/bin
PARITY := .venv-parity/bin

.PHONY: demo test lint docs parity lock

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

parity: .venv-parity/installed
	$(PARITY)/python -m pytest parity -n 2 --dist worksteal

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

# PyTorch and diffusers alone; what .venv has is seen through a .pth file, so that JAX lies on the disk once.
.venv-parity/installed: requirements-parity.txt .venv/installed
	$(BIN)/python -m venv --clear .venv-parity
	$(PARITY)/python -c 'import pathlib, sysconfig; here = sysconfig.get_path("purelib"); \
		pathlib.Path(here, "venv.pth").write_text(here.replace(".venv-parity", ".venv"))'
	$(PARITY)/python -m pip install --quiet --requirement requirements-parity.txt
	touch $@
