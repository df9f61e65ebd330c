# Sagacity. `make help` lists the targets. PYTHON=... chooses the interpreter that .venv is made from.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# protoc looks for its plugins on PATH.
WITH_PLUGINS := PATH="$(CURDIR)/$(BIN):$$PATH"
# Processes that share the tests of `make test`; each has a PostgreSQL and a Kafka of its own.
WORKERS ?= 2
# What `make run ARGS="--port 9000"` hands on, and `make test ARGS="-k orders"`.
ARGS ?=

# What others compiled against: an image of the protos, made by release-protos.
RELEASED := protos/released.binpb

# What runs beside this code while it is rolled out: the release before it, made by release.
PREVIOUS := releases/previous.tar.xz
RELEASED_PARTS := chassis services orchestrator gateway cli deploy/local protos/gen pyproject.toml ':(exclude)*.pyi'
COMMIT ?= HEAD

# The rival of bench-engine has a venv of its own: nothing else needs it.
BENCH_VENV := .venv-bench
BENCH_STAMP := $(BENCH_VENV)/.installed

# So has locust, which brings gevent.
LOAD_VENV := .venv-load
LOAD_STAMP := $(LOAD_VENV)/.installed

.PHONY: help run demo sagacity test chaos lint fmt gen golden release-protos release lock migrate bench bench-engine bench-events load \
	image image-there secrets mounted same-secrets up up-as roll roll-back down test-compose

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Made once, and again when the lock changes: the locked packages, and the project's own folders on the path.
$(STAMP): requirements.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed: none on PATH (make PYTHON=... names one)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=... names one")'
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing the locked packages"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@printf '%s\n' '$(CURDIR)' '$(CURDIR)/protos/gen' > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/sagacity-paths.pth"
	@touch $@

run: $(STAMP) ## run everything on this machine until Ctrl-C; data in .sagacity (ARGS="--port 9000")
	@$(BIN)/python -m deploy.local $(ARGS)

demo: $(STAMP) ## three orders against a running suite, and what their sagas did (ARGS="--json")
	@$(BIN)/python -m deploy.local.demo $(ARGS)

sagacity: $(STAMP) ## the operator's command line (ARGS="sagas list")
	@$(BIN)/python -m cli $(ARGS)

test: $(STAMP) ## all tests but the chaos figures and the containers (ARGS="-k orders", WORKERS=1)
	@$(BIN)/python -m pytest -m 'not chaos and not compose' -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

chaos: $(STAMP) ## the full figures under faults, more than an hour (JSON=path writes what was seen, ARGS="-k crash")
	@$(if $(JSON),SAGACITY_CHAOS_JSON=$(abspath $(JSON))) $(BIN)/python -m pytest -m chaos $(ARGS)

lint: $(STAMP) ## style, types, layers, protos, freshness of what `make gen` makes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf breaking --against $(RELEASED)
	$(BIN)/hadolint $$(git ls-files '*Dockerfile')
	$(BIN)/yamllint --strict deploy
	@stubs=$$(mktemp -d) && trap 'rm -rf "$$stubs"' EXIT && $(WITH_PLUGINS) $(BIN)/python protos/generate.py "$$stubs" \
		&& diff -r -x __pycache__ "$$stubs" protos/gen || { echo "the stubs are stale: make gen" >&2; exit 1; }
	@page=$$(mktemp) && trap 'rm -f "$$page"' EXIT && $(BIN)/python -m protos.catalogue "$$page" \
		&& diff "$$page" docs/events.md || { echo "the catalogue of events is stale: make gen" >&2; exit 1; }
	@page=$$(mktemp) && trap 'rm -f "$$page"' EXIT && $(BIN)/python -m deploy.prometheus.catalogue "$$page" \
		&& diff "$$page" docs/metrics.md || { echo "the catalogue of metrics is stale: make gen" >&2; exit 1; }
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(BIN)/python -m deploy.grafana "$$folder" \
		&& diff -r "$$folder" deploy/grafana/dashboards || { echo "the dashboards are stale: make gen" >&2; exit 1; }

fmt: $(STAMP) ## format the code, and mend what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

gen: $(STAMP) ## generate the stubs of the protos, docs/events.md and docs/metrics.md, dashboards, the alerts of Kubernetes
	$(WITH_PLUGINS) $(BIN)/python protos/generate.py
	$(BIN)/python -m protos.catalogue
	$(BIN)/python -m deploy.prometheus.catalogue
	$(BIN)/python -m deploy.grafana
	$(BIN)/python -m deploy.k8s.prometheus_rule

golden: $(STAMP) ## keep the bytes of events that are new or gained fields; what is kept never changes
	$(BIN)/python -m protos.golden
	$(BIN)/python -m protos.catalogue

release-protos: $(STAMP) ## call the protos released: `make lint` refuses what breaks them from now on
	$(BIN)/buf build --exclude-source-info --output $(RELEASED)

release: $(STAMP) ## release a commit: keep its code for the tests of the next upgrade (COMMIT=HEAD), its protos too
	@$(BIN)/python -m deploy.release.versions $(COMMIT)
	@$(MAKE) --no-print-directory release-protos
	set -o pipefail; git archive --format=tar $(COMMIT) -- $(RELEASED_PARTS) \
		| $(BIN)/python -c 'import lzma, sys; sys.stdout.buffer.write(lzma.compress(sys.stdin.buffer.read(), preset=9))' \
		> $(PREVIOUS)

# $(call compile,WHAT,LOCK)
compile = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links $(1) --output-file $(2)

