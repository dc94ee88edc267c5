# `make help` lists the targets. Everything runs in .venv; nothing is installed twice.
SHELL := /bin/bash
# Versions stand in pyproject.toml only.
PYTHON_VERSION := $(shell sed -n 's/^requires-python = ">=\([0-9.]*\),.*/\1/p' pyproject.toml)
TORCH := $(shell sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)
PYTHON ?= python$(PYTHON_VERSION)
# ENGINES="onnx llama_cpp": an environment of its own with what these engines need, and only their groups of CONFIG.
ENGINES ?=
EXTRAS := $(shell echo $(sort $(ENGINES)) | tr "_ " "-,")
VENV := .venv$(addprefix -,$(shell echo $(sort $(ENGINES)) | tr ' ' -))
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONFIG ?= serve_config.yaml
TRAIN_WORK ?= .cache/train
TRAIN_FLAGS ?= --minutes 60 --tokens-per-step 4096 --threads 2 --compile
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup serve check test test-slow test-stand-in test-memory test-unit cluster-test bench bench-routing manifests tools builders quantizer train evaluate-embedded evaluate-routing lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv and install the pinned dependencies; ENGINES="onnx llama_cpp": only theirs, in a .venv of their own

ifeq ($(EXTRAS),)
# --no-deps: the lock is complete, and vllm's unneeded CUDA builds of torchvision and torchaudio must stay out.
# The CPU build of torch is not on PyPI: pip takes it from a configured wheel folder, else uv knows PyTorch's own index.
$(STAMP): requirements/cpu.txt pyproject.toml
	@echo "==> creating $(VENV) with $$($(PYTHON) --version)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "==> installing $(TORCH)"
	@$(BIN)/python -c 'import importlib.metadata as m; assert "torch==" + m.version("torch") == "$(TORCH)"' 2>/dev/null \
		|| $(PIP_INSTALL) --no-deps '$(TORCH)' 2>/dev/null \
		|| { $(PIP_INSTALL) uv && VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --no-deps --torch-backend cpu '$(TORCH:+cpu=)'; }
	@echo "==> installing the pinned dependencies (requirements/cpu.txt, about 3.6 GB, some minutes)"
	@$(PIP_INSTALL) --no-deps -r requirements/cpu.txt
	@echo "==> installing phi-serve itself"
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $(STAMP)
else
# uv installs in seconds what pip takes a minute for; where it cannot be had, or looks at other indexes than pip, pip does it.
EDGE := --constraint requirements/edge.txt --editable '.[$(EXTRAS)]'
$(STAMP): requirements/edge.txt pyproject.toml
	@test -z "$(filter-out onnx llama_cpp,$(ENGINES))" || { echo "ENGINES takes onnx and llama_cpp; vllm needs all: leave ENGINES out" >&2; exit 1; }
	@echo "==> creating $(VENV) with $$($(PYTHON) --version)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "==> installing phi-serve[$(EXTRAS)] and its pinned dependencies (requirements/edge.txt, about 0.7 GB)"
	@{ $(PIP_INSTALL) uv && $(BIN)/uv pip install --quiet --python $(BIN)/python $(EDGE); } 2>/dev/null || $(PIP_INSTALL) $(EDGE)
	@touch $(STAMP)

SELECTED := $(VENV)/serve_config.yaml
GIVEN := $(CONFIG)
.PHONY: $(SELECTED)
$(SELECTED): $(STAMP)
	@$(BIN)/phi-serve select --engines "$(ENGINES)" "$(GIVEN)" > $@
serve: $(SELECTED)
serve: override CONFIG := $(SELECTED)
endif

serve: $(STAMP) ## start Ray and serve CONFIG (serve_config.yaml); the box at the end has the addresses (Ctrl-C stops both)
	@test -r "$(CONFIG)" || { echo "there is no file $(CONFIG); cluster/profiles has configurations for the real model" >&2; exit 1; }
	@exec $(BIN)/phi-serve up "$(CONFIG)"

check: $(STAMP) ## ruff, mypy strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two processes; tests/distribution.py says which tests share one. More would gain little and take memory for engines of their own.
test: $(STAMP) ## unit, contract over every engine, golden bytes, manifests, the app on Ray; all but the slow ones
	$(BIN)/pytest -n 2 -m "not slow and not containers and not measured"

