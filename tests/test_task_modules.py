"""What the tasks' modules validate and predict with, and what a run does around the training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_runs import flags, records, start

from gpt2.train_control import FORMS
from seq2seq import finetune
from seq2seq.arguments import Arguments, recipe_of
from seq2seq.finetune import BART, chosen_task, load_split, module_for, run, say_what_is_replaced
from seq2seq.kept_files import fingerprint
from seq2seq.loading import load_base
from seq2seq.parsing import parse
from seq2seq.records import Record, draw
from seq2seq.runs import Run
from seq2seq.tuning import Tuned
from seq2seq.utils import UserError

Options = dict[str, Any]
pytestmark = pytest.mark.usefixtures("without_curves")


def module_of(small: Options, given: list[Record], **options: Any) -> Any:
    """The module that the command would train, on these records."""
    arguments = parse(flags(**{**small, **options}), "train_bart.py")
    task = chosen_task(arguments)
    model, tokenizer = load_base(arguments, task, BART)
    form = BART.form(arguments, tokenizer)
    return module_for(arguments.mode, task.kind)(arguments, model, tokenizer, form, task, given, given)


@pytest.fixture
def some() -> list[Record]:
    return [Record(row["source"], (row["target"], "something else")) for row in records(6)]


class TestAModule:
    def test_trains_on_every_pair_and_validates_on_the_first_of_each_record(self, small, some):
        module = module_of(small, some, max_target_length=5, val_max_target_length=4, bsz=5, n_val=2)
        assert (len(module.train_tokens), len(module.val_tokens), module.batches_an_epoch) == (12, 6, 3)
        assert [max(tokens.target_lengths) for tokens in (module.train_tokens, module.val_tokens)] == [5, 4]
        loss, texts = module.val_dataloader()
        assert [sum(len(batch["index"]) for batch in loader) for loader in (loss, texts)] == [6, 2]

    def test_a_validations_loss_counts_tokens(self, small, some, monkeypatch):
        module, logged = module_of(small, some), {}
        monkeypatch.setattr(module, "log", lambda name, value: logged.update({name: value}))
        monkeypatch.setattr(module, "loss", lambda batch: torch.tensor(float(len(batch["labels"]))))
        module.on_validation_epoch_start()
        for labels in (torch.tensor([[5, 6, -100], [7, 8, 9]]), torch.tensor([[5, -100]])):
            module.validation_step({"labels": labels}, 0)
        module.on_validation_epoch_end()
        assert logged == {"val_loss": (2 * 5 + 1 * 1) / 6}

    def test_validation_has_its_own_beams_and_stays_within_its_own_length(self, small, some):
        asked = {"num_beams": 4, "eval_num_beams": 3, "min_length": 9, "max_length": 12}
        module = module_of(small, some, **asked, val_max_target_length=7)
        search = module.task.search
        assert (search.num_beams, search.min_length, search.max_length) == (4, 9, 12)
        assert module.val_search == replace(search, num_beams=3, min_length=7, max_length=7)
        module = module_of(small, some, **asked, val_max_target_length=14)
        assert module.val_search == replace(search, num_beams=3)

    def test_prediction_searches_as_the_task_does(self, small, some, monkeypatch):
        module, searches = module_of(small, some, num_beams=4, eval_num_beams=1), []
        monkeypatch.setattr(finetune, "generate_texts", lambda model, form, batch, search: searches.append(search))
        module.predict_step({}, 0)
        assert searches == [module.task.search] != [module.val_search]

    def test_scores_of_the_same_records_compare_however_many_more_were_asked_for(self, small, some):
        few, all_of_them, more = (module_of(small, some, n_val=n) for n in (5, 6, 99))
        assert more.measured_by("val_rougeL") == all_of_them.measured_by("val_rougeL") != few.measured_by("val_rougeL")
        assert few.measured_by("val_loss") == more.measured_by("val_loss")

    def test_scores_against_other_references_do_not_compare(self, small, some):
        one = [Record(record.source, record.references[:1]) for record in some]
        modules = [module_of(small, records) for records in (one, some, some[:1] + one[1:], some)]
        by_score = [module.measured_by("val_rougeL") for module in modules]
        assert by_score[1] == by_score[3] and all(by_score[1] != other for other in (by_score[0], by_score[2]))
        assert by_score[0].keys() < by_score[1].keys()
        assert modules[0].measured_by("val_loss") == modules[1].measured_by("val_loss")

    def test_processes_share_the_batches(self, small, some):
        module, seen = module_of(small, some, bsz=2), []
        for rank in (0, 1):
            module._trainer = SimpleNamespace(overfit_batches=0, world_size=2, global_rank=rank)
            seen.append([tuple(batch) for batch in module.train_dataloader().batch_sampler])
        assert len(seen[0]) == len(seen[1]) == 3 and not set(seen[0]) & set(seen[1])


class TestARun:
    def test_has_the_threads_that_were_asked_for(self, monkeypatch):
        threads, seen = torch.get_num_threads(), []
        monkeypatch.setattr(finetune, "train", lambda *_: seen.append(torch.get_num_threads()))
        try:
            for asked in (3, 2, None):
                run(Arguments(threads=asked))
        finally:
            torch.set_num_threads(threads)
        assert seen == [3, 2, 2]

    def test_waits_for_no_other_that_trains_into_its_directory(self, small, tmp_path):
        with Run(tmp_path / "run").locked(), pytest.raises(UserError, match="run: another process trains into it"):
            start(**small, output_dir=tmp_path / "run")
        assert not (tmp_path / "run/config.yaml").exists()

    def test_goes_to_a_directory_that_is_named_by_mode_and_task(self, small, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs/prefixtune-custom").write_text("")
        with pytest.raises(UserError, match="--output_dir runs/prefixtune-custom is a file"):
            start(**small)

    def test_that_decodes_nothing_cannot_choose_by_a_score(self, small, tmp_path):
        with pytest.raises(UserError, match="--best_metric rougeL: --n_val 0 decodes nothing to score; give --n_val"):
            start(**{**small, "n_val": 0}, best_metric="rougeL", output_dir=tmp_path / "run")

    @pytest.mark.parametrize("mode", ["prefixtune", "bothtune", "finetune"])
    def test_the_untuned_base_is_as_it_was_loaded_and_nothing_drops_out(self, small, tmp_path, monkeypatch, mode):
        seen = []

        def decode(model: Any, form: Any, records: list[Record], *_: Any) -> list[str]:
            base = model.model if isinstance(model, Tuned) else model
            seen.append((fingerprint(base), model.training, base is not model))
            return [""] * len(records)

        monkeypatch.setattr(finetune, "decode", decode)
        options = {**small, "mode": mode, "max_steps": 1, "n_val": 0, "baselines": "all"}
        start(**options, output_dir=tmp_path / "run")
        arguments = parse(flags(**options), "train_bart.py")
        untuned = fingerprint(load_base(arguments, chosen_task(arguments), BART)[0])
        assert seen[1] == (untuned, False, False)
        assert seen[0][1:] == (False, mode != "finetune") and (seen[0][0] == untuned) == (mode == "prefixtune")


def test_an_untuned_base_reads_what_stands_in_front_of_the_source_of_an_infix_too(tiny_tokenizer):
    for name, plain in (("infix", "causal"), ("nopeek", "nopeek")):
        form = finetune._plain_form(FORMS[name](tiny_tokenizer, "In town: "))
        assert (form.name, form.source_prefix) == (plain, "In town: ")


class TestRecords:
    def write(self, folder: Path, references: int = 1) -> None:
        rows = [{"source": f"s{i}", "references": [f"t{i}", "u", "v"][:references]} for i in range(9)]
        for split in ("train", "val"):
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def test_few_are_drawn_by_a_seed_of_their_own(self, tmp_path):
        self.write(tmp_path)
        whole = Arguments(data_dir=str(tmp_path))
        few = replace(whole, lowdata=4, lowdata_seed=3, seed=1)
        every = load_split(chosen_task(whole), whole, "train")
        for seed in (1, 2):
            drawn = load_split(chosen_task(few), replace(few, seed=seed), "train")
            assert drawn == draw(every, 4, 3) != draw(every, 4, seed)
        assert load_split(chosen_task(few), few, "val") == load_split(chosen_task(whole), whole, "val")

    def test_n_test_leaves_the_other_splits_whole(self, tmp_path):
        self.write(tmp_path)
        arguments = Arguments(data_dir=str(tmp_path), n_test=2)
        assert [len(load_split(chosen_task(arguments), arguments, split)) for split in ("train", "val")] == [9, 9]

    def test_how_many_pairs_the_first_records_are_is_said(self, tmp_path, capsys):
        self.write(tmp_path, references=3)
        arguments = Arguments(data_dir=str(tmp_path), n_train=2)
        assert len(load_split(chosen_task(arguments), arguments, "train")) == 2
        assert capsys.readouterr().out == "train: 2 of 9 records, 6 pairs with all their references\n"
        for more in ({"n_train": 9}, {"n_train": None}, {"n_train": None, "lowdata": 4}):
            load_split(chosen_task(arguments), replace(arguments, **more), "train")
        assert not capsys.readouterr().out


class TestDecodingARun:
    @pytest.fixture
    def kept(self, tmp_path) -> Run:
        """A run that says how it was decoded, and has texts of two splits."""
        kept = Run.create(tmp_path / "run")
        kept.write_config(recipe_of(Arguments(data_dir="/data", n_test=5)))
        for split in ("test", "val"):
            kept.write_generations(split, [])
        return kept

    @pytest.mark.parametrize(
        "change, splits",
        [
            ({}, []),
            ({"n_test": 2}, ["test"]),
            ({"data_dir": "/others"}, ["test", "val"]),
            ({"max_source_length": 9}, ["test", "val"]),
            ({"num_beams": 7}, ["test", "val"]),
            ({"eval_bsz": 7}, []),
        ],
    )
    def test_by_other_options_says_which_results_give_way(self, kept, capsys, change, splits):
        asked = replace(Arguments(data_dir="/data", n_test=5), **change)
        for split in ("test", "val", "train"):
            say_what_is_replaced(kept, asked, split, "--output")
            said = capsys.readouterr().err
            assert (f"generations_{split}.jsonl in {kept.directory} are replaced by" in said) == (split in splits)
            assert bool(said) == (split in splits)
