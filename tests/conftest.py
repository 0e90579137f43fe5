"""What several tests share: a tokenizer of BART's form, trained on a few sentences; a command that must refuse."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

SENTENCES = [
    "The library on Mill Street opens at nine and closes at six.",
    "A burst pipe flooded the cellar of the town hall on Monday night.",
    "Volunteers planted forty trees along the river before the rain came.",
    "The ferry to the island was cancelled because of strong wind.",
    "Tickets for the spring concert are sold at the bakery near the station.",
]


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE that writes `<s> text </s>`; ids <s> 0, <pad> 1, </s> 2, <unk> 3, <mask> last."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    backend.add_special_tokens(["<mask>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


@pytest.fixture(scope="session")
def small(tmp_path_factory, tiny_tokenizer) -> dict[str, Any]:
    """Options of a run that takes a second: a tiny base, five-sentence records, a token cache of its own."""
    from small_runs import FLAGS, write_base, write_data

    place = tmp_path_factory.mktemp("small")
    base, data = write_base(place / "base", tiny_tokenizer), write_data(place / "data")
    return {**FLAGS, "model_name_or_path": base, "data_dir": data, "cache_dir": place / "cache"}


@pytest.fixture(scope="session")
def small_gpt2(tmp_path_factory, tiny_tokenizer, small) -> dict[str, Any]:
    """The same records on a tiny GPT-2."""
    from small_runs import write_gpt2_base

    base = write_gpt2_base(tmp_path_factory.mktemp("small_gpt2") / "base", tiny_tokenizer)
    return {**small, "program": "train_e2e.py", "model_name_or_path": base}


@pytest.fixture
def study_file(small, tmp_path) -> Callable[..., Path]:
    """Writes a study of small runs; its keys may be given."""
    from small_studies import write_study

    return partial(write_study, tmp_path, small)


@pytest.fixture
def without_curves() -> Iterator[None]:
    """Drawing takes a third of a small run's time, and draws what the tables say."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seq2seq.training.draw_curves", lambda *args: None)
        yield


@pytest.fixture(scope="module")
def quiet_and_light() -> Iterator[None]:
    """Two parameters need one thread, and none of the trainer's advice."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def refuse(monkeypatch, capsys, tmp_path) -> Callable[[list[str]], str]:
    """Run train_bart.py on argv, and return its one line without `error: `."""

    from seq2seq.train_bart import main

    def run(argv: list[str]) -> str:
        monkeypatch.setattr(sys, "argv", ["train_bart.py", *argv])
        monkeypatch.chdir(tmp_path)
        before = contents(tmp_path)
        capsys.readouterr()
        assert main() == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), lines
        assert contents(tmp_path) == before
        return lines[0].removeprefix("error: ")

    return run


@pytest.fixture
def clock(monkeypatch) -> None:
    """A clock for the callbacks that only Clocked moves."""
    from unittest.mock import Mock

    from toy_trainings import Clocked

    monkeypatch.setattr("seq2seq.callbacks.time", Mock(monotonic=lambda: Clocked.now))
