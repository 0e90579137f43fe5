"""Every --mode and every way to start, in both families: what is trained, what is kept, and that it decodes again."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import flags, start
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from gpt2.run_language_modeling import GPT2
from seq2seq.arguments import Arguments
from seq2seq.curves import read_rows
from seq2seq.finetune import BART, chosen_task, load_split
from seq2seq.kept_files import save_tokenizer
from seq2seq.lightning_base import BaseTransformer, distillation_loss
from seq2seq.loading import check_positions, load_pretrained
from seq2seq.parsing import parse
from seq2seq.prefixTuning import PrefixTuning
from seq2seq.records import Record, draw
from seq2seq.runs import Run
from seq2seq.tasks import Search
from seq2seq.tuning import tune
from seq2seq.utils import UserError

pytestmark = pytest.mark.usefixtures("without_curves")

Options = dict[str, Any]
WAYS: dict[str, Options] = {
    "flat prefix": {"mid_dim": 0},
    "deep prefix": {"deep": "yes"},
    "embedding prefix": {"prefix_mode": "embedding"},
    "top": {"mode": "finetune-top", "top_layers": 1},
    "adapters 1": {"mode": "adaptertune", "bottleneck": 4},
    "adapters 2": {"mode": "adaptertune", "bottleneck": 4, "adapter_design": 2},
    "both": {"mode": "bothtune"},
}
DECODERS_ONLY: dict[str, Options] = {"nopeek": {"format_mode": "nopeek"}, "infix": {"format_mode": "infix"}}
PREFIX, ADAPTERS, MODEL = "prefix.safetensors", "adapters.safetensors", "model/model.safetensors"
KEPT = {"top": {MODEL}, "adapters 1": {ADAPTERS}, "adapters 2": {ADAPTERS}, "both": {PREFIX, MODEL}}


@pytest.fixture(params=["bart", "gpt2"])
def family(request, small, small_gpt2) -> Options:
    return {"bart": small, "gpt2": small_gpt2}[request.param]


def again(directory: Path, options: Options, to: Path) -> Run:
    """Decode a run once more, into another directory."""
    call = {name: options[name] for name in ("program", "progress", "threads") if name in options}
    start(**call, do_train="no", prefix_model_path=directory, output_dir=to)
    return Run(to)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_trains_keeps_and_decodes_again(family, way, tmp_path):
    directory = start(**{**family, **WAYS[way], "max_steps": 4, "n_val": 0}, output_dir=tmp_path / "run")
    assert directory
    assert {name for name in (PREFIX, ADAPTERS, MODEL) if (directory / name).is_file()} == KEPT.get(way, {PREFIX})
    run = Run(directory)
    repeated = again(directory, family, tmp_path / "again")
    assert repeated.read_generations("test") == run.read_generations("test")
    assert repeated.read_metrics()["test"] == run.read_metrics()["test"]
    trained = torch.load(run.last_checkpoint, weights_only=True)["state_dict"]
    assert sum(value.numel() for value in trained.values()) == run.read_metrics()["trainable_parameters"]


def test_a_bases_own_lengths_do_not_win_over_the_tasks(small, tmp_path):
    base = shutil.copytree(small["model_name_or_path"], tmp_path / "base")
    config = json.loads((base / "generation_config.json").read_text())
    (base / "generation_config.json").write_text(json.dumps({**config, "max_new_tokens": 2, "min_new_tokens": 1}))
    options = {**small, "max_steps": 1, "n_val": 0}
    runs = [start(**{**options, "model_name_or_path": name}, output_dir=tmp_path / str(i))
            for i, name in enumerate((small["model_name_or_path"], base))]  # fmt: skip
    one, other = (Run(run).read_generations("test") for run in runs if run)
    assert one == other and any(len(row["generated"]) > 9 for row in one)


def test_a_source_prefix_is_as_if_it_stood_in_the_data(family, tmp_path):
    data = shutil.copytree(family["data_dir"], tmp_path / "data")
    for file in data.glob("*.jsonl"):
        file.write_text(file.read_text().replace('"source": "', '"source": "In town: '))
    options = {**family, "max_steps": 2, "n_val": 0}
    runs = [start(**{**options, **given}, output_dir=tmp_path / str(i))
            for i, given in enumerate(({"source_prefix": "In town: "}, {"data_dir": data}, {}))]  # fmt: skip
    one, other, without = (Run(run).read_generations("test") for run in runs if run)
    assert [row["generated"] for row in one] == [row["generated"] for row in other]
    assert [row["source"] for row in one] == [row["source"] for row in without] != [row["source"] for row in other]
    losses = [Run(run).metrics_csv.read_text() for run in runs[::2] if run]
    assert losses[0] != losses[1]
    assert runs[0] and again(runs[0], family, tmp_path / "again").read_generations("test") == one


@pytest.mark.parametrize("way", DECODERS_ONLY)
class TestFormatModes:
    def test_train_and_decode_again(self, small_gpt2, way, tmp_path):
        options = {**small_gpt2, **DECODERS_ONLY[way], "max_steps": 4, "n_val": 2, "baselines": "all"}
        directory = start(**options, output_dir=tmp_path / "a")
        assert directory
        assert "untuned base" in Run(directory).read_metrics()["baselines"]
        repeated = again(directory, small_gpt2, tmp_path / "again")
        texts = [row["generated"] for row in repeated.read_generations("test")]
        assert texts == [row["generated"] for row in Run(directory).read_generations("test")]
        if way == "nopeek":
            assert len(set(texts)) == 1  # nothing of the source is seen

    def test_are_for_decoders(self, small, way, tmp_path):
        with pytest.raises(UserError, match=f"--format_mode {way}: is for decoders"):
            start(**{**small, **DECODERS_ONLY[way]}, output_dir=tmp_path / "run")


class TestWhatIsTrained:
    def made(self, family: Options, **options: Any) -> Any:
        program = family.get("program", "train_bart.py")
        given = {k: v for k, v in {**family, **options}.items() if k != "program"}
        arguments = parse(flags(**given), program)
        model, tokenizer = load_pretrained(
            str(arguments.model_name_or_path), arguments, GPT2 if program == "train_e2e.py" else BART
        )
        return tune(arguments, model, tokenizer)

    def test_finetuning_trains_everything(self, family):
        assert all(p.requires_grad for p in self.made(family, mode="finetune").parameters())

    def test_a_prefix_trains_nothing_of_the_base(self, family):
        prefix = self.made(family)
        assert not any(p.requires_grad for p in prefix.model.parameters())
        assert all(p.requires_grad for p in prefix.prefix.parameters())

    def test_both_train_everything_and_the_prefix(self, family):
        assert all(p.requires_grad for p in self.made(family, mode="bothtune").parameters())

    def test_the_top_is_the_last_block_of_each_stack_and_the_norm_behind_it(self, family):
        model = self.made(family, mode="finetune-top", top_layers=1)
        names = {name.rsplit(".", 1)[0] for name, p in model.named_parameters() if p.requires_grad}
        block = ("transformer.h.0.", "model.encoder.layers.0.", "model.decoder.layers.0.")
        assert names and all(name.startswith(block) or name == "transformer.ln_f" for name in names)
        with pytest.raises(UserError, match="--top_layers 2: the base has 1 blocks a stack; give at most that"):
            self.made(family, mode="finetune-top", top_layers=2)

    @pytest.mark.parametrize(
        "options, said",
        [
            ({"prefix_mode": "embedding", "deep": "yes"}, "--deep: is for --prefix_mode activation"),
            ({"prefix_mode": "embedding", "format_mode": "infix"}, "an infix has keys and values"),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, small_gpt2, options, said):
        with pytest.raises(UserError, match=said):
            self.made(small_gpt2, **options)


class TestStarts:
    def test_words_give_their_own_keys_and_values(self, family):
        tokenizer = AutoTokenizer.from_pretrained(family["model_name_or_path"])
        length = len(tokenizer("the town hall", add_special_tokens=False)["input_ids"])
        options = {"mid_dim": 0, "preseqlen": length, "lowdata_token": "the town hall"}
        prefix = TestWhatIsTrained().made(family, **options)
        expected = PrefixTuning(AutoModel.from_pretrained(family["model_name_or_path"]), mid_dim=0)
        expected.init_from_text("the town hall", tokenizer)
        assert expected.preseqlen == length
        for name, value in prefix.key_values().items():
            assert torch.allclose(value, expected.key_values()[name], atol=1e-6)

    def test_another_runs_prefix_is_taken_up(self, family, tmp_path):
        first = start(**{**family, "mid_dim": 0, "max_steps": 2}, output_dir=tmp_path / "first")
        options = {**family, "mid_dim": 0, "learning_rate": 1e-12, "max_steps": 1, "n_val": 0}
        start(**options, prefix_model_path=first, output_dir=tmp_path / "second")
        assert Run(tmp_path / "second").read_config()["prefix_model_path"] == str(first)
        assert "prefix_model_path" not in Run(first).read_config()
        kept = [load_file(tmp_path / name / PREFIX) for name in ("first", "second")]
        assert kept[0].keys() == kept[1].keys()
        assert all(torch.allclose(kept[0][name], kept[1][name], atol=1e-6) for name in kept[0])
        with pytest.raises(UserError, match="--prefix_model_path .*: its prefix has .*, this one"):
            start(**{**options, "preseqlen": 4}, prefix_model_path=first, output_dir=tmp_path / "third")

    def test_one_start_excludes_another(self, small, tmp_path):
        with pytest.raises(UserError, match="both start the prefix; give one of them"):
            start(**small, lowdata_token="a", prefix_model_path=tmp_path, output_dir=tmp_path / "run")
        with pytest.raises(UserError, match="--mode finetune has no prefix to start"):
            start(**small, mode="finetune", prefix_model_path=tmp_path, output_dir=tmp_path / "run")


class TestDistillation:
    def test_the_loss_is_the_kl_on_target_tokens(self):
        torch.manual_seed(0)
        student, teacher = torch.randn(3, 5), torch.randn(3, 5)
        p, q = teacher.softmax(-1), student.softmax(-1)
        by_hand = sum(float((p[n] * (p[n] / q[n]).log()).sum()) for n in range(3)) / 3
        assert distillation_loss(student, teacher).item() == pytest.approx(by_hand, rel=1e-5)

    def test_a_prefix_comes_nearer_to_its_teacher(self, family, tmp_path):
        teacher = start(**{**family, "mode": "finetune", "max_steps": 10, "n_val": 0}, output_dir=tmp_path / "teacher")
        assert teacher
        options = {**family, "epoch": 8, "n_val": 0, "learning_rate": 0.05, "distill_from": teacher / "model"}
        run = start(**options, output_dir=tmp_path / "run")
        assert run
        losses = [float(row["train_loss"]) for row in read_rows(run / "metrics.csv")]
        assert sum(losses[-5:]) < 0.9 * sum(losses[:5])

    def test_a_teacher_with_too_few_positions_is_refused(self, family, tmp_path):
        config = AutoConfig.from_pretrained(family["model_name_or_path"])
        short = {"n_positions": 40} if config.model_type == "gpt2" else {"max_position_embeddings": 40}
        shutil.copytree(family["model_name_or_path"], tmp_path / "teacher")
        config.update(short)
        auto = AutoModelForCausalLM if config.model_type == "gpt2" else AutoModelForSeq2SeqLM
        auto.from_config(config).save_pretrained(tmp_path / "teacher")
        with pytest.raises(UserError, match="--max_source_length 56: --distill_from .*/teacher has 40 positions; give"):
            start(**family, distill_from=tmp_path / "teacher", output_dir=tmp_path / "run")
        arguments = parse(flags(**{k: v for k, v in family.items() if k != "program"}), "train_bart.py")
        task = replace(chosen_task(arguments), max_source_length=20, search=Search(1, 0, 41, 1.0, 0, False))
        check_positions(auto.from_config(config), arguments, task, "a teacher", generates=False)
        with pytest.raises(UserError, match="--max_length 41: a base has 40 positions"):
            check_positions(auto.from_config(config), arguments, task, "a base")

    @pytest.mark.parametrize("mode, dtype", [("prefixtune", torch.bfloat16), ("finetune", torch.float32)])
    def test_the_teacher_computes_in_the_students_precision(self, small, tmp_path, monkeypatch, mode, dtype):
        teacher = start(**{**small, "mode": "finetune", "max_steps": 1, "n_val": 0}, output_dir=tmp_path / "teacher")
        assert teacher
        seen = []
        learn_from = BaseTransformer.learn_from
        monkeypatch.setattr(BaseTransformer, "learn_from", lambda m, t: (seen.append(t.dtype), learn_from(m, t)))
        options = {**small, "mode": mode, "precision": "bf16", "max_steps": 1, "n_val": 0}
        start(**options, distill_from=teacher / "model", output_dir=tmp_path / "run")
        assert seen == [dtype]

    def test_half_of_it_is_half_the_usual_loss(self, small, tmp_path):
        teacher = start(**{**small, "mode": "finetune", "max_steps": 4, "n_val": 0}, output_dir=tmp_path / "teacher")
        assert teacher
        first = {}
        for weight in (None, 1.0, 0.5):
            given = {"distill_from": teacher / "model", "distill_weight": weight} if weight else {}
            start(**{**small, "max_steps": 1, "n_val": 0}, **given, output_dir=tmp_path / str(weight))
            first[weight] = float(read_rows(tmp_path / str(weight) / "metrics.csv")[0]["train_loss"])
        assert first[0.5] == pytest.approx((first[None] + first[1.0]) / 2, rel=1e-4)

    def test_what_cannot_be_is_refused(self, small, small_gpt2, tmp_path, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else it waits for an answer
        with pytest.raises(UserError, match="--distill_from: the teacher reads the source; --format_mode nopeek hides"):
            start(**small_gpt2, format_mode="nopeek", distill_from="x", output_dir=tmp_path / "run")
        with pytest.raises(UserError, match="--distill_from nowhere: not found here or on the hub"):
            start(**small, distill_from="nowhere", output_dir=tmp_path / "run")
        with pytest.raises(UserError, match="--distill_weight 0.0: is a share"):
            start(**small, distill_weight=0.0, output_dir=tmp_path / "run")


class TestLowData:
    RECORDS = [Record(str(i), ("x",)) for i in range(40)]

    def test_a_smaller_draw_is_part_of_a_larger_one(self):
        for count, sizes in ((40, (5, 10, 40)), (3000, (50, 200, 900))):  # random.sample changes its way with the sizes
            records = [Record(str(i), ("x",)) for i in range(count)]
            draws = [{record.source for record in draw(records, n, seed=3)} for n in sizes]
            assert tuple(map(len, draws)) == sizes and draws[0] < draws[1] < draws[2]

    def test_of_many_references_a_source_keeps_those_that_are_drawn(self):
        records = [Record(str(i), tuple(f"{i}{letter}" for letter in "abcdef"), part="p") for i in range(8)]
        whole = [(record.source, reference) for record in records for reference in record.references]
        for count in (1, 5, 20, 48):
            drawn = draw(records, count, seed=1)
            pairs = [(record.source, reference) for record in drawn for reference in record.references]
            assert len(pairs) == count and pairs == [pair for pair in whole if pair in pairs]
            assert len({record.source for record in drawn}) == len(drawn) and {r.part for r in drawn} == {"p"}
        assert drawn == records
        with pytest.raises(UserError, match="--lowdata 49: there are 48 training pairs; give at most that"):
            draw(records, 49, seed=1)

    def test_other_seeds_draw_others(self):
        assert draw(self.RECORDS, 10, seed=1) != draw(self.RECORDS, 10, seed=2)

    def test_the_first_n_records_are_those_of_all_parts_together(self, tmp_path):
        rows = [{"source": f"s{i}", "target": "t", "part": "ab"[i % 2]} for i in range(6)]
        for split in ("train", "test"):
            (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        arguments = Arguments(data_dir=str(tmp_path), n_train=3, n_test=2)
        kept = {split: load_split(chosen_task(arguments), arguments, split) for split in ("train", "test")}
        assert [record.source for record in kept["train"]] == ["s0", "s1", "s2"]
        assert [record.source for record in kept["test"]] == ["s0", "s1", "s2", "s3"]  # of each part

    def test_the_run_trains_on_them_alone(self, small, tmp_path):
        directory = start(**{**small, "epoch": 3}, lowdata=8, output_dir=tmp_path / "run")
        assert directory
        assert torch.load(Run(directory).last_checkpoint, weights_only=True)["global_step"] == 6  # 3 · 8 / 4
        with pytest.raises(UserError, match="--lowdata 21: there are 20 training pairs; give at most that"):
            start(**small, lowdata=21, output_dir=tmp_path / "other")


def test_a_kept_tokenizer_does_not_cut_as_its_last_call_did(tiny_tokenizer: Any, tmp_path: Path) -> None:
    tokenizer = deepcopy(tiny_tokenizer)
    tokenizer(["one text", "another, longer text"], truncation=True, max_length=3, padding=True)
    tokenizer.init_kwargs |= {"is_local": True, "local_files_only": True}
    save_tokenizer(tokenizer, tmp_path)
    kept = json.loads((tmp_path / "tokenizer.json").read_text())
    assert kept["truncation"] is None and kept["padding"] is None
    assert not {"is_local", "local_files_only"} & json.loads((tmp_path / "tokenizer_config.json").read_text()).keys()
