"""GPT-2 goes the same way as BART: train, keep, decode, score, resume, pretrain."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SENTENCES
from safetensors.torch import load_file
from small_runs import start, write_text
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoConfig, GPTNeoForCausalLM

from gpt2.run_language_modeling import GPT2, run
from gpt2.trainer_prefix import LanguageModelingModule
from seq2seq.curves import read_rows
from seq2seq.finetune import BART, chosen_task
from seq2seq.loading import load_pretrained, place_of_base
from seq2seq.parsing import parse
from seq2seq.records import Record
from seq2seq.runs import Run
from seq2seq.text_forms import CausalForm
from seq2seq.utils import IGNORE, UserError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def prefix_run(small_gpt2, tmp_path_factory) -> Run:
    directory = tmp_path_factory.mktemp("run") / "prefix"
    start(**{**small_gpt2, "epoch": 12, "learning_rate": 0.1}, output_dir=directory)
    return Run(directory)


class TestTheRun:
    def test_the_loss_falls_and_the_kept_prefix_is_keys_and_values(self, prefix_run):
        losses = [float(row["train_loss"]) for row in read_rows(prefix_run.metrics_csv)]
        assert sum(losses[-5:]) < 0.95 * sum(losses[:5])
        weights = load_file(prefix_run.prefix)
        assert {name: tuple(value.shape) for name, value in weights.items()} == {"decoder.key_values": (1, 2, 2, 3, 8)}
        assert prefix_run.read_metrics()["prefix_parameters"] == 96

    def test_generations_are_the_text_behind_the_prompt(self, prefix_run):
        rows = prefix_run.read_generations("test")
        assert len(rows) == 5
        assert not any(row["source"] in row["generated"] or "<|endoftext|>" in row["generated"] for row in rows)

    def test_decoding_the_run_again_gives_the_same(self, prefix_run, small_gpt2, tmp_path):
        again = {name: small_gpt2[name] for name in ("program", "progress", "threads")}
        start(**again, do_train="no", prefix_model_path=prefix_run.directory, output_dir=tmp_path / "again")
        assert Run(tmp_path / "again").read_generations("test") == prefix_run.read_generations("test")

    def test_finetuning_keeps_the_whole_model(self, small_gpt2, tmp_path):
        directory = start(**small_gpt2, mode="finetune", max_steps=2, output_dir=tmp_path / "run")
        assert directory and (directory / "model" / "model.safetensors").is_file()
        assert Run(directory).read_metrics()["prefix_parameters"] == 0


class TestLoss:
    @pytest.fixture(scope="class")
    def module(self, small_gpt2) -> LanguageModelingModule:
        return self.make(small_gpt2, 0)

    @staticmethod
    def make(small_gpt2: dict[str, Any], objective: int) -> LanguageModelingModule:
        base = small_gpt2["model_name_or_path"]
        flags = [f"--model_name_or_path={base}", f"--objective_mode={objective}", "--mode=finetune", "--task=e2e"]
        cache = f"--cache_dir={small_gpt2['cache_dir']}"
        arguments = parse([*flags, cache], "train_e2e.py")
        model, tokenizer = load_pretrained(str(base), arguments, GPT2)
        records = [Record("a", ("b",))]
        task = chosen_task(arguments)
        return LanguageModelingModule(
            arguments, model, tokenizer, GPT2.form(arguments, tokenizer), task, records, records
        ).train()

    @staticmethod
    def batch(module: LanguageModelingModule) -> Any:
        rows = [([5, 6, 7, 2], [8, 9, 2]), ([5, 2], [10, 11, 12, 13, 2])]
        examples: Any = [
            {"input_ids": torch.tensor(s).numpy(), "labels": torch.tensor(t).numpy(), "index": i}
            for i, (s, t) in enumerate(rows)
        ]
        return CausalForm(module.tokenizer).collate(examples)

    def by_hand(self, module: LanguageModelingModule) -> list[list[float]]:
        """-log p of each target token, row by row, each row alone and without padding."""
        batch, found = self.batch(module), []
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            length = int(mask.sum())
            with torch.no_grad():
                logs = module.model.eval()(ids[None, :length]).logits[0].log_softmax(-1)
            found.append([-float(logs[t - 1, ids[t]]) for t in range(length) if labels[t] != IGNORE])
        return found

    def test_objective_0_is_the_mean_over_the_batchs_target_tokens(self, module):
        rows = self.by_hand(module)
        loss = module.loss(self.batch(module)).item()
        assert [len(row) for row in rows] == [3, 5]
        assert loss == pytest.approx(math.fsum(sum(rows, [])) / 8, rel=1e-5)

    @pytest.mark.parametrize(("objective", "divisor"), [(0, 8), (1, 2)])
    def test_label_smoothing_is_in_both_objectives(self, small_gpt2, objective, divisor):
        module = self.make(small_gpt2, objective)
        module.model.eval()
        batch = self.batch(module)
        with torch.no_grad():
            logits = module.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        wanted = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum", label_smoothing=0.1
        )
        assert module.loss(batch, label_smoothing=0.1).item() == pytest.approx(wanted.item() / divisor, rel=1e-5)

    def test_objective_1_is_the_mean_over_rows_of_row_sums(self, small_gpt2):
        module = self.make(small_gpt2, 1)
        rows = self.by_hand(module)
        module.train()
        module.model.eval()  # no dropout
        assert module.loss(self.batch(module)).item() == pytest.approx(math.fsum(sum(rows, [])) / 2, rel=1e-5)
        module.eval()
        assert module.loss(self.batch(module)).item() == pytest.approx(math.fsum(sum(rows, [])) / 8, rel=1e-5)


class TestBases:
    def test_an_encoder_decoder_is_told_its_command(self, small, small_gpt2):
        with pytest.raises(UserError, match="is a bart, an encoder-decoder; use train_bart.py, or give train_e2e.py"):
            load_pretrained(str(small["model_name_or_path"]), parse([], "train_e2e.py"), GPT2)
        with pytest.raises(UserError, match="is a gpt2, a decoder; use train_e2e.py, or give train_bart.py"):
            load_pretrained(str(small_gpt2["model_name_or_path"]), parse([], "train_bart.py"), BART)

    def test_one_without_sdpa_attention_is_told_the_other(self, tmp_path):
        sizes = {"hidden_size": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 20}
        GPTNeoForCausalLM(GPTNeoConfig(**sizes, attention_types=[[["global", "local"], 1]])).save_pretrained(tmp_path)
        with pytest.raises(UserError, match="has no sdpa attention; give --attn_implementation eager"):
            load_pretrained(str(tmp_path), parse([], "train_e2e.py"), GPT2)

    def test_none_is_asked_for_where_the_package_carries_none(self, monkeypatch, tmp_path):
        monkeypatch.setattr("gpt2.run_language_modeling.GPT2", replace(GPT2, carried_base=tmp_path / "none"))
        arguments = parse(["--task=sample_tables"], "train_e2e.py")
        with pytest.raises(UserError, match="--model_name_or_path: name a base such as gpt2-medium"):
            run(arguments)

    def test_a_base_without_a_pad_token_pads_with_its_end(self, small_gpt2, tmp_path):
        tokenizer = AutoTokenizer.from_pretrained(small_gpt2["model_name_or_path"])
        model = AutoModelForCausalLM.from_pretrained(small_gpt2["model_name_or_path"])
        tokenizer._special_tokens_map.pop("pad_token")
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        _, loaded = load_pretrained(str(tmp_path), parse([], "train_e2e.py"), GPT2)
        assert loaded.pad_token == "<|endoftext|>"

    def test_a_carried_base_goes_by_its_name_from_anywhere(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert Path(place_of_base("gpt2-mini")) == GPT2.carried_base
        assert Path(place_of_base("bart-mini")) == BART.carried_base
        assert place_of_base("gpt2-medium") == "gpt2-medium"
        (tmp_path / "gpt2-mini").mkdir()  # one's own of that name comes first, as everywhere
        assert place_of_base("gpt2-mini") == "gpt2-mini"

    def test_a_row_that_does_not_fit_is_refused_at_once(self, small_gpt2, tmp_path):
        given = {**small_gpt2, "max_source_length": 110, "preseqlen": 4}
        said = "--max_source_length 110: with the target and the prefix a row has up to 130 tokens, .* 128 positions"
        with pytest.raises(UserError, match=f"{said}; give at most 108"):
            start(**given, output_dir=tmp_path / "run")
        start(**{**given, "max_source_length": 108, "max_steps": 1, "n_val": 0}, output_dir=tmp_path / "run")

    @pytest.mark.parametrize("longest", ["max_target_length", "val_max_target_length", "max_length"])
    def test_a_row_has_the_longest_target_of_training_validation_and_search(self, small_gpt2, tmp_path, longest):
        given = {**small_gpt2, "max_source_length": 100, "preseqlen": 3, longest: 40}
        with pytest.raises(UserError, match="with the target and the prefix a row has up to 143 .*; give at most 85"):
            start(**given, output_dir=tmp_path / "run")

    def test_a_hidden_source_takes_no_positions(self, small_gpt2, tmp_path):
        given = {**small_gpt2, "format_mode": "nopeek", "max_source_length": 500, "preseqlen": 4, "n_val": 0}
        start(**{**given, "max_target_length": 123, "max_steps": 1}, output_dir=tmp_path / "run")
        said = (
            "--max_target_length 124: with the prefix a row has up to 129 tokens, .*; lower --max_target_length or --p"
        )
        with pytest.raises(UserError, match=said):
            start(**{**given, "max_target_length": 124}, output_dir=tmp_path / "other")

    def test_a_row_behind_as_many_vectors_as_there_are_words_is_refused(self, small_gpt2, tmp_path):
        words = AutoTokenizer.from_pretrained(small_gpt2["model_name_or_path"]).tokenize(SENTENCES[0])
        fits = 128 - 16 - len(words)
        given = {"preseqlen": None, "lowdata_token": SENTENCES[0], "max_source_length": fits + 1}
        with pytest.raises(UserError, match=f"a row has up to 129 tokens, .*; give at most {fits}$"):
            start(**{**small_gpt2, **given}, output_dir=tmp_path / "run")


class TestPretraining:
    @pytest.fixture(scope="class")
    def run(self, tmp_path_factory) -> Run:
        place = tmp_path_factory.mktemp("pretraining")
        text, held = write_text(place / "text"), write_text(place / "held", documents=20) / "text.txt"
        sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 514, "initializer_range": 0.3}
        start(
            program="train_e2e.py", mode="pretrain", base_config=json.dumps(sizes), vocab_size=300, data_dir=text,
            valid_file=held, tokens_per_batch=1024, window_lengths="[32, 64]", text_to_text_share=0.5, epoch=3,
            learning_rate=0.01, precision="32", progress="no", threads=1, cache_dir=place / "cache",
            output_dir=place / "run",
        )  # fmt: skip
        return Run(place / "run")

    def test_the_loss_falls_and_a_base_comes_out(self, run):
        losses = [float(row["train_loss"]) for row in read_rows(run.metrics_csv)]
        assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
        assert AutoModelForCausalLM.from_pretrained(run.model).config.n_embd == 16
        assert AutoTokenizer.from_pretrained(run.model).eos_token == "<|endoftext|>"

    def test_a_base_may_start_with_anothers_embeddings(self, run, tmp_path):
        options: dict[str, Any] = {
            "program": "train_e2e.py", "mode": "pretrain", "data_dir": write_text(tmp_path / "text"),
            "base_config": json.dumps({"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 514}),
            "tokenizer_name_or_path": run.model, "tokens_per_batch": 512, "max_steps": 1, "learning_rate": 1e-12,
            "precision": "32", "progress": "no", "threads": 1, "cache_dir": tmp_path / "cache",
        }  # fmt: skip
        start(**options, embeddings_from=run.model, output_dir=tmp_path / "run")
        table, theirs = (
            AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight
            for folder in (tmp_path / "run/model", run.model)
        )
        assert torch.equal(table, theirs)
        options["base_config"] = options["base_config"].replace("16", "32")
        with pytest.raises(UserError, match=r"--embeddings_from .*: has embeddings of shape \(300, 16\), the new base"):
            start(**options, embeddings_from=run.model, output_dir=tmp_path / "other")

    def test_barts_pretraining_refuses_forms(self, tmp_path, small):
        options = {"mode": "pretrain", "data_dir": write_text(tmp_path / "text"), "text_to_text_share": 0.5}
        sizes = json.dumps({"d_model": 16, "encoder_layers": 1, "decoder_layers": 1})
        with pytest.raises(UserError, match="--text_to_text_share: is for GPT-2's pretraining"):
            start(**options, base_config=sizes, vocab_size=300, cache_dir=tmp_path / "c", output_dir=tmp_path / "r")


def test_help_comes_without_torch():
    code = "import sys; sys.argv = ['train_e2e.py', '--help']; import gpt2.train_e2e as t; t.main()"
    shown = subprocess.run([sys.executable, "-X", "importtime", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "--objective_mode" in shown.stdout and "torch" not in shown.stderr
