"""Test scores of PEFT's prefix tuning beside this project's: same base, data, steps, length, MLP width, learning rate.

    python benchmarks/quality.py --config configs/e2e_mini.yaml --data_dir DIR --max_steps 1000 --output_dir DIR

Takes the options of train_e2e.py, and --double. PEFT's prefix goes through the same Lightning module, so both see the
same batches in the same order under the same optimiser; what differs is the library that puts the prefix in. PEFT
decodes one source at a time: beside it, padding has no part in the comparison.

A start from words is ours alone. With `--lowdata_token null` both start at random, with the same numbers: then both
compute the same, and on a base without dropout they part by rounding alone, which grows from step to step: in float32
to half a percent of the loss after a thousand. With --double everything is in float64, where it stays without effect.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.peft_search import check_peft  # noqa: E402
from gpt2.run_language_modeling import GPT2  # noqa: E402
from gpt2.trainer_prefix import LanguageModelingModule  # noqa: E402
from seq2seq import finetune  # noqa: E402
from seq2seq.arguments import Arguments, recipe_of  # noqa: E402
from seq2seq.decoding import decode  # noqa: E402
from seq2seq.loading import Family, load_base  # noqa: E402
from seq2seq.output_layer import Predictions  # noqa: E402
from seq2seq.parsing import parse  # noqa: E402
from seq2seq.report import Report  # noqa: E402
from seq2seq.runs import Run  # noqa: E402
from seq2seq.training import fit, quiet_libraries, restore_best  # noqa: E402
from seq2seq.utils import UserError, at_least_float32, command  # noqa: E402

OURS, THEIRS = "prefixtuning", "peft"
DOUBLE = "--double"


class PeftModule(LanguageModelingModule):
    """LanguageModelingModule whose model is PEFT's prefix on the frozen base."""

    def __init__(self, arguments: Arguments, model: Any, *rest: Any) -> None:
        from peft import PrefixTuningConfig, get_peft_model

        super().__init__(replace(arguments, mode="finetune"), model, *rest)
        torch.manual_seed(arguments.seed)
        config = PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=arguments.preseqlen,
            prefix_projection=bool(arguments.mid_dim),
            encoder_hidden_size=arguments.mid_dim or None,
        )
        self.model = get_peft_model(model, config).to(at_least_float32(model.dtype))

    def predictions(self, batch: dict[str, Tensor], model: Any = None) -> Predictions:
        """What is predicted for the target tokens, through PEFT's own forward."""
        targets = self.targets(batch).flatten()
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        logits = self.model(**inputs, use_cache=False).logits.flatten(0, 1)
        return Predictions(targets[targets != -100], logits[targets != -100])


class InDouble:
    """transformers' class of GPT-2's family, which loads a base in float64 whatever is asked for."""

    @staticmethod
    def from_pretrained(name: str, **options: Any) -> Any:
        return GPT2.auto_class.from_pretrained(name, **{**options, "dtype": torch.float64})


def train_peft(arguments: Arguments, family: Family) -> None:
    """Fit PEFT's prefix, decode the test records, write generations and scores as every run does."""
    task = finetune.chosen_task(arguments)
    run = Run.create(str(arguments.output_dir), overwrite=arguments.overwrite)
    run.write_config(recipe_of(arguments))
    model, tokenizer = load_base(arguments, task, family)
    form = family.form(arguments, tokenizer)
    train, val, records = (finetune.load_split(task, arguments, split) for split in ("train", "val", "test"))
    module = PeftModule(arguments, model, tokenizer, form, task, train, val)
    fit(module, run, arguments, "val_loss", title=f"PEFT on {task.name}")
    restore_best(module, run)
    one_by_one = replace(arguments, eval_bsz=1)
    texts = decode(module.model.eval(), form, records, task, one_by_one, THEIRS)
    report = Report(task, records, {THEIRS: texts}, lead=False)
    run.write_generations("test", report.generations())
    run.update_metrics(report.metrics("test"))


def table(directory: Path, metrics: tuple[str, ...]) -> str:
    """A Markdown table of both runs' test scores."""
    lines = [f"| | {' | '.join(metrics)} |", "|---|" + "---|" * len(metrics)]
    for name in (OURS, THEIRS):
        scores = Run(directory / name).read_metrics()["test"]
        lines.append(f"| {name} | " + " | ".join(f"{scores[metric]['score']:.2f}" for metric in metrics) + " |")
    return "\n".join(lines)


def compare(arguments: Arguments, double: bool = False) -> None:
    """Train and score both, then print the table.

    double: in float64, whatever --precision says.
    """
    if arguments.mode != "prefixtune" or arguments.n_val:
        raise UserError(
            "quality.py: compares --mode prefixtune with --n_val 0, the checkpoint chosen by validation loss"
        )
    quiet_libraries()
    check_peft()
    directory = Path(arguments.output_dir or "runs/quality")
    arguments = replace(arguments, baselines="none", precision="32" if double else arguments.precision)
    family = replace(GPT2, auto_class=InDouble) if double else GPT2
    finetune.run(replace(arguments, output_dir=str(directory / OURS)), family)
    train_peft(replace(arguments, output_dir=str(directory / THEIRS)), family)
    print(table(directory, finetune.chosen_task(arguments).metrics))


if __name__ == "__main__":
    flags = [flag for flag in sys.argv[1:] if flag != DOUBLE]
    sys.exit(command(lambda: compare(parse(flags, "quality.py"), double=DOUBLE in sys.argv)))
