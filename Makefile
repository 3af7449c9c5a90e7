# Each target makes what it needs. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo pages screenshots test check bench bench-api bench-pages bench-kafka bench-budgets fmt lock crash soak kafka secrets release-api litellm notebooks clean

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PAGES := meterhouse/api/pages/static/built/.ready
LITELLM := .venv-litellm
ARGS ?=
N ?= 200
MINUTES ?= 1440

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

# A stamp, so that nothing is installed again until a requirement changes.
$(READY): requirements/dev.txt pyproject.toml tools/make-venv
	@tools/make-venv $(VENV)
	@touch $@

# What pages load, from sources of ours and of package-lock.json; never committed.
$(PAGES): package.json package-lock.json tools/make-pages tools/pages/build.mjs meterhouse/api/pages/static/style.css \
		$(wildcard meterhouse/api/pages/scripts/*.js)
	@tools/make-pages

pages: $(PAGES) ## build the scripts of the pages; needs Node.js 20 or later

screenshots: $(READY) $(PAGES) ## a picture of each page at three widths, light and dark, in screenshots/; needs Chromium
	$(BIN)/python -m tools.pages.screenshots $(ARGS)

demo: $(READY) $(PAGES) ## run the demo, then serve its pages on http://127.0.0.1:8080 (ARGS=--no-serve: print and leave)
	$(BIN)/meterhouse demo $(ARGS)

test: $(READY) $(PAGES) ## run the tests (ARGS="-k chargeback": some of them)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(READY) ## formatting, lint, types, direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(READY) ## measure each figure beside its limit
	$(BIN)/python -m bench $(ARGS)

bench-api: $(READY) ## publish 10,000 events/s over HTTP for five minutes, reports beside (ARGS="--seconds 30")
	$(BIN)/python -m bench.api $(ARGS)

bench-pages: $(READY) $(PAGES) ## how fast pages are with the roll-ups of 100 million events behind them; needs Chromium
	$(BIN)/python -m bench.page_speed $(ARGS)

bench-kafka: $(READY) ## measure metering from a real Kafka (ARGS=--long: four times the events); needs Java and Maven
	$(BIN)/python -m bench.kafka $(ARGS)

bench-budgets: $(READY) ## measure budgets in real time on a real Kafka (ARGS="freshness --long"); needs Java and Maven
	$(BIN)/python -m bench.budgets_all $(ARGS)

fmt: $(READY) ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

crash: $(READY) ## kill meters, budget workers, publishers and brokers at random, N times (N=200); compare all with the oracle
	METERHOUSE_KILLS=$(N) METERHOUSE_EMBEDDED_KILLS=$(N) METERHOUSE_CRASH_MINUTES=$(MINUTES) \
		$(BIN)/python -m pytest tests/crash -m crash --timeout 86400 -s $(ARGS)

soak: $(READY) ## run docker-compose.yml's processes here, 1,000 events/s for five minutes, losing each once (ARGS="--seconds 60")
	$(BIN)/python -m tests.stack.soak $(ARGS)

secrets: ## make the files of secrets that docker-compose.yml needs, those that are not there yet
	@tools/make-secrets ops/secrets

kafka: $(READY) ## run a real Kafka here until Ctrl-C, without Docker (ARGS="--brokers 3 --port 9092"); needs Java and Maven
	$(BIN)/python -m tools.kafka.cluster $(ARGS)

release-api: $(READY) ## write docs/openapi/v1.json, unless a program that uses the last one would break (ARGS=--check: only say so)
	$(BIN)/python -m tools.openapi.release $(ARGS)

notebooks: $(READY) ## make each .ipynb from its source and run them all on a generated house (ARGS="--out DIR": with what they show)
	$(BIN)/python -m tools.notebooks $(ARGS)

litellm: $(LITELLM)/.ready ## install LiteLLM beside, for the tests that call through it (380 MB)

$(LITELLM)/.ready: requirements/litellm.txt tools/make-venv
	@tools/make-venv $(LITELLM) requirements/litellm.txt
	@touch $@

# The lock files hold for Linux and macOS, Python 3.11 to 3.13, and name no registry.
LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url \
	--python-version 3.11 --custom-compile-command "make lock"
EXTRAS := --extra apprise --extra quality --extra traces # of the image, which run.txt and build.txt are for
lock: $(READY) ## write requirements/*.txt anew (ARGS=--upgrade: newest allowed versions)
	$(LOCK) $(ARGS) pyproject.toml --extra dev -o requirements/dev.txt
	$(LOCK) $(ARGS) pyproject.toml $(EXTRAS) -c requirements/dev.txt -o requirements/run.txt
	$(LOCK) $(ARGS) requirements/build.in -c requirements/dev.txt -o requirements/build.txt
	$(LOCK) $(ARGS) requirements/litellm.in -o requirements/litellm.txt

clean: ## remove what make and the tools made (not meterhouse-data: those are books)
	rm -rf $(VENV) $(LITELLM) node_modules $(dir $(PAGES)) tools/kafka/libs tools/kafka/libs.lock dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
