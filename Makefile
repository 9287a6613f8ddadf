# The one page of commands. Every target sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

NETWORKS := mf,relational-lightgcn,xsimgcl,graphsage,graphsage-features,hybrid,rgcn,gatv2,hgt,path-fusion

.PHONY: demo atlas test test-fast test-all check docs bench bench-models leaderboards clean

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt --editable '.[text,tune,serve,ann,onnx,mlflow,plot,pyg,ray,sql]' $(shell sed -n '/^dev = \[/,/^\]/s/^ *"\(.*\)",/"\1"/p' pyproject.toml)
	touch $(READY)

demo: $(READY)  ## two studies: a planted database whose truth is known, and MovieLens 100K
	$(BIN)/relrank fetch ml-100k data/ml-100k
	$(BIN)/relrank study studies/planted.toml --out runs/planted
	$(BIN)/relrank study studies/ml-100k-loo.toml --out runs/ml-100k-loo

atlas: $(READY)  ## docs/atlas.md: what relations are worth over many data sets (hours; needs RELRANK_DATA; resumes)
	$(BIN)/relrank atlas studies/atlas.toml --jobs 2

# Files stay whole, so that what a file's tests share is made once. Bytecode is kept for all processes that tests start.
WORKERS ?= 2
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 20 --durations-min 3

STARTS := tests/test_cli.py tests/test_docs.py tests/test_public.py tests/test_platforms.py tests/test_wheel.py tests/kernels/test_jit.py tests/parallel/test_process_group.py  # processes, commands
ROOMS := kernels io parallel tables graph models evaluation explanation
QUICK := $(filter-out $(STARTS),$(wildcard tests/test_*.py $(ROOMS:%=tests/%/test_*.py)))

test: $(READY)  ## all tests but the slow ones
	$(PYTEST) -m "not slow"

test-fast: $(READY)  ## rows, edges, models, metrics: no studies, servers, commands, trained models, real data
	RELRANK_DATA= $(PYTEST) -p no:schemathesis -m "not slow and not training" $(QUICK)

test-all: $(READY)  ## every test, as in CI; at least 92 % of src/ must be run by them
	$(PYTEST) --cov --cov-report=term:skip-covered

check: $(READY)  ## style, types, floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)  ## the documentation site, into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean

bench: $(READY)  ## docs/performance.md: what a user waits for, beside its peers (forty minutes); real data need RELRANK_DATA
	$(BIN)/python benchmarks/speed/run.py

bench-models: $(READY)  ## the other timings and tallies that the docs quote; those on real data need RELRANK_DATA
	$(BIN)/python benchmarks/planted_seeds.py
	$(BIN)/python benchmarks/graphsage_large.py
	$(BIN)/python benchmarks/attention.py
	test -z "$$RELRANK_DATA" || $(BIN)/python benchmarks/closed_forms.py
	test -z "$$RELRANK_DATA" || $(BIN)/python benchmarks/one_fit.py
	test -z "$$RELRANK_DATA" || $(BIN)/python benchmarks/sequence_models.py
	test -z "$$RELRANK_DATA" || $(BIN)/python benchmarks/text_encoding.py
	test -z "$$RELRANK_DATA" || $(BIN)/python benchmarks/fold_in.py
	test -z "$$RELRANK_DATA" || $(BIN)/python benchmarks/explanations.py
	$(BIN)/python benchmarks/stops.py
	$(BIN)/python benchmarks/attack.py runs/attack
	test -z "$$RELRANK_DATA" || $(BIN)/relrank study studies/goodbooks-loo.toml --out runs/goodbooks-loo
	test -z "$$RELRANK_DATA" || ! command -v wrk >/dev/null || $(BIN)/python benchmarks/serving.py runs/goodbooks-loo

leaderboards: $(READY)  ## every family of models, searched alike, on three seeds (hours; needs RELRANK_DATA; resumes)
	$(BIN)/relrank tune studies/ml-100k-models.toml --trials 4 --models $(NETWORKS)
	$(BIN)/relrank study runs/ml-100k-models/tuned.toml
	$(BIN)/relrank tune studies/goodbooks-models.toml --trials 4 --models $(NETWORKS)
	$(BIN)/relrank study runs/goodbooks-models/tuned.toml

clean:
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache
