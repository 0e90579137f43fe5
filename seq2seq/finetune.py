"""The tasks' Lightning modules, and the run: load, fit, decode, score, report.

SummarizationModule ── BaseTransformer                 --mode finetune, finetune-top, adaptertune
  └─ TranslationModule                                  the same for translation
PrefixSummarizationModule, PrefixTranslationModule      --mode prefixtune, bothtune: the same with a prefix
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from transformers import AutoModelForSeq2SeqLM

from seq2seq.adapters import AdapterTuning
from seq2seq.arguments import PREFIX_MODES, Arguments, inputs_of, located, place_of, recipe_of
from seq2seq.data import LengthBuckets, TokenSet, check_room, tokenise
from seq2seq.decoding import decode, generate_texts
from seq2seq.kept_files import save_tokenizer
from seq2seq.lightning_base import BaseTransformer, PrefixTransformer
from seq2seq.loading import Family, check_positions, load_base, load_pretrained, load_run
from seq2seq.metrics import score
from seq2seq.prefixTuning import PrefixTuning
from seq2seq.pretrain import Denoising, pretrain
from seq2seq.records import Record, draw, first_of_each_part, load_records
from seq2seq.report import Report
from seq2seq.resuming import check_origin, check_resumable
from seq2seq.runs import Run, refuse_unwritable
from seq2seq.tasks import CARRIED, Search, Task, task_for
from seq2seq.text_forms import CausalForm, Seq2SeqForm, TextForm
from seq2seq.training import check_rhythm, check_tools, fit, quiet_libraries, restore_best
from seq2seq.utils import UserError, changes, say_if_slow

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class SummarizationModule(BaseTransformer):
    """Source to target text: teacher-forced loss on all validation records, generation scores on the first `n_val`.

    Args as BaseTransformer's, and
        form: how texts stand in the model's input.
        task: limits, search and metrics.
        train, val: records.
    """

    def __init__(
        self,
        arguments: Arguments,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        form: TextForm,
        task: Task,
        train: list[Record],
        val: list[Record],
    ) -> None:
        super().__init__(arguments, model, tokenizer)
        self.form, self.task, self.val_records = form, task, val
        check_room(form, **task.limits)  # also that of the test split, before anything is trained
        cache = Path(arguments.cache_dir).expanduser()
        self.train_tokens = tokenise(train, self.form, task.max_source_length, task.max_target_length, cache)
        self.val_tokens = tokenise(
            val, self.form, task.max_source_length, task.val_max_target_length, cache, pairs="first"
        )

    @cached_property
    def origin(self) -> dict[str, Any]:
        return {**super().origin, "training data": self.train_tokens.fingerprint()}

    @property
    def batches_an_epoch(self) -> int:
        return -(-len(self.train_tokens) // self.arguments.bsz)

    def train_dataloader(self) -> DataLoader:
        order = LengthBuckets(
            self.train_tokens.source_lengths,
            self.train_tokens.target_lengths,
            self.arguments.bsz,
            shuffle=not self.trainer.overfit_batches,  # type: ignore[attr-defined]
            seed=self.arguments.seed,
            num_replicas=self.trainer.world_size,
            rank=self.global_rank,
        )
        return DataLoader(self.train_tokens, batch_sampler=self.place_order(order), collate_fn=self.form.collate)

    def val_dataloader(self) -> list[DataLoader]:
        everything, bsz = range(len(self.val_tokens)), self.arguments.eval_bsz
        loss = _evaluation_loader(self.val_tokens, everything, bsz, self.form.collate)
        shown = everything[: self.arguments.n_val]
        if not shown:
            return [loss]
        return [loss, _evaluation_loader(self.val_tokens, shown, bsz, self.form.prompts)]

    @property
    def val_search(self) -> Search:
        """How validation decodes."""
        return replace(
            self.task.search,
            num_beams=self.arguments.eval_num_beams,
            max_length=min(self.task.search.max_length, self.task.val_max_target_length),
            min_length=min(self.task.search.min_length, self.task.val_max_target_length),
        )

    def measured_by(self, monitor: str) -> dict[str, Any]:
        tokens = {"validation data": self.val_tokens.fingerprint()}
        if monitor == "val_loss":
            return tokens
        shown = self.val_records[: self.arguments.n_val]
        if any(len(record.references) > 1 for record in shown):  # of which the tokens hold the first alone
            texts = "\0".join("\n".join(record.references) for record in shown)
            tokens["validation references"] = hashlib.sha256(texts.encode()).hexdigest()[:16]
        return {"n_val": len(shown), **asdict(self.val_search), **tokens}

    def on_validation_epoch_start(self) -> None:
        self._nats, self._tokens = 0.0, 0
        self._generated: dict[int, str] = {}

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        if dataloader_idx == 0:
            tokens = int((batch["labels"] != -100).sum())
            self._nats += float(self.loss(batch)) * tokens
            self._tokens += tokens
            return
        texts = generate_texts(self.model, self.form, batch, self.val_search)
        self._generated.update(zip(batch["index"].tolist(), texts, strict=True))

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> list[str]:
        """The text of each source in a batch of prompts, as the task's search finds it."""
        return generate_texts(self.model, self.form, batch, self.task.search)

    def on_validation_epoch_end(self) -> None:
        self.log("val_loss", self._nats / self._tokens)
        if self._generated:
            rows = sorted(self._generated)
            scores = score(
                self.task.metrics, [self._generated[i] for i in rows], [self.val_records[i].references for i in rows]
            )
            for name, value in scores.items():
                self.log(f"val_{name}", value["score"])


