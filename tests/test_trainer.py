"""transformers' Trainer trains what is wrapped as it trains the base: losses, counting, checkpoints, evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file

pytest.importorskip("accelerate")

from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments  # noqa: E402

from seq2seq.adapters import AdapterTuning  # noqa: E402
from seq2seq.checkpointing import checkpointed_layers  # noqa: E402
from seq2seq.prefixTuning import PrefixTuning  # noqa: E402

NO_DROPOUT: dict[str, dict[str, float]] = {
    "bart": {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
}
QUIET: dict[str, Any] = {
    "remove_unused_columns": False, "report_to": "none", "use_cpu": True, "disable_tqdm": True, "max_steps": 2,
    "per_device_train_batch_size": 2, "logging_steps": 1, "save_strategy": "no", "learning_rate": 0.01,
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothing": {"label_smoothing_factor": 0.1},
    "accumulation": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2},
    "checkpointing": {"gradient_checkpointing": True},
    "noise": {"neftune_noise_alpha": 5.0},
}


def rows(family: str) -> list[dict[str, torch.Tensor]]:
    batch = tiny.batch(family)
    if family == "bart":  # as DataCollatorForSeq2Seq makes them
        batch["decoder_input_ids"] = tiny.base("bart").prepare_decoder_input_ids_from_labels(batch["labels"])
    return [{name: values[i] for name, values in batch.items()} for i in (0, 1, 2, 1)]


def base(family: str) -> Any:
    return tiny.base(family, **NO_DROPOUT[family])


def trained(model: Any, family: str, place: Path, **options: Any) -> Trainer:
    arguments = TrainingArguments(output_dir=str(place), **{**QUIET, **options})
    data: Any = rows(family)
    trainer = Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data)
    trainer.train()
    return trainer


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("family", ["bart", "gpt2"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_losses_are_the_bases_where_nothing_is_changed(family: str, options: Any, tmp_path: Path) -> None:
    wrapped = AdapterTuning(base(family), 6)
    for parameter in wrapped.adapters.parameters():
        torch.nn.init.zeros_(parameter)
    stock = trained(base(family), family, tmp_path / "a", **{**options, "learning_rate": 0.0})
    ours = trained(wrapped, family, tmp_path / "b", **{**options, "learning_rate": 0.0})
    sums = family == "bart" and "gradient_accumulation_steps" in options
    expected = [loss / 2 for loss in losses(stock)] if sums else losses(stock)  # Trainer adds a plain BART's up
    assert losses(ours) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("options", ["accumulation", "checkpointing"])
def test_a_prefix_of_gpt2_is_trained_the_same_in_every_way(options: str, tmp_path: Path) -> None:
    kept = []
    for name in ("plain", options):
        torch.manual_seed(0)
        prefix = PrefixTuning(base("gpt2"), 4, 8)
        trained(prefix, "gpt2", tmp_path / name, **OPTIONS[name])
        kept.append(prefix.key_values()["decoder"])
    torch.testing.assert_close(kept[0], kept[1], atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("kind", [lambda model: PrefixTuning(model, 4, 8), lambda model: AdapterTuning(model, 6)])
def test_noise_on_a_decoders_embeddings_acts_though_its_dropout_is_off(kind: Any, tmp_path: Path) -> None:
    found = []
    for name in ("plain", "noise"):
        torch.manual_seed(0)
        found.append(losses(trained(kind(base("gpt2")), "gpt2", tmp_path / name, **OPTIONS[name])))
    assert found[0] != found[1]


def test_checkpointing_is_turned_on_by_the_name_that_trainer_goes_on_to_use(tmp_path: Path, recwarn: Any) -> None:
    prefix = PrefixTuning(base("bart"), 4, 8)
    trained(prefix, "bart", tmp_path, **OPTIONS["checkpointing"])
    assert checkpointed_layers(prefix.model)
    assert not [warning for warning in recwarn if "PrefixTuning" in str(warning.message)]


@pytest.mark.parametrize("family", ["bart", "gpt2"])
@pytest.mark.parametrize("kind", [lambda model: PrefixTuning(model, 4, 8), lambda model: AdapterTuning(model, 6)])
def test_checkpoints_hold_what_is_trained_and_go_on(family: str, kind: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    wrapped = kind(base(family))
    trainer = trained(wrapped, family, tmp_path, save_strategy="steps", save_steps=1)
    assert trainer.evaluate()["eval_loss"] > 0
    stored = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert stored and not any(name.startswith("model.") for name in stored)
    again = kind(base(family))
    again.load_state_dict(stored)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in wrapped.state_dict().items())
    arguments = TrainingArguments(output_dir=str(tmp_path), **QUIET)
    data: Any = rows(family)
    resumed = Trainer(model=kind(base(family)), args=arguments, train_dataset=data)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    for name, value in wrapped.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, msg=name)  # type: ignore[union-attr]


@pytest.mark.parametrize("family", ["bart", "gpt2"])
@pytest.mark.parametrize("kind", [lambda model: PrefixTuning(model, 4, 8), lambda model: AdapterTuning(model, 6)])
def test_a_base_that_is_trained_too_is_stored(family: str, kind: Any, tmp_path: Path) -> None:
    """Its tied weights once, as a safetensors file wants them; they stay tied when it is read."""
    wrapped = kind(base(family))
    wrapped.model.requires_grad_(True)
    trained(wrapped, family, tmp_path, save_strategy="steps", save_steps=2)
    stored = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    for assign in (False, True):
        again = kind(base(family)).eval()
        again.load_state_dict(dict(stored), assign=assign)
        again.model.requires_grad_(True)
        assert again.state_dict().keys() == stored.keys() or assign
        batch = tiny.batch(family)
        tiny.close(again(**batch).logits, wrapped.eval()(**batch).logits)


def test_summaries_are_generated_in_evaluation(tmp_path: Path) -> None:
    prefix = PrefixTuning(base("bart"), 4, 8)
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path), predict_with_generate=True, generation_max_length=6, **QUIET
    )
    seen: list[Any] = []
    data: Any = rows("bart")
    trainer = Seq2SeqTrainer(
        model=prefix, args=arguments, eval_dataset=data,
        compute_metrics=lambda outputs: {"texts": float(seen.append(outputs.predictions) or 1)},  # type: ignore[func-returns-value]
    )  # fmt: skip
    assert trainer.evaluate()["eval_texts"] == 1.0
    inputs = {name: torch.stack([row[name] for row in data]) for name in ("input_ids", "attention_mask")}
    texts = prefix.eval().generate(**inputs, max_length=6)
    assert torch.equal(torch.from_numpy(seen[0])[:, : texts.shape[1]], texts)