lock: $(STAMP) ## resolve pyproject.toml into the locks, with hashes
	$(call compile,--all-extras pyproject.toml,requirements.lock)
	$(call compile,--constraint requirements.lock pyproject.toml,requirements-runtime.lock)
	$(call compile,--group pyproject.toml:bench,requirements-bench.lock)
	$(call compile,--group pyproject.toml:load,requirements-load.lock)

migrate: $(STAMP) ## migrate the databases named in SAGACITY_<PROCESS>_DATABASE_DSN
	@for package in services.users services.inventory services.payments services.orders orchestrator; do \
		$(BIN)/python -m chassis.migrations $$package || exit 1; \
	done

bench: $(STAMP) ## measure orders per second on this machine (JSON=path writes the figures there too)
	@$(BIN)/python -m tests.bench.orders $(if $(JSON),--json-to $(JSON)) $(ARGS)

bench-events: $(STAMP) ## measure the relay, from the outbox to Kafka (JSON=path, ARGS="--quick")
	@$(BIN)/python -m tests.bench.events $(if $(JSON),--json-to $(JSON)) $(ARGS)

$(BENCH_STAMP): requirements-bench.lock | $(STAMP)
	@test -x $(BENCH_VENV)/bin/python || { echo "making $(BENCH_VENV)"; $(PYTHON) -m venv $(BENCH_VENV); }
	@$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.lock
	@touch $@

bench-engine: $(STAMP) $(BENCH_STAMP) ## measure the saga engine, beside DBOS (JSON=path, ARGS="--quick")
	@$(BIN)/python -m tests.bench.engine $(if $(JSON),--json-to $(JSON)) $(ARGS)

# Containers. TAG is the image's; PROFILES=obs,load adds what looks at them and what orders from them.
TAG ?= local
PROFILES ?=
# What was asked for; nothing where TAG is only the default.
ASKED = $(if $(filter file,$(origin TAG)),,$(TAG))
PROJECT := docker compose --project-name sagacity --file deploy/compose.yaml
COMPOSE = SAGACITY_TAG=$(TAG) $(PROJECT)

image: ## build the image sagacity:local of all processes (TAG=1.2.3)
	docker build --file deploy/Dockerfile --tag sagacity:$(TAG) \
		--build-arg VERSION="$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)" \
		--build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null || echo unknown)" .

# What TAG names is there, and is what it was when it was built: only `local` is whatever is checked out.
# $(call there,IMAGE,HOW IT IS MADE)
there = if [ "$(TAG)" = local ] || ! docker image inspect $(1):$(TAG) >/dev/null 2>&1; then $(2); else echo "$(1):$(TAG) is there"; fi

image-there:
	@$(call there,sagacity,$(MAKE) --no-print-directory image TAG=$(TAG))
	@$(if $(findstring load,$(PROFILES)),$(call there,sagacity-load,docker build --file deploy/compose/load.Dockerfile --tag sagacity-load:$(TAG) .))

# Secrets come after who looks whether they are the right ones, also by `make -j`.
.NOTPARALLEL:

secrets: $(STAMP) ## make the secrets of the containers that are missing, in deploy/secrets
	@$(BIN)/python -m deploy.compose.make_secrets $${SAGACITY_SECRETS:+"$$SAGACITY_SECRETS"}

# What is mounted from here can be read by whoever a container's process is.
mounted:
	@deploy/compose/readable.sh

# What databases run with is not replaced by a second set.
same-secrets:
	@deploy/compose/same_secrets.sh $(PROJECT)

up: mounted same-secrets secrets ## everything in containers, until it is healthy; what runs keeps its release (TAG=1.2.3, PROFILES=obs,load)
	@tag=$$(deploy/compose/up.sh tag "$(ASKED)" $(PROJECT)) && $(MAKE) --no-print-directory up-as TAG="$$tag"

up-as: image-there
	@SAGACITY_TAG=$(TAG) deploy/compose/up.sh start "$(PROFILES)" $(PROJECT)

roll: mounted same-secrets secrets image-there ## TAG's release, container by container, while orders are placed (TAG=1.2.4)
	@SAGACITY_TAG=$(TAG) deploy/compose/roll.sh forward $(PROJECT)

roll-back: mounted same-secrets secrets image-there ## the release before, the other way round, on the schema as it is (TAG=1.2.3)
	@SAGACITY_TAG=$(TAG) deploy/compose/roll.sh back $(PROJECT)

down: ## stop the containers and remove them; their data stays (ARGS=--volumes deletes it)
	$(COMPOSE) --profile obs --profile load --profile operator down --remove-orphans $(ARGS)

test-compose: $(STAMP) ## the containers for real: orders, kills, a rolling restart; needs Docker, takes minutes (JSON=path)
	@$(if $(JSON),SAGACITY_COMPOSE_JSON=$(abspath $(JSON))) $(BIN)/python -m pytest -m compose tests/compose $(ARGS)

$(LOAD_STAMP): requirements-load.lock | $(STAMP)
	@test -x $(LOAD_VENV)/bin/python || { echo "making $(LOAD_VENV)"; $(PYTHON) -m venv $(LOAD_VENV); }
	@$(LOAD_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-load.lock
	@touch $@

load: $(LOAD_STAMP) ## customers for a running suite (ARGS="--users 20 --run-time 30s --host http://...")
	@$(LOAD_VENV)/bin/locust -f deploy/load/locustfile.py --headless --host http://127.0.0.1:8080 --users 10 --spawn-rate 10 --run-time 30s $(ARGS)
