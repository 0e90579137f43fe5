"""The project's Lightning modules in a Trainer that a user made, with the options that the commands do not use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from small_runs import FLAGS, flags, write_base, write_data, write_gpt2_base
from torch.utils.data import DataLoader

from gpt2.run_language_modeling import GPT2
from seq2seq.finetune import BART, chosen_task, load_split
from seq2seq.loading import load_base
from seq2seq.parsing import parse
from seq2seq.prefix_attention import attention_can_change
from seq2seq.utils import UserError

FAMILIES = {"bart": (BART, "train_bart.py"), "gpt2": (GPT2, "train_e2e.py")}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("users")
    write_base(folder / "bart", tiny_tokenizer)
    write_gpt2_base(folder / "gpt2", tiny_tokenizer)
    write_data(folder / "data")
    return folder


@pytest.fixture
def parts(place: Path) -> Any:
    """A module's class and its arguments."""

    def make(family: str, mode: str = "prefixtune", **options: Any) -> tuple[Any, dict[str, Any]]:
        kind, program = FAMILIES[family]
        where = {"model_name_or_path": place / family, "data_dir": place / "data", "cache_dir": place / "cache"}
        ours = {
            name: value for name, value in FLAGS.items() if mode == "prefixtune" or name not in ("preseqlen", "mid_dim")
        }
        arguments = parse(flags(**{**ours, **where, "mode": mode, **options}), program)
        task = chosen_task(arguments)
        train, val = (load_split(task, arguments, split) for split in ("train", "val"))  # type: ignore[arg-type]
        torch.manual_seed(0)
        model, tokenizer = load_base(arguments, task, kind)
        form = kind.form(arguments, tokenizer)
        options = {"arguments": arguments, "model": model, "tokenizer": tokenizer, "form": form, "task": task}
        return kind.module_for(mode, task.kind), {**options, "train": train, "val": val}

    return make


@pytest.fixture
def module(parts: Any) -> Any:
    def make(*args: Any, **options: Any) -> Any:
        kind, arguments = parts(*args, **options)
        return kind(**arguments)

    return make


