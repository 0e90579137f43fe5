"""From the command to the run directory: what a run trains, keeps, scores and shows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file
from small_runs import flags, records, start, write_base
from torch import Tensor

from seq2seq import decoding
from seq2seq.curves import read_rows
from seq2seq.finetune import BART, chosen_task, module_for
from seq2seq.generation import generate
from seq2seq.lightning_base import BaseTransformer
from seq2seq.loading import load_base
from seq2seq.parsing import parse
from seq2seq.records import load_records
from seq2seq.runs import Run
from seq2seq.utils import UserError

Small = dict[str, Any]
SITES = ("encoder", "decoder", "cross")


@pytest.fixture(scope="module")
def prefix_run(small, tmp_path_factory) -> Path:
    """A prefix-tuning, started as a user does: `python train_bart.py` inside seq2seq/."""
    directory = tmp_path_factory.mktemp("prefix") / "run"
    program = Path(__file__).resolve().parent.parent / "seq2seq" / "train_bart.py"
    command = [sys.executable, program.name, *flags(**small, output_dir=directory)]
    done = subprocess.run(command, cwd=program.parent, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (directory.parent / "stdout").write_text(done.stdout)
    return directory


@pytest.fixture(scope="module")
def tuned_run(small, tmp_path_factory) -> Path:
    """A fine-tuning that learns its five sentences."""
    directory = tmp_path_factory.mktemp("tuned") / "run"
    options = {**small, "mode": "finetune", "epoch": 20, "learning_rate": 0.02, "n_val": 0}
    start(**options, output_dir=directory)
    return directory


def files_of(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def losses(directory: Path) -> list[float]:
    return [float(row["train_loss"]) for row in read_rows(directory / "metrics.csv")]


def module_of(small: Small, **options: Any) -> tuple[BaseTransformer, dict[str, Tensor]]:
    """The module that the command would train, in eval mode, and a batch of its first four records."""
    arguments = parse(flags(**{**small, **options}), "train_bart.py")
    task = chosen_task(arguments)
    train, val = (load_records(task, arguments.data_dir, split).items for split in ("train", "val"))
    model, tokenizer = load_base(arguments, task, BART)
    module = module_for(arguments.mode, task.kind)(
        arguments, model, tokenizer, BART.form(arguments, tokenizer), task, train, val
    )
    return module.eval(), module.form.collate([module.train_tokens[i] for i in range(4)])


class TestTheRunDirectory:
    ALWAYS = [
        *("checkpoints/best.ckpt", "checkpoints/last.ckpt", "config.yaml", "curves.png", "generations_test.jsonl"),
        *("metrics.csv", "metrics.json"),
    ]

    def test_a_prefix_tuning_leaves_exactly_its_files(self, prefix_run):
        assert files_of(prefix_run) == [*self.ALWAYS, "prefix.safetensors", "prefix_config.json"]

    def test_a_fine_tuning_leaves_the_model_in_the_prefixs_place(self, tuned_run):
        model = {name for name in files_of(tuned_run) if name.startswith("model/")}
        assert {"model/config.json", "model/model.safetensors", "model/tokenizer.json"} <= model
        assert sorted(set(files_of(tuned_run)) - model) == self.ALWAYS

    def test_the_kept_prefix_is_keys_and_values_of_each_site_and_nothing_else(self, prefix_run):
        kept = load_file(prefix_run / "prefix.safetensors")
        assert {name: tuple(value.shape) for name, value in kept.items()} == {
            f"{site}.key_values": (1, 2, 2, 3, 8)
            for site in SITES  # layers, key and value, heads, P, head width
        }
        assert all(value.dtype == torch.float32 for value in kept.values())

    def test_checkpoints_hold_what_is_trained_and_no_frozen_weight(self, prefix_run, tuned_run):
        for name in ("last.ckpt", "best.ckpt"):
            state = torch.load(prefix_run / "checkpoints" / name, weights_only=True)
            parts = ("embedding", "mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias")
            assert set(state["state_dict"]) == {f"model.prefix.{site}.{part}" for site in SITES for part in parts}
            assert state["hyper_parameters"]["preseqlen"] == 3
        whole = torch.load(tuned_run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        assert sum(value.numel() for value in whole.values()) == Run(tuned_run).read_metrics()["base_parameters"]

    def test_what_is_kept_is_the_best_checkpoints_prefix_and_not_the_lasts(self, small, prefix_run):
        steps = {}
        for name in ("last", "best"):
            state = torch.load(prefix_run / f"checkpoints/{name}.ckpt", weights_only=True)
            module, _ = module_of(small)
            module.load_state_dict(state["state_dict"], strict=False)
            made = module.model.collapse().prefix.state_dict()
            kept = load_file(prefix_run / "prefix.safetensors")
            steps[name] = (state["global_step"], all(torch.equal(made[key], kept[key]) for key in kept))
        assert steps == {"best": (5, True), "last": (10, False)}

    def test_metrics_hold_scores_sizes_and_times(self, prefix_run, tuned_run):
        for run, kept in ((prefix_run, 288), (tuned_run, 0)):
            metrics = Run(run).read_metrics()
            for split, n in (("test", 5), ("test/easy", 3), ("test/hard", 2)):
                assert set(metrics[split]) == {"rouge1", "rouge2", "rougeL", "rougeLsum"}
                for score in metrics[split].values():
                    assert 0 <= score["score"] <= 100 and "rouge-score" in score["signature"] and score["n"] == n
            assert metrics["base_parameters"] == 14160
            assert metrics["prefix_parameters"] == kept
            assert metrics["train_seconds"] > 0 and metrics["examples_per_second"] > 0
        assert Run(prefix_run).read_metrics()["trainable_parameters"] == 1416
        assert Run(tuned_run).read_metrics()["trainable_parameters"] == 14160

    def test_a_fine_tuning_learns_to_copy_the_sources_words(self, tuned_run):
        assert Run(tuned_run).read_metrics()["test"]["rougeL"]["score"] > 50

    def test_parts_of_the_test_split_are_scored_apart(self, tuned_run):
        metrics = Run(tuned_run).read_metrics()
        whole, easy, hard = (metrics[split]["rougeL"]["score"] for split in ("test", "test/easy", "test/hard"))
        assert whole == pytest.approx((3 * easy + 2 * hard) / 5) and easy != hard

    def test_the_table_has_one_row_a_step_and_a_validation_an_epoch(self, prefix_run):
        rows = read_rows(prefix_run / "metrics.csv")
        assert [int(row["step"]) for row in rows] == list(range(1, 11))
        assert [row["step"] for row in rows if row["val_loss"]] == ["5", "10"]
        assert all(row["val_rougeL"] for row in rows if row["val_loss"])
        rates = [float(row["learning_rate"]) for row in rows]
        assert rates == pytest.approx([0.02 * (10 - step) / 10 for step in range(10)])

    def test_generations_stand_beside_their_sources_and_references(self, tuned_run):
        generations = Run(tuned_run).read_generations("test")
        assert [g["source"] for g in generations] == [row["source"] for row in records(5)]
        assert [g["references"] for g in generations] == [[row["target"]] for row in records(5)]
        assert [g["part"] for g in generations] == ["easy"] * 3 + ["hard"] * 2
        assert len({g["generated"] for g in generations}) > 1

    def test_the_recipe_of_the_run_is_kept_and_the_call_is_not(self, prefix_run):
        config = Run(prefix_run).read_config()
        assert (config["mode"], config["preseqlen"], config["learning_rate"]) == ("prefixtune", 3, 0.02)
        assert not {"resume", "overwrite", "output_dir", "do_train"} & set(config)

    def test_the_screen_shows_sizes_scores_and_three_examples(self, prefix_run):
        shown = (prefix_run.parent / "stdout").read_text()
        assert "trained 1,416 parameters, kept 288 (2.0 % of the base's 14,160)" in shown
        assert "first sentence" in shown and shown.count("generated  ") == 3


class TestDecodingARun:
    @pytest.mark.parametrize("kind", ["prefix_run", "tuned_run"])
    def test_gives_the_same_texts_and_scores(self, kind, request):
        run = Run(request.getfixturevalue(kind))
        before = run.read_metrics(), run.generations("test").read_bytes()
        start(do_train="no", prefix_model_path=run.directory, progress="no")
        assert (run.read_metrics(), run.generations("test").read_bytes()) == before

    def test_may_go_elsewhere_and_leaves_the_run_as_it_was(self, prefix_run, tmp_path):
        before = {name: (prefix_run / name).read_bytes() for name in files_of(prefix_run)}
        options = {"do_train": "no", "prefix_model_path": prefix_run, "progress": "no"}
        other = start(**options, output_dir=tmp_path / "other", n_test=2, baselines="none")
        assert other and Run(other).read_metrics()["test"]["rouge1"]["n"] == 4
        assert Run(other).read_metrics()["baselines"] == {}
        assert {name: (prefix_run / name).read_bytes() for name in files_of(prefix_run)} == before

    def test_elsewhere_it_says_what_it_decoded_and_can_be_done_again(self, prefix_run, tmp_path):
        start(do_train="no", prefix_model_path=prefix_run, progress="no", output_dir=tmp_path / "one", n_test=2)
        assert Run(tmp_path / "one").read_config()["prefix_model_path"] == str(prefix_run)
        start(config=tmp_path / "one/config.yaml", output_dir=tmp_path / "two", progress="no")
        one, two = (Run(tmp_path / name) for name in ("one", "two"))
        assert one.generations("test").read_bytes() == two.generations("test").read_bytes()
        assert one.read_config() == two.read_config() and not two.prefix.is_file()
        with pytest.raises(UserError, match=f"one: is a decoding of the run {prefix_run}; give that run"):
            start(do_train="no", prefix_model_path=tmp_path / "one", progress="no")

    def test_a_recipe_of_another_training_does_not_say_how_the_run_was_trained(self, prefix_run, small, tmp_path):
        recipe = "mode: finetune\nlearning_rate: 7\nnum_beams: 2\nmax_source_length: 40\nmax_length: 16\n"
        (tmp_path / "other.yaml").write_text(recipe)
        options = {"do_train": "no", "prefix_model_path": prefix_run, "progress": "no", "n_test": 1}
        options |= {name: small[name] for name in ("model_name_or_path", "data_dir")}
        start(**options, config=tmp_path / "other.yaml", output_dir=tmp_path / "other")
        own, other = Run(prefix_run).read_config(), Run(tmp_path / "other").read_config()
        assert (other["mode"], other["learning_rate"]) == (own["mode"], own["learning_rate"])
        assert (own["max_source_length"], other["max_source_length"]) == (56, 40)

    def test_on_other_data_replaces_all_scores_of_the_split(self, prefix_run, small, tmp_path):
        copy = tmp_path / "copy"
        copy.mkdir()
        for name in ("config.yaml", "prefix.safetensors", "prefix_config.json", "metrics.json"):
            (copy / name).write_bytes((prefix_run / name).read_bytes())
        (tmp_path / "test.jsonl").write_text(json.dumps(records(1)[0]) + "\n")
        start(do_train="no", prefix_model_path=copy, data_dir=tmp_path, progress="no")
        metrics = Run(copy).read_metrics()
        assert metrics["test"]["rougeL"]["n"] == 1 and "test/easy" not in metrics
        assert metrics["trainable_parameters"] == 1416

    def test_another_batch_size_gives_the_same_texts(self, tuned_run, tmp_path):
        start(do_train="no", prefix_model_path=tuned_run, output_dir=tmp_path / "one", eval_bsz=1, progress="no")
        generations = [Run(run).read_generations("test") for run in (tuned_run, tmp_path / "one")]
        assert generations[0] == generations[1]


class TestBaselines:
    @pytest.mark.parametrize(
        "choice, systems",
        [("none", set()), ("lead", {"first sentence"}), ("all", {"untuned base", "first sentence"})],
    )
    def test_are_those_asked_for(self, prefix_run, tmp_path, choice, systems):
        options = {"do_train": "no", "prefix_model_path": prefix_run, "progress": "no", "baselines": choice}
        run = start(**options, output_dir=tmp_path / "run")
        assert run and set(Run(run).read_metrics()["baselines"]) == systems

    def test_the_untuned_base_is_the_base_without_its_prefix(self, small, prefix_run, tmp_path):
        options = {"do_train": "no", "prefix_model_path": prefix_run, "progress": "no", "baselines": "all"}
        run = start(**options, output_dir=tmp_path / "run")
        bare = tmp_path / "bare"
        bare.mkdir()
        (bare / "config.yaml").write_text((prefix_run / "config.yaml").read_text().replace("prefixtune", "finetune"))
        (bare / "model").symlink_to(small["model_name_or_path"])
        start(do_train="no", prefix_model_path=bare, progress="no")
        assert run
        untuned = Run(run).read_metrics()["baselines"]["untuned base"]["test"]
        assert untuned == Run(bare).read_metrics()["test"]


@pytest.mark.usefixtures("without_curves")
class TestTheLoss:
    def test_is_the_mean_over_target_tokens(self, small):
        module, batch = module_of(small)
        nll, log_p = self.by_hand(module, batch)
        assert module.loss(batch).item() == pytest.approx(nll.mean().item(), rel=1e-6)
        smoothed = 0.9 * nll.mean() + 0.1 * -log_p.mean()
        assert module.loss(batch, label_smoothing=0.1).item() == pytest.approx(smoothed.item(), rel=1e-6)

    @staticmethod
    def by_hand(module: BaseTransformer, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """-log p of each target token, and log p of every entry there."""
        kept = batch["labels"] != -100
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        logits = module.model(**inputs, labels=batch["labels"]).logits[kept]
        log_p = logits.log_softmax(-1)
        return -log_p.gather(1, batch["labels"][kept][:, None])[:, 0], log_p

    @pytest.mark.parametrize("mode", ["prefixtune", "finetune"])
    def test_the_bases_dropout_is_on_in_training(self, small, tiny_tokenizer, tmp_path, mode):
        calm = write_base(tmp_path / "calm", tiny_tokenizer, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)
        options = {**small, "mode": mode, "n_val": 0, "max_steps": 1}
        start(**options, output_dir=tmp_path / "with")
        start(**{**options, "model_name_or_path": calm}, output_dir=tmp_path / "without")
        assert (calm / "model.safetensors").read_bytes() == Path(
            small["model_name_or_path"], "model.safetensors"
        ).read_bytes()
        assert abs(losses(tmp_path / "with")[0] - losses(tmp_path / "without")[0]) > 1e-3

    def test_label_smoothing_is_used_in_training_alone(self, small, prefix_run, tmp_path):
        run = start(**{**small, "epoch": 1, "label_smoothing": 0.2, "output_dir": tmp_path / "run"})
        more = start(**{**small, "label_smoothing": 0.4, "max_steps": 1, "n_val": 0, "output_dir": tmp_path / "more"})
        assert run and more
        none, some, twice = (losses(r)[0] for r in (prefix_run, run, more))  # the same numbers are dropped out
        assert some != none and twice - none == pytest.approx(2 * (some - none), rel=1e-2)
        rows = [read_rows(r / "metrics.csv") for r in (run, prefix_run)]
        assert float(rows[0][4]["val_loss"]) == pytest.approx(float(rows[1][4]["val_loss"]), rel=0.05)

    def test_an_accumulated_steps_loss_is_the_mean_of_its_batches(self, small, tmp_path):
        still = {**small, "epoch": 1, "learning_rate": 1e-12, "n_val": 0}
        single = start(**still, output_dir=tmp_path / "single")
        summed = start(**still, output_dir=tmp_path / "summed", gradient_accumulation_steps=2)
        assert single and summed
        one, two, three, four, five = losses(single)
        assert losses(summed) == pytest.approx([(one + two) / 2, (three + four) / 2, five], rel=1e-5)


@pytest.mark.usefixtures("without_curves")
class TestOptions:
    def test_gradient_checkpointing_changes_nothing(self, small, prefix_run, tmp_path):
        run = start(**small, output_dir=tmp_path / "run", gradient_checkpointing="yes")
        assert run and losses(run) == losses(prefix_run)
        kept = [load_file(r / "prefix.safetensors") for r in (run, prefix_run)]
        assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])

    def test_gradient_checkpointing_of_the_whole_base_changes_nothing(self, small, tmp_path):
        options = {**small, "mode": "finetune", "epoch": 1, "n_val": 0}
        plain = start(**options, output_dir=tmp_path / "plain")
        checkpointed = start(**options, output_dir=tmp_path / "checkpointed", gradient_checkpointing="yes")
        assert plain and checkpointed and losses(plain) == pytest.approx(losses(checkpointed), rel=1e-6)

    def test_without_decoded_validation_the_loss_chooses(self, small, tmp_path):
        run = start(**{**small, "n_val": 0, "output_dir": tmp_path / "run"})
        assert run
        rows = read_rows(run / "metrics.csv")
        assert not any(name.startswith("val_rouge") for name in rows[0])
        best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["callbacks"]["Checkpoints"]
        assert (best["monitor"], best["mode"]) == ("val_loss", "min")
        assert best["score"] == pytest.approx(min(float(row["val_loss"]) for row in rows if row["val_loss"]))

    @pytest.mark.parametrize("patience, steps", [(0, 10), (1, 10), (2, 15)])
    def test_early_stopping_stops(self, small, tmp_path, patience, steps):
        # a learning rate of nothing: no validation is better than the first
        options = {**small, "learning_rate": 1e-12, "epoch": 5, "best_metric": "loss", "baselines": "none"}
        run = start(**options, early_stopping_patience=patience, output_dir=tmp_path / "run")
        assert run and len(losses(run)) == steps

    def test_validations_and_the_end_may_fall_within_an_epoch(self, small, tmp_path):
        run = start(**{**small, "val_every_steps": 2, "max_steps": 7, "output_dir": tmp_path / "run"})
        assert run
        rows = read_rows(run / "metrics.csv")
        assert [int(row["step"]) for row in rows if row["val_loss"]] == [2, 4, 6, 7]
        assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 7

    def test_max_minutes_ends_a_training(self, small, tmp_path):
        run = start(**{**small, "epoch": 10**6, "max_minutes": 0.01, "n_val": 0, "output_dir": tmp_path / "run"})
        assert run and (run / "prefix.safetensors").is_file() and losses(run)

    @pytest.mark.parametrize("options", [{"mid_dim": 0}, {"deep": "yes"}, {"sites": '["encoder", "cross"]'}])
    def test_every_form_of_the_prefix_ends_as_keys_and_values(self, small, tmp_path, options):
        run = start(**{**small, "max_steps": 1, **options, "output_dir": tmp_path / "run"})
        sites = ("encoder", "cross") if "sites" in options else SITES
        assert run and set(load_file(run / "prefix.safetensors")) == {f"{site}.key_values" for site in sites}

    def test_prefix_dropout_is_used(self, small, prefix_run, tmp_path):
        run = start(**{**small, "max_steps": 2, "prefix_dropout": 0.5, "output_dir": tmp_path / "run"})
        assert run and losses(run)[0] != losses(prefix_run)[0]

    def test_eager_attention_trains_as_sdpa_does(self, small, tiny_tokenizer, tmp_path):
        base = write_base(tmp_path / "calm", tiny_tokenizer, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)
        options = {**small, "model_name_or_path": base, "n_val": 0, "epoch": 1}
        runs = [start(**options, attn_implementation=a, output_dir=tmp_path / a) for a in ("sdpa", "eager")]
        assert losses(tmp_path / "sdpa") == pytest.approx(losses(tmp_path / "eager"), rel=1e-5) and all(runs)

    def test_a_seed_says_it_all(self, small, prefix_run, tmp_path):
        same = start(**small, output_dir=tmp_path / "same")
        other = start(**small, output_dir=tmp_path / "other", seed=7)
        assert same and other
        assert (same / "prefix.safetensors").read_bytes() == (prefix_run / "prefix.safetensors").read_bytes()
        assert losses(other) != losses(prefix_run)


def test_a_run_trains_on_one_device_of_several(small, tmp_path, monkeypatch):
    """Batch size, steps and files are those of one process; Lightning would take all it finds."""
    trainers = []

    class Trainer(pl.Trainer):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            trainers.append(self)

    monkeypatch.setattr(pl.accelerators.CPUAccelerator, "auto_device_count", staticmethod(lambda: 2))
    monkeypatch.setattr("seq2seq.training.pl.Trainer", Trainer)
    start(**{**small, "max_steps": 1, "n_val": 0}, output_dir=tmp_path / "run")
    assert [(trainer.num_devices, trainer.world_size) for trainer in trainers] == [(1, 1)]


def test_the_gradients_norm_is_clipped_over_all_parameters(small):
    module, batch = module_of(small)
    module.loss(batch).backward()
    norm = lambda: torch.cat([p.grad.flatten() for p in module.trained_parameters() if p.grad is not None]).norm()  # noqa: E731
    before = norm()
    module.configure_gradient_clipping(None, None)
    assert norm() == before
    module.configure_gradient_clipping(None, before.item() / 3)
    assert norm() == pytest.approx(before.item() / 3, rel=1e-4)


def test_while_fine_tuning_attention_is_the_fast_one(small):
    module, batch = module_of(small, mode="finetune")
    stock = module.loss(batch)
    module.on_fit_start()
    assert module.model.config._attn_implementation == "prefix_sdpa"
    assert module.eval().loss(batch).item() == pytest.approx(stock.item(), rel=1e-6)
    module.on_fit_end()
    assert module.model.config._attn_implementation == "sdpa"
    prefix, _ = module_of(small)
    prefix.on_fit_start()
    prefix.on_fit_end()
    assert prefix.model.config._attn_implementation == "prefix_sdpa"


class TestBf16:
    @pytest.fixture(scope="class")
    def runs(self, small, tmp_path_factory) -> Iterator[dict[str, Path]]:
        place = tmp_path_factory.mktemp("bf16")
        options = {**small, "epoch": 4, "n_val": 0}
        yield {p: start(**{**options, "precision": p}, output_dir=place / p) or place for p in ("bf16", "32")}

    def test_the_loss_stays_within_2_percent_of_float32s(self, runs):
        assert losses(runs["bf16"]) == pytest.approx(losses(runs["32"]), rel=0.02)
        assert losses(runs["bf16"]) != losses(runs["32"])

    def test_frozen_weights_are_bf16_and_what_is_trained_is_float32(self, small, runs):
        module, _ = module_of(small, precision="bf16")
        kinds = {parameter.requires_grad: parameter.dtype for parameter in module.parameters()}
        assert kinds == {True: torch.float32, False: torch.bfloat16}
        assert all((p.dtype == torch.float32) == p.requires_grad for p in module.parameters())
        state = torch.load(runs["bf16"] / "checkpoints/last.ckpt", weights_only=True)
        moments = [m for s in state["optimizer_states"][0]["state"].values() for m in (s["exp_avg"], s["exp_avg_sq"])]
        assert {tensor.dtype for tensor in [*moments, *state["state_dict"].values()]} == {torch.float32}
        kept = load_file(runs["bf16"] / "prefix.safetensors")
        assert {tensor.dtype for tensor in kept.values()} == {torch.float32}

    def test_a_run_decodes_to_the_same_again(self, runs):
        before = Run(runs["bf16"]).generations("test").read_bytes()
        start(do_train="no", prefix_model_path=runs["bf16"], progress="no")
        assert Run(runs["bf16"]).generations("test").read_bytes() == before

    def test_fine_tuning_keeps_its_weights_in_float32(self, small, tmp_path):
        options = {**small, "mode": "finetune", "precision": "bf16", "max_steps": 2, "max_grad_norm": 1.0}
        run = start(**options, output_dir=tmp_path / "r")
        assert run
        assert {tensor.dtype for tensor in load_file(run / "model/model.safetensors").values()} == {torch.float32}

    @pytest.mark.parametrize("mode, mixed", [("prefixtune", False), ("finetune", True)])
    def test_texts_are_decoded_in_the_precision_of_the_training(self, small, tmp_path, monkeypatch, mode, mixed):
        """A frozen base is in bfloat16 as it is; one that was trained itself has bfloat16 products."""
        seen = []

        def spy(model: Any, *args: Any, **options: Any) -> Tensor:
            seen.append((model.dtype, torch.is_autocast_enabled("cpu")))
            return generate(model, *args, **options)

        monkeypatch.setattr(decoding, "generate", spy)
        options = {**small, "mode": mode, "n_val": 2, "max_steps": 2}
        for precision in ("bf16", "32"):
            seen.clear()
            start(**{**options, "precision": precision}, output_dir=tmp_path / precision)
            frozen = torch.bfloat16 if precision == "bf16" and not mixed else torch.float32
            assert set(seen) == {(frozen, mixed and precision == "bf16")}
            assert Run(tmp_path / precision).read_metrics()["precision"] == precision

    @pytest.mark.parametrize("units", [True, False])
    def test_where_it_is_slow_a_line_says_so(self, small, runs, tmp_path, monkeypatch, capsys, units):
        monkeypatch.setattr("seq2seq.utils.has_bf16_units", lambda: units)
        options = {
            "do_train": "no",
            "prefix_model_path": runs["bf16"],
            "output_dir": tmp_path / "run",
            "progress": "no",
        }
        for precision in ("bf16", "32", "auto"):
            start(**{**options, "precision": precision, "overwrite": "yes", "n_test": 1})
            said = "--precision bf16: this device has no units for it" in capsys.readouterr().err
            assert said == (precision == "bf16" and not units)
