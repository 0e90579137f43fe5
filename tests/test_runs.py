"""A run directory keeps what it was given, through interruptions and mistakes."""

import errno
import fcntl
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml

from seq2seq.partial_outputs import PartialOutputs
from seq2seq.runs import Run
from seq2seq.utils import UserError


def record(n: int) -> dict:
    return {"source": f"source {n}", "references": [f"réf\u2028{n}", "other"], "generated": f"text\n{n}", "part": ""}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run")


@pytest.fixture
def finished(run: Run) -> Run:
    """A run with all its files and one that is not its own."""
    run.write_config({"mode": "prefixtune"})
    run.update_metrics({"train_seconds": 1.5})
    run.write_generations("test", [record(1)])
    for path in (run.prefix, run.prefix_config, run.last_checkpoint, run.best_checkpoint, run.metrics_csv, run.curves):
        path.write_text("x")
    (run.directory / "notes.txt").write_text("mine")
    return run


def test_a_new_run_gets_its_directory(tmp_path):
    run = Run.create(tmp_path / "a" / "b")
    assert run.checkpoints.is_dir()
    assert Run.create(tmp_path / "a" / "b").directory == run.directory


def test_files_have_the_names_that_others_rely_on(tmp_path):
    run = Run(tmp_path)
    paths = (run.config, run.prefix, run.prefix_config, run.last_checkpoint, run.best_checkpoint, run.metrics)
    paths += (run.metrics_csv, run.curves, run.generations("val"))
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "config.yaml",
        "prefix.safetensors",
        "prefix_config.json",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "metrics.json",
        "metrics.csv",
        "curves.png",
        "generations_val.jsonl",
    ]
    with pytest.raises(ValueError, match="test/handwritten"):
        run.generations("test/handwritten")


def test_an_earlier_run_is_not_overwritten_silently(finished):
    before = {path: path.read_bytes() for path in finished.directory.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"already holds a run \(checkpoints/last.ckpt\); add --resume to go on, --ove"):
        Run.create(finished.directory)
    finished.last_checkpoint.unlink()
    with pytest.raises(UserError, match=r"already holds a run \(checkpoints/best.ckpt\); add --overwrite"):
        Run.create(finished.directory)
    assert all(path.read_bytes() == text for path, text in before.items() if path != finished.last_checkpoint)


def test_overwriting_removes_the_runs_files_and_no_other(finished):
    for name in ("checkpoints/last.ckpt.tmp", "metrics.json.17.tmp", "generations_test.jsonl.17.tmp"):
        (finished.directory / name).write_text("cut")
    (finished.directory / "generations_test.jsonl.partial").write_text("of a decoding of it")
    (finished.checkpoints / "epoch3.ckpt").write_text("mine too")
    Run.create(finished.directory, overwrite=True)
    left = sorted(path.name for path in finished.directory.rglob("*") if path.is_file())
    assert left == ["epoch3.ckpt", "notes.txt"]


def test_overwriting_removes_adapters_and_what_every_cut_write_left(finished):
    run = finished
    for path in (run.adapters, run.adapters_config):
        path.write_text("x")
    cut = [run.best_checkpoint, run.metrics, run.metrics_csv, run.config, run.generations("val")]
    for path in cut:
        path.with_name(f"{path.name}.17.tmp").write_text("cut")
    for folder in (run.model, run.tokenizer):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    Run.create(run.directory, overwrite=True)
    assert sorted(path.name for path in run.directory.rglob("*")) == ["checkpoints", "notes.txt"]


