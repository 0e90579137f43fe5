"""Translation: files by language, and bases whose tokenizer marks the languages."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from conftest import SENTENCES
from small_runs import SIZES, start
from transformers import MBart50Tokenizer, MBartConfig, MBartForConditionalGeneration, MBartTokenizer

from seq2seq.runs import Run
from seq2seq.utils import CACHE_NAMES

pytestmark = pytest.mark.usefixtures("without_curves")


@pytest.mark.parametrize("mode", ["prefixtune", "finetune"])
def test_line_files_of_two_languages_are_translated(small, tmp_path, mode):
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "val", "test"):
        (data / f"{split}.en").write_text("\n".join(SENTENCES) + "\n")
        (data / f"{split}.de").write_text("\n".join(reversed(SENTENCES)) + "\n")
    options = {**small, "data_dir": data, "mode": mode, "epoch": 1, "output_dir": tmp_path / "run"}
    run = start(**options, source_lang="en", target_lang="de")
    assert run
    metrics = Run(run).read_metrics()
    assert set(metrics["test"]) == {"bleu", "chrf"} and metrics["baselines"] == {}
    assert Run(run).read_generations("test")[0]["references"] == [SENTENCES[-1]]


@pytest.mark.parametrize(("kind", "starts"), [(MBartTokenizer, "ro_RO"), (MBart50Tokenizer, "</s>")])
def test_a_multilingual_base_starts_with_the_targets_mark_in_training_and_decoding(
    small, tmp_path, monkeypatch, kind, starts
):
    tokenizer = kind()
    config = MBartConfig(vocab_size=len(tokenizer), **SIZES, decoder_start_token_id=2 if starts == "</s>" else None)
    MBartForConditionalGeneration(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "val", "test"):
        (data / f"{split}.en").write_text("\n".join(SENTENCES) + "\n")
        (data / f"{split}.ro").write_text("\n".join(SENTENCES) + "\n")
    read: list[list[int]] = []
    forward = MBartForConditionalGeneration.forward

    def watched(model: Any, *args: Any, decoder_input_ids: torch.Tensor, **inputs: Any) -> Any:
        cache = next((inputs[name] for name in CACHE_NAMES if inputs.get(name) is not None), None)
        if cache is None or cache.get_seq_length() == 0:  # training, or the start of a text
            read.append(decoder_input_ids[:, :2].tolist())
        return forward(model, *args, decoder_input_ids=decoder_input_ids, **inputs)

    monkeypatch.setattr(MBartForConditionalGeneration, "forward", functools.wraps(forward)(watched))
    options = {**small, "model_name_or_path": tmp_path / "base", "data_dir": data, "epoch": 1, "n_val": 0}
    assert start(**options, source_lang="en", target_lang="ro", output_dir=tmp_path / "run")
    first, mark = (tokenizer.convert_tokens_to_ids(token) for token in (starts, "ro_RO"))
    assert {row[0] for rows in read for row in rows} == {first}
    if starts == "</s>":  # then the mark is the first token that is predicted, or forced
        assert {row[1] for rows in read for row in rows if len(row) > 1} == {mark}