class TranslationModule(SummarizationModule):
    """The same for translation: the tokenizer is told the languages where it is loaded (loading.py)."""


class PrefixSummarizationModule(PrefixTransformer, SummarizationModule):
    """SummarizationModule with a prefix on a frozen base (Li & Liang 2021)."""


class PrefixTranslationModule(PrefixTransformer, TranslationModule):
    """TranslationModule with a prefix on a frozen base."""


def module_for(mode: str, kind: str) -> type[SummarizationModule]:
    """The module of BART's --mode and kind of task."""
    if kind == "translation":
        return PrefixTranslationModule if mode in PREFIX_MODES else TranslationModule
    return PrefixSummarizationModule if mode in PREFIX_MODES else SummarizationModule


BART = Family(
    is_encoder_decoder=True,
    auto_class=AutoModelForSeq2SeqLM,
    carried_base=CARRIED / "bart-mini",
    examples="facebook/bart-large",
    command="train_bart.py",
    other_command="train_e2e.py",
    module_for=module_for,
    form=lambda arguments, tokenizer: Seq2SeqForm(tokenizer, arguments.source_prefix or ""),
    objective=Denoising,
)


def _evaluation_loader(tokens: TokenSet, rows: range, bsz: int, collate: Any) -> DataLoader:
    chosen = list(rows)
    order = LengthBuckets(tokens.source_lengths[chosen], tokens.target_lengths[chosen], bsz, shuffle=False)
    return DataLoader(Subset(tokens, chosen), batch_sampler=order, collate_fn=collate)


def run(arguments: Arguments, family: Family = BART) -> None:
    """Do what the arguments say with a family's bases: train and evaluate, evaluate a run, or pretrain."""
    quiet_libraries()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    say_if_slow(arguments.precision)
    if arguments.mode == "pretrain":
        pretrain(arguments, family)
    elif arguments.do_train:
        train(arguments, family)
    else:
        evaluate_run(arguments, family)


