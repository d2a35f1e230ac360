# make demo   trains handwritten digits and shows them
# make test   runs the tests
# make lint   runs the linter and the type checker
# make parity compares the samplers, step by step, with diffusers' schedulers, and reads sets that other libraries wrote
# make bench  measures train step and sampler beside those on PyTorch, and beside what the machine can do; docs/speed.md
# make plan   compiles train steps for slices of TPU v4, v5p, v6e and v5e, on any machine, and says what training would take; an hour or more
# make browser opens the pages of --mode report, compare and serve in Chromium, which has to be there, and checks what a person meets
# make environments gets all that parity and browser need
# make soak   ends a run of two processes 200 times, at random, and checks that nothing is lost; an hour or two on two cores
# make docs   builds the documentation into site/; a broken link or a missing docstring is an error
# make data   gets Fashion-MNIST and emoji as packages of Debian and npm, into data/
# make lock   renews requirements.lock

PYTHON ?= python3
BIN := .venv/bin
PARITY := .venv-parity/bin
BROWSER := .venv-browser/bin

.PHONY: demo test lint docs parity bench browser environments plan soak data lock

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

bench: .venv-parity/installed
	$(PARITY)/python -m benchmarks.speed

# At one number of images a chip, so that what a chip does can be compared; see docs/scaling.md.
plan: .venv/installed .libtpu/installed
	$(call planned,digits,v4:2x2x4,256) $(SMALL)
	$(call planned,digits,v5p:2x2x4,256) $(SMALL)
	$(call planned,digits,v6e:2x4,128) $(SMALL)
	$(call planned,cifar,v5e:2x4,512)
	$(call planned,cifar,v5e:16x16,16384)
	$(call planned,imagenet64_improved,v5e:2x4,128)
	$(call planned,imagenet64_improved,v5e:16x16,4096)

planned = TPU_LIBRARY_PATH=.libtpu/libtpu/libtpu.so $(BIN)/python run.py --mode plan --config configs/$(1).py --topology $(2) \
	--config.train.batch_size=$(3) --workdir runs/plan_$(1)_$(subst :,_,$(2))
SMALL := --config.model.channels=8 --config.model.multipliers="(1,)" --config.model.groups=4 --config.model.attention_resolutions="(8,)"

# The compiler for TPUs that fits the JAX that is installed; beside .venv, where every start of JAX would have it complain.
.libtpu/installed: .venv/installed
	$(BIN)/python -m pip install --quiet --upgrade --target .libtpu --no-deps \
		"`$(BIN)/python -c 'from jax_ddpm.training.topologies import libtpu_requirement as named; print(named())'`"
	touch $@

browser: .venv-browser/installed browser/axe
	@$(call need,chromium chromedriver)
	$(BROWSER)/python -m pytest browser

environments: .venv-parity/installed .venv-browser/installed browser/axe

soak: .venv/installed
	$(BIN)/python -m tests.commands.soak --kills=200

# One that cannot be had does not keep the other from being got.
data:
	@$(MAKE) --no-print-directory --keep-going data/fashion_mnist data/emoji

# Each is made beside its place, and moved there when it is whole.
data/fashion_mnist: OTHERWISE = Where apt-get has no lists yet, as in a new container, apt-get update gets them. Its four files, train-images-idx3-ubyte.gz and so on, are also at \
	https://github.com/zalandoresearch/fashion-mnist: put them into $@
data/fashion_mnist:
	@$(call need,apt-get dpkg-deb)
	@echo "$@: getting Debian's package dataset-fashion-mnist ..."
	@rm -rf $@.partial && mkdir -p $@.partial/whole
	@cd $@.partial && { apt-get download --quiet dataset-fashion-mnist && dpkg-deb --extract *.deb .; } || $(not_had)
	@cd $@.partial && cp usr/share/datasets/fashion-mnist/*-ubyte.gz whole && cp usr/share/doc/*/copyright whole/LICENSE
	@mv $@.partial/whole $@ && rm -rf $@.partial
	@echo "$@: `ls $@ | grep -c ubyte` files; $(look) --config configs/fashion_mnist.py"

data/emoji: OTHERWISE = What the npm package $(EMOJI) holds in its folder 'package' can be put into $@ by other means
data/emoji:
	@$(call need,npm tar)
	@echo "$@: getting the npm package $(EMOJI) ..."
	@rm -rf $@.partial && mkdir -p $@.partial
	@cd $@.partial && { npm pack --silent $(EMOJI) > name && tar -xzf *.tgz $(addprefix package/,$(EMOJI_FILES)); } || $(not_had)
	@mv $@.partial/package $@ && rm -rf $@.partial
	@echo "$@: `ls $@/img/google/64 | wc -l` images; $(look) --config configs/emoji.py"

# What judges whether a page keeps anyone out.
browser/axe browser: OTHERWISE = Debian has the packages chromium, chromium-driver and npm
browser/axe:
	@$(call need,npm tar)
	@rm -rf $@.partial && mkdir -p $@.partial
	@cd $@.partial && { npm pack --silent axe-core@4.14.1 > name && tar -xzf *.tgz package/axe.min.js package/LICENSE; } || $(not_had)
	@mv $@.partial $@

EMOJI := emoji-datasource-google@16.0.0
EMOJI_FILES := LICENSE README.md emoji.json img/google/64
look := to see what they are: python run.py --mode data
need = for tool in $(1); do command -v $$tool > /dev/null || { echo "$@: there is no $$tool here. $(OTHERWISE)"; exit 1; }; done
not_had = { echo "$@: it could not be got. $(OTHERWISE)"; exit 1; }

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

# What requirements-parity.txt or requirements-browser.txt names alone; what .venv has is seen through a .pth file, so that JAX lies
# on the disk once.
.venv-%/installed: requirements-%.txt .venv/installed
	$(BIN)/python -m venv --clear .venv-$*
	.venv-$*/bin/python -c 'import pathlib, sysconfig; here = sysconfig.get_path("purelib"); \
		pathlib.Path(here, "venv.pth").write_text(here.replace(".venv-$*", ".venv"))'
	.venv-$*/bin/python -m pip install --quiet --requirement requirements-$*.txt
	touch $@