def test_a_model_in_a_folder_that_is_no_run_is_not_overwritten(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("mine")
    (tmp_path / "metrics.json").write_text("{}")
    Run.create(tmp_path, overwrite=True)
    assert (tmp_path / "model/config.json").read_text() == "mine"


def test_what_is_read_may_lie_in_a_run_that_is_resumed_but_in_none_that_is_overwritten(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to(finished.directory)
    for path in (finished.prefix, "~/run/prefix.safetensors", tmp_path / "link" / "notes.txt", finished.directory):
        with pytest.raises(UserError, match="--data_dir .*: lies in --output_dir .*/run, where --overwrite removes"):
            Run.check(finished.directory, overwrite=True, inputs={"data_dir": path})
        Run.check(finished.directory, resume=True, inputs={"data_dir": path})
    others = {"data_dir": tmp_path, "valid_file": None, "model_name_or_path": "prefix.safetensors"}
    Run.check(finished.directory, overwrite=True, inputs=others)


def test_its_own_files_are_those_beside_its_generations(finished, tmp_path):
    run = finished
    run.model.mkdir()
    (tmp_path / "link").symlink_to(run.directory)
    for path in (run.config, run.metrics, run.last_checkpoint, run.model / "new.txt", tmp_path / "link/curves.png"):
        assert run.owns(path), path
    for path in (run.generations("test"), run.directory / "notes.txt", run.directory / "texts.jsonl", run.adapters):
        assert not run.owns(path), path


def test_a_run_that_failed_before_its_first_step_is_no_obstacle(run):
    run.write_config({"mode": "prefixtune"})
    assert Run.create(run.directory).read_config() == {"mode": "prefixtune"}


def test_resuming_keeps_every_file_and_needs_a_checkpoint(finished):
    assert Run.create(finished.directory, resume=True).read_generations("test") == [record(1)]
    finished.last_checkpoint.unlink()
    with pytest.raises(UserError, match="no checkpoints/last.ckpt to resume from; put --overwrite in place of"):
        Run.create(finished.directory, resume=True)
    with pytest.raises(UserError, match="leave --resume out"):
        Run.create(finished.directory / "new", resume=True)
    with pytest.raises(UserError, match="give one of them"):
        Run.create(finished.directory, resume=True, overwrite=True)


def test_a_file_is_no_output_directory(finished):
    with pytest.raises(UserError, match="notes.txt is a file; give a directory"):
        Run.create(finished.directory / "notes.txt")
    with pytest.raises(UserError, match="cannot make --output_dir"):
        Run.create(finished.directory / "notes.txt" / "run")


def test_opening_says_what_is_missing(finished, tmp_path):
    assert Run.open(finished.directory).prefix.is_file()
    with pytest.raises(UserError, match=r"nowhere does not exist; give a run directory \(it holds config.yaml, prefix"):
        Run.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is a file, not a run directory"):
        Run.open(finished.metrics)
    finished.prefix.unlink()
    with pytest.raises(UserError, match=r"prefix.safetensors missing \(found: checkpoints, config.yaml, curves.png"):
        Run.open(finished.directory)
    assert Run.open(finished.directory, needs=["config.yaml"]).read_config() == {"mode": "prefixtune"}


def test_options_come_back_as_they_were(run):
    config = {"learning_rate": 5e-05, "task": "xsum", "seed": None, "data_dir": Path("a/b"), "sites": ("encoder",)}
    run.write_config(config)
    assert run.read_config() == config | {"data_dir": "a/b", "sites": ["encoder"]}
    assert list(run.read_config()) == list(config)


def test_broken_options_are_named_with_their_line(run):
    with pytest.raises(UserError, match="config.yaml is missing"):
        run.read_config()
    run.config.write_text("mode: prefixtune\nseed: [1\n")
    with pytest.raises(UserError, match=r"config.yaml:\d: broken YAML"):
        run.read_config()
    run.config.write_text("seed: " + "[" * 3000 + "\n")
    with pytest.raises(UserError, match=r"config.yaml: broken YAML \(nested too deeply\)"):
        run.read_config()
    run.config.write_text("just text\n")
    with pytest.raises(UserError, match="config.yaml:1"):
        run.read_config()


def test_metrics_merge_deeply(run):
    assert run.read_metrics() == {}
    run.update_metrics({"test": {"rougeL": {"score": 1.0, "n": 2}}, "train_seconds": 3.0})
    run.update_metrics({"test": {"rougeL": {"score": 4.0}, "bleu": {"score": 5.0}}, "prefix_parameters": 6})
    assert run.read_metrics() == {
        "test": {"rougeL": {"score": 4.0, "n": 2}, "bleu": {"score": 5.0}},
        "train_seconds": 3.0,
        "prefix_parameters": 6,
    }


def test_new_scores_of_a_split_take_the_place_of_its_own_alone(run):
    run.update_metrics({"test": {"bleu": 1}, "test/easy": {"bleu": 2}, "tests": {"bleu": 3}, "train_seconds": 4})
    run.update_metrics({"baselines": {"first": {"test": {"bleu": 5}, "val": {"bleu": 6}}, "base": {"test/hard": {}}}})
    run.replace_scores("test", {"test": {"rougeL": 7}, "baselines": {"other": {"test": {"rougeL": 8}}}})
    assert run.read_metrics() == {
        "tests": {"bleu": 3},
        "train_seconds": 4,
        "test": {"rougeL": 7},
        "baselines": {"first": {"val": {"bleu": 6}}, "other": {"test": {"rougeL": 8}}},
    }


def test_two_that_add_to_the_metrics_at_once_lose_nothing(run):
    run.write_config({})

    def score(split: str) -> None:
        for n in range(40):
            Run(run.directory).replace_scores(f"{split}{n}", {f"{split}{n}": {"bleu": {"score": n}}})

    with ThreadPoolExecutor() as pool:
        list(pool.map(score, ("val", "test")))
    assert len(run.read_metrics()) == 81  # with the baselines


def test_a_file_system_without_locks_is_not_locked(run, monkeypatch):
    def refuses(error: int) -> Callable[..., None]:
        def flock(*_: object) -> None:
            raise OSError(error, "no locks")

        return flock

    run.write_config({})
    monkeypatch.setattr(fcntl, "flock", refuses(errno.ENOLCK))
    with run.locked(), PartialOutputs(run.directory / "out.partial", 1):
        run.update_metrics({"train_seconds": 1.0})
    assert run.read_metrics() == {"train_seconds": 1.0}
    monkeypatch.setattr(fcntl, "flock", refuses(errno.EIO))
    with pytest.raises(OSError, match="no locks"), run.locked():
        pass


def test_a_write_that_fails_leaves_nothing_beside_the_file(run, monkeypatch):
    run.update_metrics({"train_seconds": 1.0})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("seq2seq.utils.os.replace", full)
    with pytest.raises(OSError, match="full"):
        run.update_metrics({"train_seconds": 2.0})
    assert [path.name for path in run.directory.iterdir() if path.is_file()] == ["metrics.json"]
    assert run.read_metrics() == {"train_seconds": 1.0}


def test_a_failed_write_leaves_the_metrics_as_they_were(run, monkeypatch):
    run.update_metrics({"train_seconds": 3.0})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("seq2seq.runs.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run.update_metrics({"train_seconds": 4.0})
    assert run.read_metrics() == {"train_seconds": 3.0}


def test_only_plain_values_are_written(run):
    run.update_metrics({"a": np.float32(1.5), "b": np.int64(2), "c": np.float64(3), "d": float("nan"), "e": Path("p")})
    assert json.loads(run.metrics.read_text()) == {"a": 1.5, "b": 2, "c": 3.0, "d": None, "e": "p"}
    run.write_config({"learning_rate": np.float64(0.1)})
    assert yaml.safe_load(run.config.read_text()) == {"learning_rate": 0.1}
    with pytest.raises(TypeError, match=r"metrics.json: test: scores\[1\]: cannot store ndarray"):
        run.update_metrics({"test": {"scores": [1, np.zeros(2)]}})
    with pytest.raises(TypeError, match="key 3 is int; use a string"):
        run.update_metrics({"val": {3: 1.0}})


def test_broken_metrics_are_named_with_their_line(run):
    run.metrics.write_text('{"a": 1,\n "b": }')
    with pytest.raises(UserError, match="metrics.json:2: broken JSON"):
        run.update_metrics({"c": 1})
    run.metrics.write_text("[" * 100_000)
    with pytest.raises(UserError, match="metrics.json:1: broken JSON"):
        run.read_metrics()
    run.metrics.write_text("[1]")
    with pytest.raises(UserError, match="metrics.json:1: holds no JSON object; correct or delete it"):
        run.read_metrics()


def test_generations_come_back_in_order_and_take_the_place_of_old_ones(run):
    assert run.read_generations("val") == []
    run.write_generations("val", [record(1), record(2)])
    assert run.read_generations("val") == [record(1), record(2)]
    run.write_generations("val", (record(n) for n in (3,)))
    assert run.read_generations("val") == [record(3)]


def test_an_interrupted_write_leaves_the_old_generations(run, monkeypatch):
    def decoding():
        yield record(2)
        raise KeyboardInterrupt

    run.write_generations("test", [record(1)])
    with pytest.raises(KeyboardInterrupt):
        run.write_generations("test", decoding())
    assert run.read_generations("test") == [record(1)]
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run.write_generations("test", [record(2)])
    assert run.read_generations("test") == [record(1)]


@pytest.mark.parametrize("kept_bytes", [1, 20, 40, 70])
def test_a_cut_last_line_is_named(run, kept_bytes):
    run.write_generations("test", [record(1), record(2)])
    path = run.generations("test")
    first, second, _ = path.read_bytes().split(b"\n")
    path.write_bytes(first + b"\n" + second[:kept_bytes])
    with pytest.raises(UserError, match=r"generations_test.jsonl:2: broken JSON line"):
        run.read_generations("test")
    path.write_bytes(first)
    assert run.read_generations("test") == [record(1)]


def test_a_broken_line_is_named(run):
    run.write_generations("test", [record(1)])
    path = run.generations("test")
    whole = path.read_text()
    path.write_text(whole + '{"source": \n' + whole)
    with pytest.raises(UserError, match=r"generations_test.jsonl:2: broken JSON line"):
        run.read_generations("test")
    path.write_text(whole + "[" * 100_000 + "\n" + whole)
    with pytest.raises(UserError, match=r"generations_test.jsonl:2: broken JSON line"):
        run.read_generations("test")
    path.write_text(whole + '{"source": "a"}\n')
    with pytest.raises(UserError, match=r"generations_test.jsonl:2: no record with source, references, generated"):
        run.read_generations("test")
    with pytest.raises(ValueError, match="lacks generated"):
        run.write_generations("val", [{"source": "a", "references": ["b"]}])


def test_neither_torch_nor_lightning_is_needed_to_read_a_run():
    import subprocess
    import sys

    code = "import sys, seq2seq.runs, seq2seq.metrics; print({'torch', 'pytorch_lightning', 'nltk'} & set(sys.modules))"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root).stdout == "set()\n"


def test_one_process_at_a_time_trains_into_it(tmp_path):
    run = Run(tmp_path / "new" / "run")
    again = Run(run.directory).locked()
    with run.locked():
        with pytest.raises(UserError, match="run: another process trains into it; wait for it, or give another"):
            again.__enter__()
        assert run.directory.is_dir() and not list(run.directory.iterdir())
    with run.locked():
        pass
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"cannot make --output_dir .*/file/run"),
        Run(tmp_path / "file" / "run").locked(),
    ):
        pass