def train(arguments: Arguments, family: Family) -> None:
    """Fit, keep the best, decode and score the test split, report."""
    _check_family(arguments, family)
    task = chosen_task(arguments)
    metric = arguments.best_metric or task.best_metric
    if metric not in (*task.metrics, "loss"):
        raise UserError(f"--best_metric {metric}: task {task.name} gives {', '.join(task.metrics)}, or loss")
    if arguments.best_metric and metric != "loss" and not arguments.n_val:
        raise UserError(f"--best_metric {metric}: --n_val 0 decodes nothing to score; give --n_val, or loss")
    output_dir = arguments.output_dir or f"runs/{arguments.mode}-{task.name}"
    directory = Run.check(output_dir, **place_of(arguments))
    check_tools(arguments)
    if arguments.resume:
        check_resumable(directory, arguments)
    records = {split: load_split(task, arguments, split) for split in ("train", "val", "test")}
    model, tokenizer = load_base(arguments, task, family)
    module = family.module_for(arguments.mode, task.kind)(
        arguments, model, tokenizer, family.form(arguments, tokenizer), task, records["train"], records["val"]
    )
    check_rhythm(module, arguments)
    if arguments.distill_from:
        teacher = load_pretrained(arguments.distill_from, arguments, family, "--distill_from")[0]
        check_positions(teacher, arguments, task, f"--distill_from {arguments.distill_from}", generates=False)
        module.learn_from(teacher.to(module.base.dtype))  # type: ignore[arg-type]
    if arguments.resume:
        check_origin(directory, module)
    for split, tokens in (("train", module.train_tokens), ("val", module.val_tokens)):
        print("\n".join(tokens.report(split)), end="\n" if tokens.report(split) else "")
    with directory.locked():
        Run.create(output_dir, **place_of(arguments))
        directory.write_config(recipe_of(arguments))
        _fit(module, directory, task, metric)
        evaluate(module.model, module.form, task, records["test"], directory, arguments, family)


def _fit(module: Any, directory: Run, task: Task, metric: str) -> None:
    """Train, and keep what was best by a validation's metric."""
    arguments = module.arguments
    trained = sum(parameter.numel() for parameter in module.trained_parameters())
    total = sum(parameter.numel() for parameter in module.base.parameters())
    print(f"{arguments.mode} {task.name}: {trained:,} trained parameters, base {total:,}, run {directory.directory}")
    monitor = "val_loss" if metric == "loss" or not arguments.n_val else f"val_{metric}"
    fit(module, directory, arguments, monitor, title=f"{arguments.mode} on {task.name}")
    restore_best(module, directory)
    kept = _keep(module, directory)
    directory.update_metrics(
        {"trainable_parameters": trained, "prefix_parameters": kept, "base_parameters": total, "mode": arguments.mode}
    )


def _check_family(arguments: Arguments, family: Family) -> None:
    """Raise UserError for options that an encoder-decoder does not have."""
    for name in ("format_mode", "objective_mode"):
        value = getattr(arguments, name)
        if family.is_encoder_decoder and value != getattr(Arguments, name):
            raise UserError(f"--{name} {value}: is for decoders; use {family.other_command}, or leave it out")


def _keep(module: BaseTransformer, directory: Run) -> int:
    """Write what generating needs: the collapsed prefix, the adapters, the base where it was trained.

    Returns the numbers that are kept beside the frozen base: the prefix's or the adapters', 0 without one.
    """
    model: Any = module.model
    if not module.has_frozen_base:
        base = model.model if isinstance(model, PrefixTuning) else model
        base.save_pretrained(directory.model)
        save_tokenizer(module.tokenizer, directory.model)
    if isinstance(model, PrefixTuning):
        model.collapse().save_pretrained(directory.directory)
        return model.num_prefix_parameters()
    if isinstance(model, AdapterTuning):
        model.save_pretrained(directory.directory)
        return model.num_adapter_parameters()
    return 0