def trainer(**options: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    common = {"accelerator": "cpu", "devices": 1, "max_epochs": 2, "enable_checkpointing": False, **quiet}
    return pl.Trainer(**{**common, "use_distributed_sampler": False, **options})


def trained(module: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def batches_of(module: Any) -> list[int]:
    """Fills itself with a number for each batch that the module is trained on."""
    seen: list[int] = []
    step = module.training_step

    def spy(batch: dict[str, Any], batch_idx: int) -> Any:
        seen.append(int(batch["input_ids"].sum()))
        return step(batch, batch_idx)

    module.training_step = spy
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_an_epoch_that_a_limit_ends_is_resumed_behind_it(module: Any, family: str, tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{step}")
    whole = module(family)
    seen = batches_of(whole)
    trainer(limit_train_batches=3, enable_checkpointing=True, callbacks=[keep]).fit(whole)
    resumed = module(family)
    again = batches_of(resumed)
    later = trainer(limit_train_batches=3)
    later.fit(resumed, ckpt_path=tmp_path / "step=3.ckpt", weights_only=False)
    assert (later.global_step, again) == (6, seen[3:])
    for name, weight in trained(whole).items():
        assert torch.equal(weight, trained(resumed)[name])


@pytest.mark.parametrize("how", ["loaded", "validated", "fitted"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_fit_without_a_checkpoint_begins_at_the_first_batch(
    module: Any, parts: Any, family: str, how: str, tmp_path: Path
) -> None:
    keep = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=1, filename="{step}")
    whole = module(family)
    seen = batches_of(whole)
    trainer(max_epochs=1, limit_val_batches=0, enable_checkpointing=True, callbacks=[keep]).fit(whole)
    path = tmp_path / "step=2.ckpt"
    assert len(seen) > 2 and path.is_file()
    if how == "loaded":
        kind, arguments = parts(family)
        tuned = kind.load_from_checkpoint(path, weights_only=False, **arguments)
    else:
        tuned = module(family)
        method = {"validated": "validate", "fitted": "fit"}[how]
        getattr(trainer(max_epochs=1), method)(tuned, ckpt_path=path, weights_only=False)
    again = batches_of(tuned)
    trainer(max_epochs=1).fit(tuned)
    assert again == seen and tuned.examples_seen == whole.examples_seen


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loader_of_the_users_own_trains(module: Any, family: str) -> None:
    tuned = module(family)
    loader = DataLoader(tuned.train_tokens, batch_size=2, shuffle=True, collate_fn=tuned.form.collate)
    own = trainer(limit_val_batches=0)
    own.fit(tuned, loader)
    assert own.global_step == 2 * len(loader)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_error_in_a_fit_leaves_a_base_its_own_attention(module: Any, family: str, error: Any) -> None:
    class Fails(pl.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise error("here")

    tuned = module(family, "finetune")
    with pytest.raises((error, SystemExit)):
        trainer(callbacks=[Fails()]).fit(tuned)
    assert attention_can_change(tuned.base)
    trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0).fit(tuned)
    assert attention_can_change(tuned.base)


def test_overfitting_sees_the_same_batches_in_every_epoch(module: Any) -> None:
    tuned = module("bart")
    seen = batches_of(tuned)
    trainer(overfit_batches=2, limit_val_batches=0).fit(tuned)
    assert len(seen) == 4 and seen[:2] == seen[2:]


@pytest.mark.parametrize("mode", ["finetune", "adaptertune"])
def test_a_fit_leaves_the_same_state_behind(module: Any, mode: str) -> None:
    tuned, fresh = module("bart", mode), module("bart", mode)
    trainer(limit_train_batches=1, limit_val_batches=0).fit(tuned)
    assert tuned.state_dict().keys() == fresh.state_dict().keys()
    fresh.load_state_dict(tuned.state_dict())


@pytest.mark.parametrize("mode", ["prefixtune", "adaptertune"])
def test_averaged_weights_are_resumed(module: Any, mode: str, tmp_path: Path) -> None:
    def fit(tuned: Any, **options: Any) -> None:
        callbacks = [EMAWeightAveraging(), ModelCheckpoint(tmp_path, save_top_k=-1, filename="{step}")]
        trainer(limit_val_batches=0, enable_checkpointing=True, callbacks=callbacks).fit(tuned, **options)

    whole, resumed = module("bart", mode), module("bart", mode)
    fit(whole)
    first = min(tmp_path.glob("*.ckpt"), key=lambda path: int(path.stem.partition("=")[2]))
    fit(resumed, ckpt_path=first, weights_only=False)
    for name, weight in trained(whole).items():
        assert torch.equal(weight, trained(resumed)[name])
    base = dict(module("bart", mode).base.named_parameters())
    assert all(torch.equal(weight, base[name]) for name, weight in whole.base.named_parameters())


def test_gradients_are_clipped_by_value_where_asked(module: Any) -> None:
    tuned, largest = module("bart"), []
    clip = tuned.configure_gradient_clipping

    def look(*args: Any, **options: Any) -> None:
        clip(*args, **options)
        largest.append(max(float(p.grad.abs().max()) for p in tuned.trained_parameters()))

    tuned.configure_gradient_clipping = look
    options: dict[str, Any] = {"limit_train_batches": 2, "limit_val_batches": 0, "max_epochs": 1}
    trainer(**options, gradient_clip_val=1e-6, gradient_clip_algorithm="value").fit(tuned)
    assert largest == [pytest.approx(1e-6)] * 2


def test_a_linear_schedule_without_an_end_is_refused(module: Any) -> None:
    with pytest.raises(UserError, match="a linear schedule needs an end: give max_epochs or max_steps"):
        trainer(max_epochs=-1, max_time="00:00:00:01").fit(module("bart"))
    trainer(max_epochs=-1, max_time="00:00:00:01", limit_val_batches=0).fit(module("bart", lr_scheduler="constant"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_validation_decodes_in_lightnings_true_precisions(module: Any, family: str, precision: Any) -> None:
    tuned = module(family)
    run = trainer(precision=precision, max_epochs=1, limit_train_batches=1)
    run.fit(tuned)
    assert f"val_{tuned.task.best_metric}" in run.callback_metrics


def test_predict_gives_texts(module: Any) -> None:
    tuned = module("bart")
    trainer(max_epochs=1, limit_train_batches=1).fit(tuned)
    prompts = tuned.val_dataloader()[1]
    texts = trainer().predict(tuned, prompts)
    assert [len(batch) for batch in texts] == [len(batch["index"]) for batch in prompts]
    assert all(isinstance(text, str) for batch in texts for text in batch)
