"""What turning gradient checkpointing on does beside the checkpoints: tests of the checkpoints are with each model."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import tiny
from torch import nn

from seq2seq.adapters import AdapterTuning
from seq2seq.checkpointing import keep_no_activations
from seq2seq.prefix_attention import KEYWORD
from seq2seq.prefixTuning import PrefixTuning
from seq2seq.stacks import checkpointed_layers

HOLES = """
import os, torch
from seq2seq.checkpointing import return_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

for asked_for in (True, False):
    if os.fork():
        os.wait()
        continue
    if asked_for:
        assert return_freed_memory()
    del (blocks := [torch.ones(2**21) for _ in range(4)])[:]  # glibc sees blocks of 8 MB freed
    before = resident()
    blocks = []
    for _ in range(40):
        blocks.append((torch.ones(2**21), torch.ones(2**12)))  # the small ones stay
    blocks = [small for _, small in blocks]
    print(resident() - before, flush=True)
    os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what is freed is given back on Linux alone")
def test_freed_blocks_leave_the_process_where_that_is_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    asked_for, not_asked_for = map(int, done.stdout.split())
    assert asked_for < 20e6 < 200e6 < not_asked_for


@pytest.mark.parametrize("family", ["bart", "gpt2", "llama"])
def test_no_gradient_is_asked_of_frozen_embeddings(family: str) -> None:
    seen = []
    base = tiny.base(family).requires_grad_(False)
    keep_no_activations(base)
    for module in filter(lambda module: isinstance(module, nn.Embedding), base.modules()):
        module.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    PrefixTuning(base, 3, mid_dim=4).train()(**tiny.batch(family)).loss.backward()
    assert seen and not any(seen)


@pytest.mark.parametrize("wrap", [PrefixTuning, AdapterTuning])
def test_it_is_turned_on_and_off_by_either_name(wrap: Any) -> None:
    wrapped = wrap(tiny.base("bart"))
    for word in ("activation", "gradient"):
        getattr(wrapped, f"{word}_checkpointing_enable")()
        assert len(checkpointed_layers(wrapped.model)) == 4
        getattr(wrapped, f"{word}_checkpointing_disable")()
        assert not checkpointed_layers(wrapped.model)


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_a_layer_keeps_no_more_of_the_prefix_than_its_own(family: str) -> None:
    prefix = PrefixTuning(tiny.base(family), 3, mid_dim=4).train()
    prefix.activation_checkpointing_enable()
    modules = {module for site in prefix.sites.values() for module in site.modules}
    seen = []

    def see(module: nn.Module, args: Any, named: dict[str, Any]) -> None:
        seen.append((own[module], set(named[KEYWORD].key_values)))

    own = {}
    for layer in checkpointed_layers(prefix.model):
        of_layer = modules.intersection(layer.modules())
        for module in of_layer:
            own[module] = of_layer
            module.register_forward_pre_hook(see, with_kwargs=True)
    prefix(**tiny.batch(family)).loss.backward()
    assert len(seen) == 2 * len(modules) and all(held == of_layer for of_layer, held in seen)
