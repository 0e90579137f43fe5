# `make help` lists what there is. PYTHON= picks another interpreter, ARGS= adds flags to a training.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=
DATA ?=
BASE ?=
BART = $(BIN)/python seq2seq/train_bart.py $(if $(DATA),--data_dir $(DATA)) $(if $(BASE),--model_name_or_path $(BASE))

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint xsum xsum_news xsum_news_sport cnn_dm scitldr wmt16_en_ro pretrain_bart clean

help: ## list the targets
	@grep -hE '^[a-z0-9_]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(READY) ## make .venv with the project and its pinned packages

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY)

demo: setup ## prefix-tune the carried bart-mini on the carried notices, decode, score (no network but pip's)
	$(BIN)/python seq2seq/train_bart.py --mode prefixtune --output_dir runs/demo --overwrite $(ARGS)

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

pretrain_bart: setup ## pretrain bart-mini on the text of DATA=
	$(BIN)/python seq2seq/train_bart.py --config configs/pretrain_bart.yaml $(if $(DATA),--data_dir $(DATA)) $(ARGS)

clean: ## remove .venv and caches, keep runs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
