# `make` lists the targets. Each sets up what it needs in .venv, once.
#   SYSTEM_TORCH=1   use the torch of the system's python, as in containers and on clusters
#   STACK=openmmlab  another set of versions, in a .venv of its own: the files in requirements/
#   PYTHON=python3   the interpreter that .venv is made with
#   WHEELHOUSE=wheelhouse   the folder of `make wheelhouse` and `make install-offline`
#   TARGET_PYTHON=3.11, TARGET_PLATFORM=manylinux_2_28_x86_64   the target machine (default: a machine like this one)
#   POINTS=60        how many starting points `make docs` simulates; 2 are enough to see that the pages build
#   MAX_JOBS=N       how many compilers build mmcv's operators (default: the number of cores)
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
STACK ?= onedl
VENV := .venv$(if $(filter-out onedl,$(STACK)),-$(STACK))
BIN := $(VENV)/bin
WHEELHOUSE ?= wheelhouse
POINTS ?= 60
export STACK
export MAX_JOBS ?= $(shell nproc)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

CONSTRAINTS := requirements/$(STACK).txt
SETTINGS := Makefile setup.cfg pyproject.toml tools/setup_env.sh $(CONSTRAINTS) $(wildcard requirements/$(STACK).*.lock)
TARGET = $(strip $(TARGET_PYTHON:%=--python %) $(TARGET_PLATFORM:%=--platform %) $(if $(SYSTEM_TORCH),--system-torch))
DEMO_CONFIG := configs/yolox/yolox_nano_recommended_1xb8-15e_shapes.py

.PHONY: help demo test test-slow bench lint docs lock vulnerabilities ops wheelhouse install-offline clean
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.run  ## train the recommended losses on drawn shapes, evaluate, draw pictures: minutes on a CPU
	$(BIN)/python tools/make_shapes.py
	$(BIN)/python tools/train.py $(DEMO_CONFIG) --work-dir work_dirs/demo

test: $(VENV)/.dev  ## run the tests
	$(BIN)/python -m pytest

test-slow: $(VENV)/.dev  ## compile every loss to code and compare it with the formula: tens of minutes
	$(BIN)/python -m pytest -m slow

bench: $(VENV)/.dev  ## measure time, memory, operations and host syncs beside mmdet's: minutes on a CPU
	$(BIN)/python tools/benchmark.py

lint: $(VENV)/.dev  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs  ## draw tables and curves, and build the pages: docs/_build/html/index.html
	$(BIN)/python docs/tables.py
	$(BIN)/python tools/plot_losses.py --out docs/_generated
	$(BIN)/python tools/simulate_regression.py --points $(POINTS) --out docs/_generated
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

lock: $(VENV)/.dev $(VENV)/.docs $(VENV)/.maintain  ## pin all packages anew, with their hashes, and list their licenses
	$(BIN)/python tools/lock.py

vulnerabilities: $(VENV)/.maintain  ## ask for known vulnerabilities of the locked packages; needs a network
	for lock in requirements/*.lock; do $(BIN)/pip-audit --disable-pip --require-hashes --strict --requirement $$lock; done

ops:  ## rebuild mmcv's operators, bypassing pip's cache: the remedy for a broken set-up
	tools/setup_env.sh ops

wheelhouse:  ## collect in a folder what a machine without network needs: minutes
	$(PYTHON) tools/wheelhouse.py "$(WHEELHOUSE)" $(TARGET)

install-offline:  ## set up .venv from that folder, without network
	@$(MAKE) --no-print-directory $(VENV)/.dev WHEELHOUSE="$(WHEELHOUSE)"

clean:  ## remove .venv and what builds leave behind; data and work_dirs stay
	rm -rf $(VENV) build dist *.egg-info docs/_build docs/_generated

$(VENV)/.run: $(SETTINGS)
	tools/setup_env.sh run
	touch $@

$(VENV)/.dev: $(VENV)/.run
	tools/setup_env.sh dev
	touch $@

$(VENV)/.docs: $(VENV)/.run
	tools/setup_env.sh docs
	touch $@

$(VENV)/.maintain: $(VENV)/.run
	tools/setup_env.sh maintain
	touch $@
