"""AdapterHub adapters' prefix tuning in a process of its own: a JSON request a line in, a JSON answer a line out.

    {"do": "prepare", "key": "a", "setting": {…}, "threads": 2}   a model with its prefix, and its batches
    {"do": "warm", "key": "a"}                                    a short beam search or training step, not measured
    {"do": "run", "key": "a", "turn": 0}                          one of them: {"seconds": …}
    {"do": "forget"}                                              drops what was prepared
    {"do": "peak"}                                                {"bytes": … at most, more than behind the imports}
    {"do": "versions"}                                            {"adapters": "1.3.0", …}

Between requests it waits for a line and computes nothing. Attention is eager: under sdpa, adapters' prefix is wrong.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import adapters  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

from benchmarks.shapes import (  # noqa: E402
    DTYPES,
    Setting,
    base_model,
    inputs_of,
    peak_memory,
    search_options,
    step_of,
    stock_loss,
)

NAME = "prefix"


def prepare(setting: Setting) -> tuple[Callable[[], Any], Callable[[int], Any]]:
    """(warm-up, one turn by its number) of a beam search or a training step."""
    model = base_model(setting, "eager")
    adapters.init(model)
    train = setting.item == "train"
    config = adapters.PrefixTuningConfig(
        flat=not train, prefix_length=setting.preseqlen, bottleneck_size=setting.mid_dim
    )
    model.add_adapter(NAME, config=config)
    model.train_adapter(NAME)
    model.to(DTYPES[setting.precision])
    if train:
        step, batches = step_of(model, stock_loss), inputs_of(setting)
        return lambda: step(batches[0]), lambda turn: step(batches[turn % len(batches)])
    model.eval()
    with torch.no_grad():
        model.eject_prefix_tuning(NAME)
    return lambda: model.generate(**search_options(setting, 2)), lambda turn: model.generate(**search_options(setting))


def main() -> None:
    """Answer requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    transformers.utils.logging.set_verbosity_error()
    imported = peak_memory()
    prepared: dict[str, tuple[Callable[[], Any], Callable[[int], Any]]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = reply(request, prepared, imported)
        except Exception as error:  # the process that asked says what failed
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def reply(request: dict[str, Any], prepared: dict[str, Any], imported: int) -> dict[str, Any]:
    """Do what a request asks.

    Args:
        prepared: what `prepare` gave, by key.
        imported: bytes that this process had behind its imports.
    """
    match request["do"]:
        case "prepare":
            torch.set_num_threads(request["threads"])
            lengths = tuple((source, target) for source, target in request["setting"]["lengths"])
            prepared[request["key"]] = prepare(Setting(**{**request["setting"], "lengths": lengths}))
        case "warm":
            prepared[request["key"]][0]()
        case "run":
            started = time.perf_counter()
            prepared[request["key"]][1](request["turn"])
            return {"seconds": time.perf_counter() - started}
        case "forget":
            prepared.clear()
        case "peak":
            return {"bytes": peak_memory() - imported}
        case "versions":
            return {library.__name__: str(library.__version__) for library in (adapters, transformers, torch)}
        case other:
            raise ValueError(f"no such request: {other}")
    return {}


if __name__ == "__main__":
    main()