def evaluate_run(arguments: Arguments, family: Family) -> None:
    """Decode and score an existing run (--do_train no --prefix_model_path RUN), into it or into --output_dir."""
    task = chosen_task(arguments)
    directory = Run.open(arguments.prefix_model_path or "", needs=("config.yaml",))
    output_dir = Path(arguments.output_dir or directory.directory)
    elsewhere = output_dir.resolve() != directory.directory.resolve()
    if elsewhere:
        Run.check(output_dir, overwrite=arguments.overwrite, inputs=inputs_of(arguments))
    else:
        refuse_unwritable(output_dir, "--prefix_model_path")
    records = load_split(task, arguments, "test")
    model, tokenizer = load_run(directory, arguments, task, family)
    if elsewhere:
        directory = Run.create(output_dir, overwrite=arguments.overwrite)
        directory.write_config(recipe_of(arguments))
    else:
        say_what_is_replaced(directory, arguments, "test", "--output_dir")
    evaluate(model, family.form(arguments, tokenizer), task, records, directory, arguments, family)


def say_what_is_replaced(run: Run, arguments: Arguments, split: str, elsewhere: str) -> None:
    """A line on standard error where a split's results in a run give way to those of other options.

    elsewhere: the flag that would put them in another place.
    """
    now, own = recipe_of(arguments), located(run.read_config())
    deciding = ["task", "data_dir", "max_source_length", *Search.__dataclass_fields__]
    deciding += ["n_test"] if split == "test" else []
    was = {name: own[name] for name in deciding if name in own}
    other = changes(was, {name: now.get(name) for name in was})
    if other and run.generations(split).is_file():
        print(
            f"{run.metrics.name} and {run.generations(split).name} in {run.directory} are replaced by those of other "
            f"options than config.yaml has ({other}); give {elsewhere} to keep them",
            file=sys.stderr,
        )


def evaluate(
    model: Any,
    form: TextForm,
    task: Task,
    records: list[Record],
    directory: Run,
    arguments: Arguments,
    family: Family,
) -> None:
    """Decode the test records and the baselines, score whole and by part, write and print it all."""
    model.eval()
    outputs: dict[str, list[str]] = {arguments.mode: decode(model, form, records, task, arguments, "test")}
    if arguments.baselines == "all":
        frozen = isinstance(model, (PrefixTuning, AdapterTuning)) and arguments.mode != "bothtune"
        base = model.detach() if frozen else load_base(arguments, task, family)[0]
        outputs["untuned base"] = decode(base.eval(), _plain_form(form), records, task, arguments, "untuned base")
    report = Report(task, records, outputs, lead=arguments.baselines != "none")
    directory.write_generations("test", report.generations())
    directory.replace_scores("test", report.metrics("test"))
    report.show(directory)


def _plain_form(form: TextForm) -> TextForm:
    """The form for a base without a prefix: an infix's source goes with the infix alone."""
    return CausalForm(form.tokenizer, form.source_prefix) if form.name == "infix" else form


def chosen_task(arguments: Arguments) -> Task:
    """The task with the lengths and the search that the flags changed."""
    task = task_for(arguments.task, arguments.data_dir, arguments.source_lang, arguments.target_lang)
    search = {name: getattr(arguments, name) for name in Search.__dataclass_fields__}
    lengths = {name: getattr(arguments, name) for name in task.limits}
    task = replace(task, **{k: v for k, v in lengths.items() if v is not None})
    return replace(task, search=replace(task.search, **{k: v for k, v in search.items() if v is not None}))


def load_split(task: Task, arguments: Arguments, split: Any) -> list[Record]:
    """The split's records that the options leave: --lowdata, --n_train, --n_test; says what could not be read."""
    records = load_records(task, arguments.data_dir, split)
    for line in records.report():
        print(line)
    if split == "train":
        if arguments.lowdata:
            return draw(records.items, arguments.lowdata, arguments.lowdata_seed)
        some = records.items[: arguments.n_train]
        pairs = sum(len(record.references) for record in some)
        if len(some) < len(records.items) and pairs > len(some):
            print(f"train: {len(some):,} of {len(records.items):,} records, {pairs:,} pairs with all their references")
        return some
    if split == "test" and arguments.n_test:
        return first_of_each_part(records.items, arguments.n_test)
    return records.items


if __name__ == "__main__":  # by the name that the authors' script has
    from seq2seq.train_bart import main

    sys.exit(main())
