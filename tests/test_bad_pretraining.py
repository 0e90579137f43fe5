"""A user's mistake in --mode pretrain: the same one line, exit code 2, nothing written or harmed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from small_runs import PRETRAINING, flags, write_text


class TestPretraining:
    @pytest.fixture
    def pretraining(self, refuse, tmp_path) -> Callable[..., str]:
        text = write_text(tmp_path / "text", documents=30)

        def run(**options: Any) -> str:
            place = {"data_dir": text, "output_dir": tmp_path / "run", "cache_dir": tmp_path.with_name("cache")}
            new = {"model_name_or_path": ("base_config", "vocab_size"), "tokenizer_name_or_path": ("vocab_size",)}
            unused = {name for given in options for name in new.get(given, ())}
            common = {name: value for name, value in PRETRAINING.items() if name not in unused}
            return refuse(flags(**{**common, **place, **options}))

        return run

    @pytest.mark.parametrize(
        "options, says",
        [
            ({"data_dir": "nowhere"}, "--data_dir nowhere: no such directory; pretraining reads *.txt"),
            ({"data_dir": "."}, "--data_dir .: holds no *.txt, *.txt.gz or *.txt.xz to pretrain on"),
            ({"valid_file": "nowhere.txt"}, "--valid_file nowhere.txt: no such file"),
            ({"tokens_per_batch": 1000}, "--tokens_per_batch 1000: must be a multiple of 512"),
            ({"tokens_per_batch": 512 * 500}, "tokens, less than one batch of 256000; add text"),
            ({"window_lengths": "[100]"}, "--window_lengths [100]: each must divide 512"),
            ({"vocab_size": 100}, "--vocab_size 100: "),
            ({"vocab_size": 5000}, "--vocab_size 5000: "),
            ({"base_config": '{"d_mode": 16}'}, "base_config: d_mode"),
            ({"base_config": '{"d_model": 15, "encoder_attention_heads": 2}'}, "base_config: "),
            ({"base_config": '{"d_model": "x"}'}, "base_config: Validation error for field 'd_model'"),
            ({"base_config": '{"d_model": -4}'}, "base_config: "),
            ({"base_config": '{"activation_function": "foo"}'}, "base_config: 'foo'"),
            ({"span_mean": 0.5}, "--span_mean 0.5: must be at least 1"),
            ({"base_config": '{"max_position_embeddings": 100}'}, "max_position_embeddings 100 must be at least 514"),
            ({"tokenizer_name_or_path": "text"}, "--tokenizer_name_or_path text: no tokenizer that can be read"),
            ({"model_name_or_path": "text"}, "--model_name_or_path text: a folder without a model"),
        ],
    )
    def test_on_what_does_not_fit(self, pretraining, options, says):
        assert says in pretraining(**options)

    @pytest.mark.parametrize("name", ["model_name_or_path", "tokenizer_name_or_path", "embeddings_from"])
    def test_from_a_model_that_it_would_overwrite(self, pretraining, tmp_path, name):
        (tmp_path / "run/model").mkdir(parents=True)
        said = pretraining(**{name: tmp_path / "run/model"}, overwrite="yes")
        assert said.startswith(f"--{name} {tmp_path}/run/model: lies in --output_dir ")

    def test_with_fewer_steps_than_lie_between_validations(self, pretraining):
        assert "--val_every_steps 999: the training has " in pretraining(val_every_steps=999)

    def test_from_a_base_with_too_few_positions(self, pretraining, small):
        said = pretraining(model_name_or_path=small["model_name_or_path"])
        assert said.endswith("max_position_embeddings 64 must be at least 514")

    def test_on_text_that_is_not_utf8(self, pretraining, tmp_path):
        (tmp_path / "text/more.txt").write_bytes("caf\xe9\n".encode("latin-1"))
        assert "text/more.txt: not readable as UTF-8 text" in pretraining()