# What runs inside the test's process is tested in two processes; an application on Ray has the machine to itself.
IN_PROCESS := contract pages real store unit
test-slow: $(STAMP) ## soak, several Ray nodes, random schemas by the hundred, processes killed, the contract on the real model's files
	$(BIN)/pytest -n 2 -m slow $(IN_PROCESS:%=tests/%)
	$(BIN)/pytest -m slow $(IN_PROCESS:%=--ignore=tests/%)
	@test "$(STAND_IN)" = no || $(MAKE) test-stand-in

test-stand-in: $(STAMP) ## the contract of engines on the real model's files; part of test-slow, unless STAND_IN=no
	$(BIN)/pytest --model stand-in tests/contract/test_contract.py tests/contract/test_interleaving.py

test-memory: $(STAMP) ## what `phi-serve plan` says against measured memory, engine by engine (a quarter of an hour, 6 GB)
	$(BIN)/pytest -m measured -s tests/models/test_memory.py

test-unit: $(STAMP) ## the tests that need neither Ray nor an engine (seconds)
	$(BIN)/pytest -n 2 tests/unit tests/golden

cluster-test: $(STAMP) ## builds the CPU image and runs a cluster of containers through failures (root, podman, runc; 25 GB of disk)
	$(BIN)/pytest -m containers -s tests/containers

bench: $(STAMP) ## overhead of the whole path over the bare engine, at 1, 8 and 32 streams
	$(BIN)/python -m benchmarks.overhead

bench-routing: $(STAMP) ## the routing policy against four simpler ones, in virtual time
	$(BIN)/python -m benchmarks.routing

manifests: $(STAMP) ## write compose, KubeRay, chart and dashboard files anew from serve_config.yaml
	$(BIN)/python -m serve_app.manifests.files

tools: $(STAMP) ## fetch helm, promtool, prometheus, redis-server, Ollama's JavaScript client, a browser and two small models for the tests into .cache/tools; installs nothing
	@$(BIN)/python -m tests.cluster.fetch_tools

builders: $(STAMP) ## install older releases of onnxruntime-genai's builder for the tests into .cache/tools/builders (1 GB, about a minute)
	@$(BIN)/python -m tests.contract.releases

quantizer: $(STAMP) ## build llama.cpp's quantizer into .cache/tools for the slow tests, once (4 to 12 minutes on two cores)
	@$(BIN)/python -m tests.contract.quantizer

train: $(STAMP) ## train the embedded model anew (hours on CPUs; resumes from TRAIN_WORK; see training/embedded/README.md)
	$(BIN)/python -m training.embedded.train --work $(TRAIN_WORK) $(TRAIN_FLAGS)

evaluate-embedded: $(STAMP) ## accuracy per family of the embedded model on ONNX fp32, int8, int4 and vLLM
	$(BIN)/python -m training.embedded.evaluate

evaluate-routing: $(STAMP) ## accuracy of the task classifier against its goals; more with ROUTING_DATA
	$(BIN)/python -m training.classifier.evaluate

# The locks name versions only: no URLs, no indexes.
UV_COMPILE = $(BIN)/uv pip compile pyproject.toml --quiet --override requirements/overrides.txt --python-version $(PYTHON_VERSION) \
	--no-emit-find-links --no-emit-index-url --no-header
lock: $(STAMP) ## compile requirements/*.txt anew from pyproject.toml
	$(PIP_INSTALL) uv
	$(UV_COMPILE) --extra cpu --extra dev --extra train --torch-backend cpu --output-file requirements/cpu.txt \
		|| $(UV_COMPILE) --extra cpu --extra dev --extra train --find-links "$$PIP_FIND_LINKS" --output-file requirements/cpu.txt
	$(UV_COMPILE) --extra gpu --output-file requirements/gpu.txt
	$(UV_COMPILE) --extra onnx --extra llama-cpp --no-annotate --constraint requirements/cpu.txt --output-file requirements/edge.txt
	$(UV_COMPILE) --extra cpu --no-annotate --constraint requirements/cpu.txt --output-file requirements/image-cpu.txt \
		|| $(UV_COMPILE) --extra cpu --no-annotate --constraint requirements/cpu.txt --find-links "$$PIP_FIND_LINKS" --output-file requirements/image-cpu.txt

clean: ## remove .venv and caches
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build *.egg-info
