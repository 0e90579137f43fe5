# `make help` lists what there is. PYTHON= picks another interpreter, ARGS= adds flags to a training.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=
DATA ?=
BASE ?=
NAME :=
TEXT = $(if $(DATA),--data_dir '$(DATA)')
WHERE = $(TEXT) $(if $(BASE),--model_name_or_path '$(BASE)')
BART = $(BIN)/python seq2seq/train_bart.py $(WHERE)
GPT2 = $(BIN)/python gpt2/train_e2e.py $(WHERE)
# stops a target with a variable that it would not look at: $(call without,DATA BASE)
without = $(foreach name,$(1),$(if $(filter command,$(origin $(name))),$(error $@: takes no $(name)=; leave it out)))

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint xsum xsum_news xsum_news_sport cnn_dm scitldr wmt16_en_ro \
	e2e e2e_lowdata webnlg dart e2e_mini webnlg_mini dart_mini sample_tables pretrain_bart pretrain_gpt2 experiment tune bench clean

help: ## list the targets
	@grep -hE '^[a-z0-9_]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(READY) ## make .venv with the project and its pinned packages

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY)

demo: setup ## prefix-tune the carried bart-mini on the carried notices, decode, score (no network but pip's)
	$(call without,DATA BASE NAME)$(BIN)/python seq2seq/train_bart.py --mode prefixtune --output_dir runs/demo --overwrite $(ARGS)

test: setup ## the whole suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

lint: setup ## ruff and mypy
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

xsum: setup ## XSum with the paper's recipe (BASE= and DATA= point elsewhere)
	$(BART) --task xsum $(ARGS)

xsum_news: setup ## XSum, other news topics (DATA= needed)
	$(BART) --task xsum_news $(ARGS)

xsum_news_sport: setup ## XSum, news to sport (DATA= needed)
	$(BART) --task xsum_news_sport $(ARGS)

cnn_dm: setup ## CNN/DailyMail with the paper's recipe
	$(BART) --task cnn_dm $(ARGS)

scitldr: setup ## SciTLDR on bart-mini
	$(BART) --task scitldr $(ARGS)

wmt16_en_ro: setup ## WMT16 English to Romanian
	$(BART) --task wmt16_en_ro $(ARGS)

e2e: setup ## E2E with the paper's recipe (GPT-2)
	$(GPT2) --task e2e $(ARGS)

e2e_mini: setup ## E2E on the carried gpt2-mini
	$(GPT2) --config configs/e2e_mini.yaml $(ARGS)

e2e_lowdata: setup ## E2E from few training pairs with the paper's recipe
	$(GPT2) --config configs/e2e_lowdata.yaml $(ARGS)

webnlg: setup ## WebNLG 2017 with the paper's recipe
	$(GPT2) --task webnlg $(ARGS)

webnlg_mini: setup ## WebNLG 2017 on the carried gpt2-mini
	$(GPT2) --config configs/webnlg_mini.yaml $(ARGS)

dart: setup ## DART with the paper's recipe
	$(GPT2) --task dart $(ARGS)

dart_mini: setup ## DART on the carried gpt2-mini
	$(GPT2) --config configs/dart_mini.yaml $(ARGS)

sample_tables: setup ## the carried tables on the carried gpt2-mini
	$(GPT2) --task sample_tables $(ARGS)

pretrain_bart: setup ## pretrain bart-mini on the text of DATA=
	$(BIN)/python seq2seq/train_bart.py --config configs/pretrain_bart.yaml $(call without,BASE)$(TEXT) $(ARGS)

pretrain_gpt2: setup ## pretrain gpt2-mini on the text of DATA=
	$(BIN)/python gpt2/train_e2e.py --config configs/pretrain_gpt2.yaml $(call without,BASE)$(TEXT) $(ARGS)

experiment: setup ## a study of configs/experiments: NAME=prefix_length (without NAME: list them; ARGS=--report: only report)
	$(BIN)/python gpt2/experiment.py $(if $(NAME),'$(NAME)') $(if $(NAME),$(WHERE)) $(ARGS)

tune: setup ## search learning rate, P and MLP width with Optuna: a search of configs/search, NAME=sample
	$(BIN)/python gpt2/tune.py $(if $(NAME),'$(NAME)') $(WHERE) $(ARGS)

bench: setup ## measure speed and memory beside PEFT and adapters into benchmarks/RESULTS.md (ARGS=--quick: tiny models)
	$(call without,DATA BASE NAME)$(BIN)/python benchmarks/bench.py $(ARGS)

clean: ## remove .venv and caches, keep runs
	rm -rf $(VENV) benchmarks/.adapters-venv .pytest_cache .mypy_cache .ruff_cache
