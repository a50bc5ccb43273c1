# Two commands on a fresh Debian or Ubuntu machine: make demo, make test. All set-up is theirs.

SHELL := /bin/bash
BIN := .venv/bin
STAMP := .venv/.setup

.PHONY: help setup demo test programs apps lint docs e2e deploy bench scale soak seeds build smoke audit clean

help:
	@echo "make demo     the main job end to end, on an S3 server of its own (root)"
	@echo "make test     lint and tests"
	@echo "make apps     programs for a local disk on a mount: Spark, DuckDB, git, SQLite, POSIX suites"
	@echo "make lint     ruff, mypy, import-linter, prose, workflows, the documentation's links"
	@echo "make docs     the documentation as a site, in build/docs"
	@echo "make e2e      the driver on a real Kubernetes (root; builds one if none is given)"
	@echo "make bench    speed, side by side with the peers that are installed (root)"
	@echo "make scale    memory and requests of everything that grows, at n and at 10 n (root)"
	@echo "make soak     half an hour of mixed work with little memory (root; SOAK_MINUTES)"
	@echo "make seeds    the model of listings with other random calls at each run (SEEDS=500, FROM=0)"
	@echo "make build    dist/*.whl"
	@echo "make smoke    the wheel in an environment of its own, with the demo (root)"
	@echo "make audit    known vulnerabilities of what uv.lock names (asks osv.dev)"
	@echo "make clean    removes what make has made"

setup: $(STAMP)

# In .venv, so that removing .venv repeats the set-up.
$(STAMP): uv.lock scripts/uv.txt pyproject.toml hatch_build.py $(wildcard proto/*.proto) scripts/setup.sh
	@scripts/setup.sh
	@touch $@

demo: $(STAMP)
	@$(BIN)/csi-s3 demo

test: programs
	@scripts/test.sh

# Built once and cached, before any test's deadline runs: some five minutes the first time on two idle
# cores; a line a minute reports it.
programs: $(STAMP)
	@$(BIN)/python -m tests.binaries csi-spec csi-sanity versitygw minio helm vale >/dev/null

# `make test` also runs test_*.py; apps_*.py need more than that has installed, or longer.
apps: programs
	@scripts/apps.sh
	@$(BIN)/python -m pytest tests/programs tests/posix -o "python_files=test_*.py apps_*.py" --timeout 600

lint: docs
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@scripts/prose.sh
	@$$($(BIN)/python -m tests.binaries actionlint) -shellcheck= -pyflakes=

# A warning, such as a dead link or a page outside the navigation, is an error.
docs: $(STAMP)
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --conf-dir docs \
	  --doctree-dir build/doctrees . build/docs

# The real thing: a Kubernetes on this machine (root), or any whose KUBECONFIG is given.
e2e: programs
	@if [ -n "$$KUBECONFIG" ]; then $(BIN)/python -m pytest e2e; else \
	  set -e; e2e/cluster/down.sh --wipe; trap 'e2e/cluster/down.sh --wipe' EXIT; \
	  cluster=$$(e2e/cluster/run.sh 2 workload); eval "$$cluster"; $(BIN)/python -m pytest e2e; fi

# deploy/ from the chart.
deploy: $(STAMP)
	@$(BIN)/python -m tests.chart.deploy

bench: $(STAMP)
	@$(BIN)/python -m bench.run

# CASES="ls-l find" runs some of them; SCALE=full takes sizes of up to 10,000,000 names, and hours.
scale: $(STAMP)
	@$(BIN)/python -m tests.scale.run $(if $(filter full,$(SCALE)),--full) $(CASES)

soak: $(STAMP)
	@$(BIN)/python -m tests.scale.soak --minutes $(or $(SOAK_MINUTES),30)

# A failed case names its seed: `make seeds FROM=SEED SEEDS=1` repeats it.
seeds: $(STAMP)
	@LISTING_SEEDS=$(or $(FROM),$$(date +%s)):$(or $(SEEDS),500) $(BIN)/python -m pytest \
	  tests/unit/test_fs_listing_model.py -q

build: $(STAMP)
	@rm -rf dist
	@UV_PYTHON_DOWNLOADS=never build/uv/bin/uv build --quiet --no-build-isolation --offline --python $(BIN)/python
	@ls dist

smoke: build
	@scripts/smoke.sh dist/*.whl

# A vulnerability without a fix that does not concern this driver: --ignore-until-fixed ID, with a reason.
audit: $(STAMP)
	@build/uv/bin/uv audit --frozen --preview-features audit-command

clean:
	rm -rf .venv build dist csi_s3/*_pb2.py csi_s3/*_pb2.pyi csi_s3/*_pb2_grpc.py
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find csi_s3 tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
