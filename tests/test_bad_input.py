"""A user's mistake: exactly one line that says what, where and what to do; exit code 2; nothing written or harmed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import contents
from small_runs import flags, records, start, write_base

from seq2seq.resuming import read_checkpoint
from seq2seq.runs import Run
from seq2seq.utils import UserError

Options = dict[str, Any]


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory) -> Path:
    return start(**small, max_steps=1, output_dir=tmp_path_factory.mktemp("finished") / "run") or Path()


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory) -> Path:
    """A run of one epoch."""
    return start(**{**small, "epoch": 1}, output_dir=tmp_path_factory.mktemp("whole") / "run") or Path()


class TestFlags:
    @pytest.mark.parametrize(
        "argv, says",
        [
            (["--task", "xsumm"], "--task xsumm: no such task; known are sample, xsum, "),
            (["--learningrate", "1"], "--learningrate"),
            (["--bsz", "many"], "bsz"),
            (["--mode", "prefix"], "mode"),
            (["--sites", '["encoder", "self"]'], "sites"),
            (["--bsz", "0"], "--bsz 0: must be at least 1"),
            (["--bsz", "null"], "bsz"),
            (["--task", ""], "--task: is empty; give a value, or leave it out"),
            (["--output_dir", ""], "--output_dir: is empty; give a value, or leave it out"),
            (["--max_steps", "0"], "--max_steps 0: trains nothing"),
            (["--sites"], "--sites nothing: must be a list [x, …], each one of encoder, decoder, cross or null"),
            (["--learning_rate", "-1"], "--learning_rate -1.0: must be above 0"),
            (["--prefix_dropout", "1"], "--prefix_dropout 1.0: is a share, at least 0 and below 1"),
            (["--learning_rate", ".inf"], "--learning_rate inf: must be a finite number"),
            (["--weight_decay", ".nan"], "--weight_decay nan: must be a finite number"),
            (["--adam_beta2", "1.5"], "--adam_beta2 1.5: is a share, at least 0 and below 1"),
            (["--seed", "-1"], "--seed -1: must be at least 0"),
            (["--lowdata_seed", "-1"], "--lowdata_seed -1: must be at least 0"),
            (["--seed", "99999999999999999999"], "must be at most 9223372036854775807"),
            (["--max_minutes", "1e20"], "--max_minutes 1e+20: must be at most 1000000000"),
            (["--min_length", "50", "--max_length", "20"], "--min_length 50 is above --max_length 20"),
            (["--best_metric", "bleu"], "--best_metric bleu: task sample gives rouge1, rouge2, rougeL, rougeLsum, or"),
            (["--best_metric", "rouge1", "--n_val", "0"], "--n_val 0 decodes nothing to score"),
            (["--resume", "--overwrite"], "--resume and --overwrite exclude each other"),
            (["--data", "x"], "recognized arguments: --data"),  # by half a name recipe and checks would not know it
            (["--mode", "finetune", "--preseql", "3"], "recognized arguments: --preseql"),
            (["--do_train", "no"], "--do_train no: say which run to decode with --prefix_model_path RUN"),
            (["--do_train=no", "--prefix_model_path=x", "--resume"], "--resume: goes on with a training, and"),
            (["--prefix_model_path", "x", "--mode", "finetune"], "--mode finetune has no prefix to start"),
            (["--lowdata_token", "a", "--prefix_model_path", "x"], "both start the prefix; give one of them"),
            (["--objective_mode", "1"], "--objective_mode 1: is for decoders; use train_e2e.py"),
            (["--mode", "finetune", "--format_mode", "nopeek"], "--format_mode nopeek: is for decoders"),
            (["--mode", "finetune", "--format_mode", "infix"], "--format_mode infix: --mode finetune has no infix"),
            (["--lowdata", "5", "--n_train", "9"], "--lowdata draws from all training pairs; leave --n_train out"),
            (["--source_lang", "en"], "--source_lang en without --target_lang"),
            (
                ["--mode", "finetune", "--preseqlen", "9"],
                "--preseqlen: does nothing in --mode finetune; it is for --mode ",
            ),
            (["--mode=adaptertune", "--top_layers=7"], "--top_layers: does nothing in --mode adaptertune"),
            (["--deep", "--mid_dim", "0"], "--deep: does nothing without an MLP; give --mid_dim above 0"),
            (["--distill_weight", "0.5"], "--distill_weight: does nothing without a teacher; give --distill_from"),
            (
                ["--label_smoothing", "0.1", "--distill_from", "x"],
                "--label_smoothing: does nothing where the teacher alone is learnt from; give --distill_weight below 1",
            ),
            (["--lowdata_seed", "3"], "--lowdata_seed: does nothing where nothing is drawn; give --lowdata"),
            (["--num_beams=1", "--length_penalty=2"], "--length_penalty: does nothing with one beam; give --num_beams"),
            (
                ["--mode", "pretrain", "--data_dir", "texts", "--early_stopping_patience", "2"],
                "--early_stopping_patience: does nothing where nothing is validated; give --valid_file",
            ),
            (["--mode=prefixtune", "--base_config.d_model=8"], "--base_config: does nothing in --mode prefixtune"),
            (
                ["--mode=pretrain", "--data_dir=d", "--task=xsum"],
                "--task: does nothing in --mode pretrain; leave it out",
            ),
            (["--eval_num_beams=3", "--n_val=0"], "--eval_num_beams: does nothing where validation decodes nothing"),
            (
                ["--mode=pretrain", "--data_dir=d", "--model_name_or_path=bart-mini", "--base_config.d_model=64"],
                "--base_config: does nothing to a base that is there; leave --model_name_or_path out",
            ),
            (
                ["--mode=pretrain", "--data_dir=d", "--tokenizer_name_or_path=t", "--vocab_size=300"],
                "--vocab_size: does nothing where the tokenizer is there",
            ),
            (["--mode=pretrain", "--data_dir=d", "--objective_mode=1"], "--objective_mode: does nothing in --mode pre"),
            (["--mode", "pretrain"], "--mode pretrain: say where the text is with --data_dir DIR"),
            (["--config", "none.yaml"], "none.yaml"),
        ],
    )
    def test_that_are_wrong(self, refuse, argv, says):
        assert says in refuse(argv)

    @pytest.mark.parametrize(
        "argv, type_this",
        [
            (["--mode", "xsum", "--tuning_mode", "prefixtune"], "--task xsum --mode prefixtune"),
            (["--tuning_mode=finetune", "--mode=cnn_dm"], "--task cnn_dm --mode finetune"),
        ],
    )
    def test_of_the_authors_are_told_what_to_type(self, refuse, argv, type_this):
        assert refuse(argv).endswith(f"type: python train_bart.py {type_this}")

    @pytest.mark.parametrize(
        "text, says",
        [
            ("preseqlenn: 5\n", "preseqlenn"),
            ("bsz: 4\npreseqlen: five\n", "recipe.yaml:2: preseqlen five: must be a whole number or null; see --help"),
            ("seed: 1\nbsz: 0\n", "recipe.yaml:2: bsz 0: must be at least 1"),
            ("bsz: null\n", "recipe.yaml:1: bsz: is null; give a value, or leave it out"),
            ("sites: encoder cross\n", "recipe.yaml:1: sites encoder cross: must be a list [x, …], each one of "),
            ("base_config: 3\n", "recipe.yaml:1: base_config 3: must be a mapping {x: y, …}; see --help"),
            ("learning_rate: [1]\n", "recipe.yaml:1: learning_rate [1]: must be a number; see --help"),
            ("permute_sentences: perhaps\n", "recipe.yaml:1: permute_sentences perhaps: must be yes or no"),
            ("preseqlen: [5\n", "recipe.yaml"),
            ("- preseqlen\n", "recipe.yaml"),
            ("bsz: 5\nseed: 1\nbsz: 7\n", "recipe.yaml:3: broken YAML (bsz stands there twice); correct the line"),
            ("? [bsz]\n: 1\n? [bsz]\n: 1\n", "recipe.yaml:1: broken YAML"),
        ],
    )
    def test_in_a_recipe_that_are_wrong(self, refuse, tmp_path, text, says):
        (tmp_path / "recipe.yaml").write_text(text)
        assert says in refuse(["--config", str(tmp_path / "recipe.yaml")])

    def test_a_real_process_ends_with_code_2_and_without_a_traceback(self, tmp_path):
        command = [sys.executable, "-m", "seq2seq.train_bart", "--data_dir", "nowhere", "--output_dir", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "error: --data_dir nowhere: no such directory; check the path\n"
        assert list(tmp_path.iterdir()) == []


class TestData:
    @pytest.fixture
    def with_data(self, small, refuse, tmp_path) -> Callable[..., str]:
        """Refused on these files as --data_dir."""

        def run(*, further: Options | None = None, **files: bytes | str) -> str:
            folder = tmp_path / "data"
            folder.mkdir()
            good = "".join(json.dumps(row) + "\n" for row in records(4))
            for name, text in {"val.jsonl": good, "test.jsonl": good, **files}.items():
                (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
            return refuse(flags(**{**small, "data_dir": folder, "output_dir": tmp_path / "run", **(further or {})}))

        return run

    def test_that_is_not_there(self, small, refuse, tmp_path):
        assert refuse(flags(**{**small, "data_dir": tmp_path / "no"})).endswith(
            "/no: no such directory; check the path"
        )

    def test_with_a_broken_json_line(self, with_data):
        text = json.dumps(records(1)[0]) + '\n{"source": "a"'
        assert "data/train.jsonl:2: not JSON" in with_data(**{"train.jsonl": text})

    def test_with_a_record_that_lacks_its_target(self, with_data):
        assert "train.jsonl:1: no field target or references" in with_data(**{"train.jsonl": '{"source": "a"}\n'})

    def test_with_fewer_targets_than_sources(self, with_data):
        said = with_data(**{"train.source": "a\nb\nc\n", "train.target": "a\nb\n"})
        assert said.startswith("train.target has 2 lines, train.source has 3")

    def test_that_is_not_utf8(self, with_data):
        said = with_data(**{"train.source": "fine\ncaf\xe9\n".encode("latin-1"), "train.target": "a\nb\n"})
        assert "train.source:2: not UTF-8 (byte 0xe9 at position 4)" in said

    def test_with_an_empty_training_split(self, with_data):
        assert "no train record has a source and a target" in with_data(**{"train.jsonl": ""})

    def test_without_a_training_split(self, with_data):
        assert "no train split; looked for train.{source,target}" in with_data()

    def test_with_fewer_steps_than_lie_between_validations(self, small, refuse, tmp_path):
        options = {**small, "gradient_accumulation_steps": 2, "output_dir": tmp_path / "run"}
        said = refuse(flags(**options, val_every_steps=7))
        says = "the training has 6 steps (--epoch 2); give at most that, more --epoch, or --val_every_steps null"
        assert said == f"--val_every_steps 7: {says}"

    def test_with_fewer_steps_than_asked_for(self, small, tmp_path, capsys):
        start(**{**small, "n_val": 0, "epoch": 1}, max_steps=99, output_dir=tmp_path / "run")
        assert "--max_steps 99: --epoch 1 ends the training after 5 steps; give more epochs" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("warmup", "said"), [(5, "has 5 steps, in which the learning rate gets to 0.008 of 0.01"), (4, "")]
    )
    def test_with_fewer_steps_than_the_warm_up(self, small, tmp_path, capsys, warmup, said):
        options = {**small, "n_val": 0, "epoch": 1, "learning_rate": 0.01}
        start(**{**options, "warmup_steps": warmup}, output_dir=tmp_path / "run")
        printed = capsys.readouterr().err
        assert (f"--warmup_steps {warmup}: the training {said}; give fewer" in printed) if said else not printed

    @pytest.mark.parametrize("limit", ["max_source_length", "val_max_target_length", "test_max_target_length"])
    def test_that_does_not_fit_between_the_special_tokens(self, small, refuse, tmp_path, limit):
        said = refuse(flags(**{**small, limit: 2, "output_dir": tmp_path / "run"}))
        assert said == f"--{limit} 2: no room beside the 2 special tokens; give at least 3"
        assert not (tmp_path / "run").exists()

    def test_on_the_hub_that_cannot_be_reached(self, refuse, small, offline):
        said = refuse([*flags(**{**small, "data_dir": None}), "--task", "xsum"])
        assert "the hub data set EdinburghNLP/xsum cannot be loaded" in said and "pass --data_dir DIR" in said


@pytest.fixture
def offline(monkeypatch) -> None:
    """No network, and no waiting for it."""
    import datasets
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


class TestBase:
    @pytest.fixture
    def with_base(self, small, refuse, tmp_path) -> Callable[..., str]:
        def run(base: Any, **further: Any) -> str:
            return refuse(flags(**{**small, "model_name_or_path": base, "output_dir": tmp_path / "run", **further}))

        return run

    def test_that_the_hub_cannot_give(self, with_base, offline):
        said = with_base("nobody/nothing")
        assert said.startswith("--model_name_or_path nobody/nothing: not found here or on the hub")

    def test_that_is_there_but_too_large_to_load(self, with_base, monkeypatch):
        def fails(name: str, **_: Any) -> None:
            raise RuntimeError("not enough memory:\n tried to allocate 9 bytes")

        monkeypatch.setattr("transformers.AutoModelForSeq2SeqLM.from_pretrained", fails)
        said = with_base("bart-mini")
        assert "/bart-mini: cannot be loaded (not enough memory: tried to allocate 9 bytes)" in said

    def test_folder_without_a_model(self, with_base, tmp_path):
        (tmp_path / "empty").mkdir()
        assert "/empty: a folder without a model that transformers can read" in with_base(tmp_path / "empty")

    @pytest.mark.parametrize("lost", ["model.safetensors", "config.json", "tokenizer.json"])
    def test_folder_with_a_broken_file(self, with_base, tiny_tokenizer, tmp_path, lost):
        base = write_base(tmp_path / "base", tiny_tokenizer)
        (base / lost).write_bytes((base / lost).read_bytes()[:100])
        assert "/base: a folder without a model that transformers can read" in with_base(base)

    @pytest.mark.parametrize("lost", ["model.safetensors", "tokenizer.json"])
    def test_folder_that_lacks_a_file(self, with_base, tiny_tokenizer, tmp_path, lost):
        base = write_base(tmp_path / "base", tiny_tokenizer)
        (base / lost).unlink()
        assert "/base: a folder without a model that transformers can read" in with_base(base)

    def test_that_is_a_gpt2(self, with_base, tiny_tokenizer, tmp_path):
        from transformers import GPT2Config, GPT2LMHeadModel

        GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, n_positions=32, vocab_size=400)).save_pretrained(
            tmp_path / "gpt2"
        )
        tiny_tokenizer.save_pretrained(tmp_path / "gpt2")
        assert "is a gpt2, a decoder; use train_e2e.py" in with_base(tmp_path / "gpt2")

    def test_that_is_a_bert(self, with_base, tiny_tokenizer, tmp_path):
        from transformers import BertConfig, BertModel

        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        BertModel(BertConfig(vocab_size=400, **sizes)).save_pretrained(tmp_path / "bert")
        assert "is a bert, an encoder, which writes no texts; give train_bart.py" in with_base(tmp_path / "bert")

    @pytest.mark.parametrize("name", ["max_source_length", "max_target_length", "val_max_target_length", "max_length"])
    def test_with_too_few_positions(self, small, with_base, name):
        base = small["model_name_or_path"]
        assert f"--{name} 65: {base} has 64 positions; give at most 64" == with_base(base, **{name: 65})

    def test_whose_search_lacks_the_length(self, small, with_base, monkeypatch):
        monkeypatch.setattr("seq2seq.loading.FAMILIES", ("gpt2", "llama"))
        base = small["model_name_or_path"]
        said = with_base(base, length_norm="prompt")
        assert said == f"--length_norm prompt: {base} is a bart; for gpt2, llama: leave it out"


class TestRuns:
    def test_that_do_not_exist(self, refuse):
        assert refuse(["--do_train", "no", "--prefix_model_path", "runs/none"]).startswith("runs/none does not exist")

    def test_whose_results_are_replaced_by_others_say_so(self, finished, tmp_path, capsys):
        run = shutil.copytree(finished, tmp_path / "run")
        start(do_train="no", prefix_model_path=run, n_test=1, progress="no", threads=1)
        assert f"metrics.json and generations_test.jsonl in {run} are replaced" in capsys.readouterr().err
        start(do_train="no", prefix_model_path=run, progress="no", threads=1)
        assert "are replaced" not in capsys.readouterr().err
        start(do_train="no", prefix_model_path=finished, output_dir=tmp_path / "b", n_test=1, progress="no", threads=1)
        assert "are replaced" not in capsys.readouterr().err

    def test_that_hold_no_prefix_yet(self, refuse, tmp_path, finished):
        half = tmp_path / "half"
        half.mkdir()
        (half / "config.yaml").write_bytes((finished / "config.yaml").read_bytes())
        said = refuse(["--do_train", "no", "--prefix_model_path", str(half)])
        assert "holds no prefix.safetensors, adapters.safetensors or model/; let the run finish" in said

    @pytest.mark.parametrize("flags", [("--mode", "adaptertune"), ("--preseqlen", "99"), ("--learning_rate", "7")])
    def test_that_were_trained_otherwise_than_flags_say(self, refuse, finished, flags):
        said = refuse(["--do_train", "no", "--prefix_model_path", str(finished), *flags])
        was = Run(finished).read_config()[flags[0][2:]]
        assert said.startswith(" ".join(flags)[:20])
        assert f"changes nothing in the decoding of a run that was trained with {was}; leave it out" in said

    def test_whose_recipe_is_broken(self, refuse, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run/config.yaml").write_text("preseqlen: [\n")
        assert "run/config.yaml" in refuse(["--do_train", "no", "--prefix_model_path", str(tmp_path / "run")])

    def test_whose_prefix_belongs_to_another_base(self, refuse, finished, tiny_tokenizer, tmp_path):
        other = write_base(tmp_path / "other", tiny_tokenizer, seed=1)
        said = refuse(["--do_train", "no", "--prefix_model_path", str(finished), "--model_name_or_path", str(other)])
        assert "this prefix was trained on another base (fingerprint " in said

    def test_that_were_pretrained_are_not_decoded(self, refuse, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run/config.yaml").write_text("mode: pretrain\ndata_dir: x\n")
        said = refuse(["--do_train", "no", "--prefix_model_path", str(tmp_path / "run")])
        assert "a pretraining has nothing to decode" in said

    def test_with_nothing_to_resume(self, refuse, small, tmp_path):
        said = refuse(flags(**small, output_dir=tmp_path / "new", resume="yes"))
        assert said.endswith("/new holds no checkpoints/last.ckpt to resume from; leave --resume out to start")

    @pytest.mark.parametrize(
        "mistake",
        [{"data_dir": "nowhere"}, {"max_source_length": 99}, {"best_metric": "bleu"}, {"val_every_steps": 11}],
    )
    def test_that_are_to_be_overwritten_survive_a_mistake(self, refuse, small, finished, mistake):
        before = contents(finished)
        refuse(flags(**{**small, **mistake, "output_dir": finished, "overwrite": "yes"}))
        assert contents(finished) == before

    @pytest.mark.parametrize("logger", ["tensorboard", "wandb"])
    def test_that_are_to_be_overwritten_survive_a_missing_logger(self, refuse, small, finished, monkeypatch, logger):
        monkeypatch.setattr("seq2seq.training.find_spec", lambda name: None)
        before = contents(finished)
        said = refuse(flags(**small, logger=logger, output_dir=finished, overwrite="yes"))
        assert f"--logger {logger}: is not installed; type: pip install 'prefixtuning[{logger}]'" in said
        assert contents(finished) == before

    @pytest.mark.parametrize("name", ["model_name_or_path", "distill_from", "prefix_model_path", "data_dir"])
    def test_that_are_to_be_overwritten_keep_what_the_new_one_reads(self, refuse, small, tmp_path, name):
        run = tmp_path / "run"
        inside = run if name == "prefix_model_path" else run / "model"
        (run / "model").mkdir(parents=True)
        for file in ("config.yaml", "prefix.safetensors", "prefix_config.json", "model/config.json"):
            (run / file).write_text("x")
        said = refuse(flags(**{**small, name: inside, "output_dir": "run", "overwrite": "yes"}))
        assert said == (
            f"--{name} {inside}: lies in --output_dir run, where --overwrite removes the earlier run; "
            "give another --output_dir"
        )

    @pytest.fixture
    def copied(self, finished, tmp_path) -> Path:
        """A finished run of which nothing else is made."""
        return Path(shutil.copytree(finished, tmp_path / "copy"))

    def test_do_not_lie_where_their_decoding_overwrites(self, refuse, copied, tmp_path):
        where = ["--prefix_model_path", str(copied), "--output_dir", str(tmp_path)]
        said = refuse(["--do_train", "no", *where, "--overwrite", "yes"])
        assert said.startswith(f"--prefix_model_path {copied}: lies in --output_dir {tmp_path}, where --overwrite rem")

    def test_that_cannot_be_written_in_are_not_decoded_into(self, refuse, copied, monkeypatch):
        monkeypatch.setattr("os.access", lambda path, how: Path(path) != copied)
        said = refuse(["--do_train", "no", "--prefix_model_path", str(copied)])
        assert said.startswith(f"--prefix_model_path {copied}: cannot be written in; give another, or change its perm")

    @pytest.mark.parametrize("change", [{"best_metric": "loss"}, {"n_val": 1}, {"eval_num_beams": 2}])
    @pytest.mark.parametrize("end", [{"max_steps": 1}, {"max_steps": -1, "epoch": 1}])
    def test_that_have_ended_are_not_validated_otherwise(self, refuse, small, finished, whole, change, end):
        run = finished if "epoch" not in end else whole
        (name, value), step = next(iter(change.items())), 5 if "epoch" in end else 1
        before = contents(run)
        said = refuse(flags(**{**small, **end, **change}, output_dir=run, resume="yes"))
        assert said.startswith(
            f"--{name} {value}: the training in {run} has ended at step {step}, nothing is validated"
        )
        assert contents(run) == before

    @pytest.mark.parametrize("name, cure", [("last", "put --overwrite in place of --resume"), ("best", "delete it")])
    def test_whose_checkpoint_is_cut(self, refuse, small, copied, name, cure):
        checkpoint = copied / f"checkpoints/{name}.ckpt"
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
        said = refuse(flags(**small, max_steps=2, output_dir=copied, resume="yes"))
        assert f"checkpoints/{name}.ckpt: cannot be read" in said and cure in said

    @pytest.mark.parametrize("name", ["last", "best"])
    @pytest.mark.parametrize("content", [{"a": 1}, [1, 2], {"state_dict": {}}])
    def test_whose_checkpoint_is_none(self, refuse, small, copied, name, content):
        torch.save(content, copied / f"checkpoints/{name}.ckpt")
        said = refuse(flags(**small, max_steps=2, output_dir=copied, resume="yes"))
        assert f"checkpoints/{name}.ckpt: is no checkpoint of a run (it lacks " in said

    def test_whose_checkpoint_has_another_byte(self, copied):
        path = copied / "checkpoints/last.ckpt"
        whole = path.read_bytes()
        for place in range(100, 1500, 7):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
            with suppress(UserError):
                read_checkpoint(path)
