# The two that matter: `make start` to learn, `make test` to check everything. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv/bin/python
LESSON ?=
SCALE ?= cpu
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup start lab book test lint tools tidy sync execute audit bench new-lesson pictures gpu pins clean

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## make .venv with all that a learner needs
	@$(PYTHON) ci/bootstrap.py setup

start: ## set up, build the site, serve it with JupyterLab beside it
	@$(PYTHON) ci/bootstrap.py start $(if $(PORT),--port $(PORT))

lab: setup ## JupyterLab on your working copies
	@$(VENV) -m groundup.cli lab

book: setup ## build the site into _build/html
	@$(VENV) -m ci.book

test: ## everything that CI checks
	@$(PYTHON) ci/bootstrap.py setup --test
	@$(VENV) -m ci.test

lint: tools ## ruff and codespell
	@$(VENV) -m ci.test lint

# What an author needs beside a learner's packages; nothing to do when it is there.
tools:
	@$(PYTHON) ci/bootstrap.py setup --test

tidy: tools ## write chapters as JupyterLab saves them, then sync
	@$(VENV) -m ci.sync --tidy

sync: tools ## derive exercises, library and catalogue from chapters/
	@$(VENV) -m ci.sync

execute: tools ## run the lessons whose outputs are out of date
	@$(VENV) -m ci.execute $(LESSON) --scale $(SCALE)

audit: tools ## all gates and all mutants, as a table
	@$(VENV) -m ci.audit $(LESSON)

bench: ## our code beside its peers, as ratios measured in one run
	@$(VENV) -m ci.bench

gpu: setup ## run the GPU lessons, on a machine with one, and write dated records to book/results/
	@$(VENV) -m ci.gpu

pictures: tools ## take the README's pictures again, from the real site and the real JupyterLab
	@$(VENV) -m ci.pictures

new-lesson: tools ## a skeleton: make new-lesson PART=autograd NAME=roots
	@$(VENV) -m ci.new_lesson "$(PART)" "$(NAME)"

pins: ## write ci/constraints.txt from what is installed
	@{ echo "# Every package at the version that the course was tested with. Written by \`make pins\`."; \
	   $(VENV) -m pip list --format=freeze --exclude groundup --exclude pip --exclude setuptools --exclude wheel \
	   | sed -E 's/^torch==([0-9.]+).*/torch==\1/'; } > ci/constraints.txt

clean: ## remove what was built (never your working copies)
	rm -rf _build .pytest_cache .ruff_cache .hypothesis
