# A fresh clone: `make demo` shows what the program does, `make test` checks that it works here.
# Each makes its own environment first, once, in $(VENV), with the exact versions of constraints/.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# The bundled models. A chain is recipes in their order, each starting from what the one before it made. $(TAUGHT) goes on from the first
# chain, taught by what that, $(SECOND_RESIDUAL) and the hybrid's chain make, joined. $(GENERATIONS) go on from there, each from the one
# before it, taught by that and $(SECOND_SHIFTS), joined. What the last of them and $(SECOND_SHIFTS) know together is taught to
# $(SECOND_TAUGHT), and what the last of them and that know to $(FAST), which is balanced and bundled. $(ACCURATE) is no run: $(FAST), as
# it is bundled, and $(SECOND_TAUGHT), joined, both of which see mirror images too.
FAST := mimic_hybrid_ferplus
ACCURATE := mimic_ensemble_ferplus
TAUGHT := mimic_resnet_ferplus
GENERATIONS := mimic_resnet_ferplus_twice mimic_resnet_ferplus_thrice mimic_resnet_ferplus_four_times
RESIDUAL_CHAIN := resnet_ferplus resnet_ferplus_shifts
SECOND_RESIDUAL := resnet_ferplus_seed_4
SECOND_SHIFTS := resnet_ferplus_seed_4_shifts
SECOND_TAUGHT := resnet_ferplus_seed_4_taught
HYBRID_CHAIN := hybrid_ferplus hybrid_ferplus_votes hybrid_ferplus_shifts hybrid_ferplus_mixed
RUNS ?= runs/bundled

.PHONY: help demo test check lint types format model clean

help:
	@echo 'make demo    install into $(VENV) (no deep-learning framework) and read the face in examples/astronaut.jpg'
	@echo 'make test    install everything, training included, and run all tests'
	@echo 'make check   formatting, linter, types and all tests'
	@echo 'make format  let ruff format the code and mend what it can'
	@echo 'make model DATA=ferplus/   train the bundled models again, going on where it stopped, and bundle them into $(RUNS)/bundle'
	@echo '             (with BUNDLE=1 into this tree); RUNS names another folder, ARGS are more words for fer train'
	@echo 'make clean   remove $(VENV), caches and build products (not runs/ and predictions/)'
	@echo 'Variables: PYTHON (now $(PYTHON)), VENV (now $(VENV)), ARGS (more words for pytest, or for fer train)'

demo: $(VENV)/.base-installed
	@$(check-opencv)
	$(BIN)/fer predict examples/astronaut.jpg --output predictions

test: $(VENV)/.dev-installed
	@$(check-opencv)
	@# A process a core, up to four: each takes about a gigabyte.
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

check: lint types test

lint: $(VENV)/.dev-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev-installed
	$(BIN)/mypy

format: $(VENV)/.dev-installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# A recipe that is done is passed over by --resume; one that was stopped goes on. fer train prints what it has made. A run goes on
# with the very teacher that it began with: who trains a member again deletes the ensembles and the runs that came after it.
model: $(VENV)/.dev-installed
	@test -n "$(DATA)" || { echo 'where is FERPlus? make model DATA=ferplus/'; exit 2; }
	@run() { \
		recipe=$$1; shift; \
		$(BIN)/fer train $$recipe --data "$(DATA)" --run-dir $(RUNS)/$$recipe "$$@" \
			$$([ -e $(RUNS)/$$recipe/recipe.json ] && echo --resume) $(ARGS); \
	}; \
	chain() { made=; for recipe in "$$@"; do made=$$(run $$recipe $${made:+--set init=$$made}) || return; done; echo "$$made"; }; \
	taught() { run $$1 --set init=$$2 --set "finetune.distill.teachers=['$$3']"; }; \
	join() { \
		file=$(RUNS)/$$1; shift; \
		[ -e $$file ] || $(BIN)/fer ensemble "$$@" --data "$(DATA)" -o $$file >&2 || return; \
		echo "$$file"; \
	}; \
	even() { \
		file=$(RUNS)/$$1_balanced.safetensors; \
		[ -e $$file ] || $(BIN)/fer balance $$2 --data "$(DATA)" -o $$file >&2 || return; \
		echo "$$file"; \
	}; \
	bundle() { \
		file=$$1; shift; \
		$(BIN)/python -m export.bundle $$file "$$@" --data "$(DATA)" $(if $(BUNDLE),,--into $(RUNS)/bundle); \
	}; \
	residual=$$(chain $(RESIDUAL_CHAIN)) && second=$$(chain $(SECOND_RESIDUAL)) && hybrid=$$(chain $(HYBRID_CHAIN)) && \
	joined=$$(join ensemble.safetensors $$hybrid $$residual $$second) && \
	fast=$$(taught $(TAUGHT) $$residual $$joined) && \
	second=$$(run $(SECOND_SHIFTS) --set init=$$second) && number=1 && \
	for recipe in $(GENERATIONS); do \
		number=$$((number + 1)) && joined=$$(join ensemble_$$number.safetensors $$fast $$second) && \
		fast=$$(taught $$recipe $$fast $$joined) || exit; \
	done && \
	joined=$$(join ensemble_5.safetensors $$fast $$second) && \
	second=$$(taught $(SECOND_TAUGHT) $$second $$joined) && \
	joined=$$(join ensemble_6.safetensors $$fast $$second) && \
	fast=$$(taught $(FAST) $$fast $$joined) && \
	fast=$$(even $(FAST) $$fast) && \
	bundle $$fast --name $(FAST) --role fast --default && \
	$(BIN)/fer ensemble $(if $(BUNDLE),$(FAST),$(RUNS)/bundle/training/weights/$(FAST).safetensors) $$second --data "$(DATA)" --mirrored \
		-o $(RUNS)/ensemble_of_bundled.safetensors && \
	bundle $(RUNS)/ensemble_of_bundled.safetensors --name $(ACCURATE) --role accurate

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# OpenCV's wheel needs two system libraries that a bare Linux server or container does not have.
define check-opencv
$(BIN)/python -c 'import cv2' || { \
	echo 'OpenCV cannot be loaded. If a library is named above, install it, then run make again:'; \
	echo '    sudo apt-get install libgl1 libglib2.0-0'; \
	exit 1; }
endef

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'Python 3.11 or newer is needed; name one: make PYTHON=python3.12'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.base-installed: $(VENV)/.created pyproject.toml constraints/base.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/base.txt -e .
	@touch $@

# Holds the base install too, in the same versions: `make demo` after `make test` has nothing to install.
$(VENV)/.dev-installed: $(VENV)/.created pyproject.toml constraints/base.txt constraints/dev.txt
	@echo 'Installing what training, export and the checks need: some gigabytes, some minutes, once.'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/dev.txt -e '.[dev]'
	@touch $@ $(VENV)/.base-installed
