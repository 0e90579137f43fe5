"""The systems that are compared, each as a function that does one beam search or training step, taking turns.

| name | what runs |
|---|---|
| ours | this project, prefix at all sites; in training through the MLP |
| ours decoder only (flat) | the same at the one site that PEFT has (without MLP) |
| ours without prefix | beam search: this project's `generate` on the plain base |
| peft (with MLP) | PEFT's prefix tuning: decoder self-attention |
| adapters | AdapterHub adapters' prefix tuning at all sites, eager attention, in its own process |
| plain | transformers' `generate` without any prefix |
| fine-tuning | training of the whole base |
| floor | frozen base with a gradient through every activation, stock attention, no optimiser |
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from benchmarks.adapters_peer import AdaptersWorker
from benchmarks.peft_search import check_peft
from benchmarks.shapes import DTYPES, Setting, base_model, inputs_of, search_options, step_of, stock_loss
from seq2seq.generation import generate
from seq2seq.lightning_base import predictions
from seq2seq.losses import next_tokens
from seq2seq.padding import holds_padding
from seq2seq.prefixTuning import PrefixTuning
from seq2seq.unpadded import real_tokens

WARM_UP_TOKENS = 2
ADAPTERS = "adapters"
Turns = dict[str, list[float | None]]  # seconds of each turn by system; None = it sat this turn out


@dataclass
class System:
    """One competitor.

    Args:
        warm: a short unmeasured run.
        run: seconds of one turn, by its number (which batch).
        least: turns that it takes, however long they are.
    """

    warm: Callable[[], Any]
    run: Callable[[int], float]
    least: int = 2


def beam_systems(setting: Setting, model: Any, names: Iterable[str]) -> dict[str, System]:
    """Beam search of the systems named, on copies of a base in eval mode; UserError if PEFT loses its prefix there."""
    systems: dict[str, Callable[..., Any]] = {}
    for name in names:
        if name == "ours":
            systems[name] = PrefixTuning(copy.deepcopy(model), setting.preseqlen, mid_dim=0).eval().generate
        elif name == "ours without prefix":
            systems[name] = partial(generate, copy.deepcopy(model))
        elif name == "peft":
            check_peft()
            systems[name] = peft_model(setting, copy.deepcopy(model), mid_dim=0).eval().generate
        elif name == "plain":
            systems[name] = model.generate
    return {name: _searcher(setting, search) for name, search in systems.items()}


def _searcher(setting: Setting, search: Callable[..., Any]) -> System:
    short, whole = search_options(setting, WARM_UP_TOKENS), search_options(setting)
    return System(lambda: search(**short), lambda turn: seconds_of(lambda: search(**whole)))


def train_step(name: str, setting: Setting, model: Any) -> Callable[[dict[str, Tensor]], None]:
    """One training step, by its batch, of the system named, on a base that it keeps."""
    if name.startswith("ours"):
        sites = ("decoder",) if "decoder only" in name else None
        prefix = PrefixTuning(model, setting.preseqlen, 0 if "flat" in name else setting.mid_dim, sites=sites)
        if "checkpointing" in name:
            prefix.activation_checkpointing_enable()
        return step_of(prefix, loss_on_targets)
    if name.startswith("peft"):
        return step_of(peft_model(setting, model, setting.mid_dim if "MLP" in name else 0), stock_loss)
    if name == "floor":
        stacks = [model.get_encoder(), model.get_decoder()] if setting.family == "bart" else [model]
        for embedding in {stack.get_input_embeddings() for stack in stacks}:
            embedding.register_forward_hook(lambda module, inputs, states: states.requires_grad_())
        return step_of(model.requires_grad_(False), stock_loss)
    if name == "fine-tuning":
        return step_of(model, stock_loss)
    raise ValueError(f"no system {name!r}")


def train_systems(setting: Setting, model: Any, names: Iterable[str]) -> dict[str, System]:
    """Training steps of the systems named, on copies of a base."""
    batches = inputs_of(setting)

    def system(name: str) -> System:
        step = train_step(name, setting, copy.deepcopy(model))
        return System(lambda: step(batches[0]), lambda turn: seconds_of(lambda: step(batches[turn % len(batches)])))

    return {name: system(name) for name in names if name != ADAPTERS}


def loss_on_targets(prefix: Any, batch: dict[str, Tensor]) -> Tensor:
    """The loss as the project's Lightning modules compute it."""
    decoder = not prefix.config.is_encoder_decoder
    real = real_tokens(batch["attention_mask"]) if decoder else None
    known = {"padded": holds_padding(batch), **({} if real is None else {"real_tokens": real})}
    targets = next_tokens(batch["labels"]) if decoder else batch["labels"]
    return predictions(prefix, {**batch, **known}, targets).loss()


def peft_model(setting: Setting, model: Any, mid_dim: int) -> Any:
    """PEFT's prefix on a base, in the base's precision."""
    from peft import PrefixTuningConfig, get_peft_model

    mlp: dict[str, Any] = {"prefix_projection": True, "encoder_hidden_size": mid_dim} if mid_dim else {}
    config = PrefixTuningConfig(task_type=setting.task_type, num_virtual_tokens=setting.preseqlen, **mlp)
    return get_peft_model(model, config).to(DTYPES[setting.precision])


def systems_of(
    setting: Setting, names: Iterable[str], worker: AdaptersWorker | None, model: Any = None
) -> dict[str, System]:
    """The systems named, ready to take turns; adapters where there is a worker."""
    names = list(names)
    model = base_model(setting) if model is None else model
    if setting.item == "beam":
        systems = beam_systems(setting, model.eval(), names)
    else:
        systems = train_systems(setting, model, names)
    if ADAPTERS in names and worker:
        key, ask = worker.prepare(setting), worker.ask
        systems[ADAPTERS] = System(
            lambda: ask("warm", key=key),
            lambda turn: ask("run", key=key, turn=turn)["seconds"],
            least=1 if setting.item == "beam" else 2,
        )
    return systems


def measure(systems: dict[str, System], turns: int, budget: float) -> Turns:
    """Seconds of each turn, all systems taking turns, after a warm-up of each.

    budget: seconds after which a system that has had its least turns sits the others out.
    """
    for system in systems.values():
        system.warm()
    seconds: Turns = {name: [] for name in systems}
    for turn in range(turns):
        for name, system in systems.items():
            spent = [value for value in seconds[name] if value is not None]
            rests = len(spent) >= system.least and sum(spent) + spent[-1] > budget
            seconds[name].append(None if rests else system.run(turn))
    return seconds


def seconds_of(run: Callable[[], Any]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
