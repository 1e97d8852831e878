# make env    .venv with the CLI, everything the tests need, and Nextflow
# make demo   simulate a tissue, run the workflow on it, say how well it did
# make test   every test, JOBS=3 files at a time; make lint, make image, make clean as named
# make test-newest, test-oldest   the package's tests with other versions of what it needs; check-newest, check-oldest: a run
# make benchmark   every method on every case that has no result yet: hours; see benchmarks/README.md
# make paper   the paper's network trained to the end, beside the others: docs/paper.md
# make publish REGISTRY=...   the images that were built into a registry
# make test-podman, test-slurm, test-k8s   the workflow in the real image, under real Slurm, against a Kubernetes API

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := env

VENV := .venv
BIN := $(VENV)/bin
# CPU-only torch, where its index can be reached: make env TORCH_INDEX_URL=https://...
TORCH_INDEX_URL ?=

.PHONY: env demo test test-podman test-slurm test-k8s benchmark paper lint image publish clean
.PHONY: programs test-newest test-oldest check-newest check-oldest

# Stamps are written last, so an interrupted install is taken up again and a finished one costs nothing.
env: $(VENV)/.python-done $(VENV)/.nextflow-done

$(VENV)/.python-done: pyproject.toml constraints.txt
	@if ! $(BIN)/python -c 'import pip' 2>/dev/null; then \
	    python=$$(tools/find-python.sh); \
	    rm -rf $(VENV); \
	    "$$python" -m venv $(VENV); \
	fi
	@echo "make env: installing Python packages into $(VENV) (minutes the first time: torch is large)"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,dev]' \
	    $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL))
	@touch $@

$(VENV)/.nextflow-done: tools/nextflow/install.sh tools/nextflow/nextflow tools/nextflow/pom.xml | $(VENV)/.python-done
	@echo "make env: installing Nextflow into $(VENV)"
	@tools/nextflow/install.sh $(VENV)
	@touch $@

demo: env
	@tools/demo.sh

# Files are shared out over JOBS processes, none over two: what its tests share is made once. One process more than two
# cores have: some tests wait for an image to be built, or for a scheduler.
JOBS ?= 3

test:
	@$(MAKE) --no-print-directory -j 2 env programs
	@tools/install-test-programs.sh strict-syntax
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# Beside `env`, while packages are fetched.
programs:
	@tools/install-test-programs.sh podman slurm chromium

test-podman test-slurm: test-%: env
	@tools/install-test-programs.sh $*
	@$(BIN)/python -m pytest -m $*

test-k8s: env
	@$(BIN)/python -m pytest -m k8s

# The newest version of every dependency on Python 3.13, and the oldest that pyproject.toml allows on Python 3.11, each in
# an environment of its own, .venv-newest and .venv-oldest. `check` installs only what the package itself needs. SpatialData
# before 0.7 loads pkg_resources, which setuptools has no longer; MultiQC and scanpy of that time need NumPy 1.
PYTHON_newest := 3.13
PYTHON_oldest := 3.11
INSTALL_newest := --upgrade
INSTALL_oldest := --resolution lowest-direct
UV_OPTIONS := --compile-bytecode $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL) --index-strategy unsafe-best-match)

.venv-%/.package-done: pyproject.toml
	@python=$$(tools/find-python.sh $(PYTHON_$*)); rm -rf .venv-$*; "$$python" -m venv .venv-$*
	@echo "make: installing the $* dependencies into .venv-$* (minutes: torch is large)"
	@.venv-$*/bin/python -m pip install --quiet uv
	@.venv-$*/bin/uv pip install --quiet --python .venv-$*/bin/python $(INSTALL_$*) $(UV_OPTIONS) -e .
	@touch $@

.venv-%/.tests-done: .venv-%/.package-done
	@.venv-$*/bin/uv pip install --quiet --python .venv-$*/bin/python $(INSTALL_$*) $(UV_OPTIONS) -e '.[test]' \
	    $(if $(filter oldest,$*),'setuptools<81' 'numpy<2')
	@touch $@

.PRECIOUS: .venv-%/.package-done .venv-%/.tests-done

check-newest check-oldest: check-%: .venv-%/.package-done
	@OMP_NUM_THREADS=1 .venv-$*/bin/python tools/check_versions.py

test-newest test-oldest: test-%: .venv-%/.tests-done
	@OMP_NUM_THREADS=1 .venv-$*/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder \
	    --ignore tests/workflow

# BENCHMARK is passed on: make benchmark BENCHMARK='--only method=mofa --jobs 2'
BENCHMARK ?=

benchmark: env
	@$(BIN)/python -m benchmarks.run $(BENCHMARK)

# The figures of docs/paper.md; PAPER is passed on: make paper PAPER='--only mob_rep11 --device cuda'
PAPER ?=

paper: env
	@$(BIN)/python -m benchmarks.paper $(PAPER)

lint: env
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/hadolint containers/Containerfile
	@if command -v actionlint >/dev/null; then actionlint; \
	    else echo "make lint: .github/workflows not checked: no actionlint on PATH" >&2; fi

# ENGINE=docker builds with Docker; VARIANT=cuda makes the GPU image; BASE_IMAGE is another base with Python 3.11 to 3.13;
# BUILD_OPTIONS goes to the engine as it is.
ENGINE ?= podman
VARIANT ?= cpu
BASE_IMAGE ?=
BUILD_OPTIONS ?=
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

image:
	$(ENGINE) build -f containers/Containerfile -t localhost/stmcdi:$(VERSION)-$(VARIANT) \
	    --build-arg VERSION=$(VERSION) --build-arg VARIANT=$(VARIANT) \
	    $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) \
	    $(if $(TORCH_INDEX_URL),--build-arg TORCH_INDEX_URL=$(TORCH_INDEX_URL)) \
	    $(BUILD_OPTIONS) .

# Tags and pushes every variant that was built. ENGINE=echo only shows the commands. Log in first: podman login ...
REGISTRY ?=

publish:
	@if [ -z "$(REGISTRY)" ]; then \
	    echo "make publish: name where to push: make publish REGISTRY=host/owner" >&2; exit 2; \
	fi
	@pushed=; for variant in cpu cuda; do \
	    image=stmcdi:$(VERSION)-$$variant; \
	    if ! $(ENGINE) image inspect "localhost/$$image" >/dev/null 2>&1; then continue; fi; \
	    $(ENGINE) tag "localhost/$$image" "$(REGISTRY)/$$image"; \
	    $(ENGINE) push "$(REGISTRY)/$$image"; \
	    pushed=yes; \
	done; \
	if [ -z "$$pushed" ]; then \
	    echo "make publish: no image of version $(VERSION) was built; run make image ENGINE=$(ENGINE)" >&2; exit 2; \
	fi

clean:
	rm -rf $(VENV) .venv-newest .venv-oldest demo .pytest_cache .mypy_cache .ruff_cache .nextflow .nextflow.log* work
