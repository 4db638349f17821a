# One task runner for people, hooks and CI. `make help` lists the targets.
PYTHON ?= python3
VENV   ?= .venv
PORT   ?= 8000
GRPC_PORT ?= 8001
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "birefnet-server needs Python 3.11 or newer, found " + sys.version)'
	@$(PYTHON) -m venv $(VENV)

# Stamps, so that a second call starts at once and a changed pyproject installs again.
$(VENV)/.installed-serve: pyproject.toml | $(VENV)/bin/python
	@echo "Installing the server into $(VENV) (first time only) ..."
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	@echo "Installing the server, torch and the development tools into $(VENV) (first time only) ..."
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.installed-serve

.PHONY: serve
serve: $(VENV)/.installed-serve ## Install what is needed and serve on PORT (8000) and GRPC_PORT (8001)
	@exec $(BIN)/python -m server serve --port $(PORT) --grpc-port $(GRPC_PORT)

.PHONY: test
test: $(VENV)/.installed-dev ## Install what is needed and run the default tests (CPU, offline, no downloads)
	$(BIN)/python -m pytest

.PHONY: test-all
test-all: $(VENV)/.installed-dev ## Every test this machine can run, the slow ones included
	$(BIN)/python -m pytest -m 'not gpu and not browser and not fleet and not peers'

.PHONY: fuzz
fuzz: $(VENV)/.installed-dev ## Fuzz the decoder (FUZZ_SECONDS, ten minutes) and the REST interface
	@$(PIP) --editable '.[fuzz]'
	$(BIN)/python -m pytest -m slow tests/e2e/test_fuzzing.py

# Debian's packages, unpacked instead of installed: no root is needed, and nothing is started.
build/debian/%.unpacked:
	@command -v apt-get > /dev/null || { echo "$*: expected it on PATH, or apt-get to fetch Debian's package; found neither"; exit 1; }
	@mkdir -p build/debian/packages
	@cd build/debian/packages && { apt-get download -qq $* || { echo "$*: apt-get knows no such package; run apt-get update first"; exit 1; }; }
	@dpkg-deb -x build/debian/packages/$*_*.deb build/debian
	@touch $@

.PHONY: test-fleet
test-fleet: $(VENV)/.installed-dev ## Three servers behind nginx under load: one is killed, one drained, one added
	@command -v nginx > /dev/null || $(MAKE) --no-print-directory build/debian/nginx.unpacked
	$(BIN)/python -m pytest -m fleet tests/e2e/test_fleet.py

build/checks/.installed: k8s/check/requirements.txt k8s/check/packages.txt
	@command -v npm > /dev/null || { echo "npm: expected it on PATH, for the schemas of custom resources; found none"; exit 1; }
	@echo "Installing the validators below build/checks (first time only) ..."
	@test -x build/checks/bin/python || $(PYTHON) -m venv build/checks
	@build/checks/bin/python -m pip install --quiet --disable-pip-version-check --requirement k8s/check/requirements.txt
	@build/checks/bin/python -m pip install --quiet --disable-pip-version-check --no-deps 'kserve==0.21.0'
	@npm install --silent --no-fund --no-audit --prefix build/checks $$(cat k8s/check/packages.txt)
	@touch $@

.PHONY: check-k8s
check-k8s: $(VENV)/.installed-serve build/checks/.installed ## Every validator of manifests, images and alerts that needs no cluster
	@{ command -v promtool && command -v prometheus; } > /dev/null || $(MAKE) --no-print-directory build/debian/prometheus.unpacked
	@build/checks/bin/python -m k8s.check --server $(BIN)/python

.PHONY: lock
lock: $(VENV)/bin/python ## Write the lock files of the images anew
	@$(PIP) 'uv>=0.9,<1'
	$(BIN)/uv pip compile pyproject.toml --extra otel $(LOCKED) --python-version 3.11 -o docker/cpu.lock
	$(BIN)/uv pip compile docker/build.in $(LOCKED) --python-version 3.11 -o docker/build.lock
	$(BIN)/uv pip compile docker/gpu.in $(LOCKED) --python-version 3.11 -o docker/gpu.lock
	$(BIN)/uv pip compile pyproject.toml --extra otel --extra tensorrt $(LOCKED) --python-version 3.12 -o docker/tensorrt.lock
LOCKED := --generate-hashes --python-platform x86_64-manylinux_2_28 --custom-compile-command 'make lock' -q

.PHONY: replay-image
replay-image: ## Replay the steps of TARGET (cpu) of the Dockerfile without Docker, start it, and say what it weighs
	$(PYTHON) docker/replay.py $(or $(TARGET),cpu)

.PHONY: replay-images
replay-images: ## Replay all targets, one after the other, in 6 GB of scratch space
	for target in cpu gpu tensorrt export dev; do $(PYTHON) docker/replay.py $$target || exit; done

.PHONY: image-digests
image-digests: ## Print the base images by digest, to pin them by (asks their registries)
	@$(PYTHON) docker/digests.py

.PHONY: lint
lint: $(VENV)/.installed-dev ## Format, lint, types and import contracts, without changing a file
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy server model_export modeling matting artifact plans training benchmarks tests docker k8s
	$(BIN)/lint-imports

.PHONY: check
check: lint test ## What CI runs: lint, then test

.PHONY: format
format: $(VENV)/.installed-dev ## Rewrite the files as `make lint` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: bench
bench: $(VENV)/.installed-dev ## Measure the server on this machine (stop everything else first): benchmarks/README.md
	$(BIN)/python -m benchmarks.serving --out benchmarks/results/serving/latest.json

.PHONY: protos
protos: $(VENV)/.installed-dev ## Generate the one committed copy of the wire contracts' code
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. protos/matting/v1/matting.proto protos/inference/v2/inference.proto

.PHONY: pictures
pictures: $(VENV)/.installed-dev ## Make the README's pictures anew, with a live server and the embedded model
	$(BIN)/python -m benchmarks.pictures
