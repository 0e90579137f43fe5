"""A run directory: what is in it, how it is written and read back.

    config.yaml                what the run was asked to do
    prefix.safetensors         the kept prefix: keys and values
    prefix_config.json         its shape and the fingerprint of the base it belongs to
    adapters.safetensors, adapters_config.json    the same for adapters
    model/                     in the prefix's place: the fine-tuned or pretrained model, as save_pretrained writes it
    tokenizer/                 a pretraining's own tokenizer, which resuming needs
    checkpoints/last.ckpt      what resuming needs, without the frozen base
    checkpoints/best.ckpt      the same at the best validation score
    metrics.json               scores with signatures, parameter counts, times
    metrics.csv, curves.png    the training, step by step
    generations_<split>.jsonl  one record a line: source, references, generated

A file is replaced as a whole (temporary file, then os.replace), or grown line by line as metrics.csv is, so that a run
that is killed at any moment leaves files that can be read. curves.png and model/ come last, and are made again.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from seq2seq.arguments import located
from seq2seq.utils import UserError, lock, write_atomically

KEPT_PREFIX = ("config.yaml", "prefix.safetensors", "prefix_config.json")
GENERATION_KEYS = ("source", "references", "generated")


class _Loader(yaml.SafeLoader):
    """YAML's own, which refuses a key that stands twice in a mapping in place of taking the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} stands there twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_options(path: Path) -> dict[str, Any]:
    """Read a YAML file of `option: value` lines.

    Raises UserError with file:line if it cannot be read, is broken, says something twice or holds something else.
    """
    try:
        options = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(f"{path}: cannot be read ({reason}); give a YAML file") from error
    except RecursionError as error:
        raise UserError(f"{path}: broken YAML (nested too deeply); correct it") from error
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or "no YAML"
        raise UserError(f"{path}:{mark.line + 1 if mark else 1}: broken YAML ({problem}); correct the line") from error
    if not isinstance(options, dict):
        raise UserError(f"{path}:1: holds no `option: value` lines; write some")
    return options


def refuse_unwritable(folder: Path, flag: str) -> None:
    """Raise UserError for a folder that is there and in which no file can be made."""
    if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {folder}: cannot be written in; give another, or change its permissions")


class Run:
    """A run directory's files by name, and the reading and writing of them.

    `Run(directory)` looks at nothing; `Run.create` and `Run.open` check what is there.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    @classmethod
    def create(
        cls,
        output_dir: str | Path,
        *,
        resume: bool = False,
        overwrite: bool = False,
        inputs: Mapping[str, str | Path | None] | None = None,
    ) -> "Run":
        """Make the directory of a new run, or take up an earlier one.

        `overwrite` removes the files that a run writes and nothing else; call this after everything else that the
        user asked for has been checked. A lone `config.yaml` (a run that failed before its first step) is no obstacle.
        Raises UserError as `check` does.
        """
        run = cls.check(output_dir, resume=resume, overwrite=overwrite, inputs=inputs)
        if overwrite:
            run._remove()
        elif resume:
            run._remove_cut_writes()
        run._make(run.checkpoints)
        return run

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make --output_dir {self.directory} ({error.strerror}); give another") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While open, no other process that asks for the same may write here; the directory is made.

        A KeyboardInterrupt leaves it with a line that says how to go on. Raises UserError where another process has it.
        """
        self._make(self.directory)
        folder = os.open(self.directory, os.O_RDONLY)
        busy = f"--output_dir {self.directory}: another process trains into it; wait for it, or give another"
        try:
            lock(folder, busy)
            yield
        except KeyboardInterrupt:
            go_on = "; add --resume to go on from checkpoints/last.ckpt"
            nothing_yet = " before the first checkpoint; --overwrite starts again"
            raise KeyboardInterrupt(f"interrupted{go_on if self.last_checkpoint.is_file() else nothing_yet}") from None
        finally:
            os.close(folder)

    @classmethod
    def check(
        cls,
        output_dir: str | Path,
        *,
        resume: bool = False,
        overwrite: bool = False,
        inputs: Mapping[str, str | Path | None] | None = None,
    ) -> "Run":
        """Refuse what `create` would refuse, before anything slow is done; nothing is written.

        inputs: option -> file, folder or hub name that the new run reads.
        Raises UserError if the directory already holds a run and neither flag is given, if both are, if there is no
        checkpoint to resume from, if the path is a file, or if an input lies in the directory that is overwritten.
        """
        run = cls(output_dir)
        if resume and overwrite:
            raise UserError("--resume goes on with a run and --overwrite starts it again; give one of them")
        if run.directory.exists() and not run.directory.is_dir():
            raise UserError(f"--output_dir {run.directory} is a file; give a directory")
        for name, path in (inputs or {}).items() if overwrite else ():
            if path and run._holds(path):
                raise UserError(
                    f"--{name} {path}: lies in --output_dir {run.directory}, where --overwrite removes the earlier "
                    "run; give another --output_dir"
                )
        for path in (*run._files(), run.generations("test")):
            if path.is_dir():
                raise UserError(
                    f"{path}: is a folder, where a run writes a file; remove it, or give another --output_dir"
                )
        held = [name for name in run._present() if name != "config.yaml"]
        if resume and not run.last_checkpoint.is_file():
            again = "put --overwrite in place of --resume" if held else "leave --resume out"
            raise UserError(f"{run.directory} holds no checkpoints/last.ckpt to resume from; {again} to start")
        if held and not resume and not overwrite:
            can_resume = run.last_checkpoint.is_file()
            found = "checkpoints/last.ckpt" if can_resume else held[0]
            go_on = "--resume to go on, " if can_resume else ""
            raise UserError(
                f"{run.directory} already holds a run ({found}); "
                f"add {go_on}--overwrite to start again, or another --output_dir"
            )
        there = next((folder for folder in (run.directory, *run.directory.parents) if folder.is_dir()), run.directory)
        for folder in (there, run.checkpoints):
            refuse_unwritable(folder, "--output_dir")
        return run

    @classmethod
    def open(cls, path: str | Path, needs: Iterable[str] = KEPT_PREFIX) -> "Run":
        """Open an existing run that holds the files `needs`.

        Raises UserError that says what a run directory holds, what was found and what to type.
        """
        run = cls(path)
        needs = tuple(needs)
        make_one = f"train one with --output_dir {run.directory}"
        if not run.directory.is_dir():
            kind = "is a file, not a run directory" if run.directory.exists() else "does not exist"
            raise UserError(f"{run.directory} {kind}; give a run directory (it holds {', '.join(needs)}) or {make_one}")
        missing = [name for name in needs if not (run.directory / name).is_file()]
        if missing:
            found = ", ".join(sorted(entry.name for entry in run.directory.iterdir())[:8]) or "nothing"
            raise UserError(
                f"{run.directory} is no finished run: {', '.join(missing)} missing (found: {found}); "
                f"a run directory holds {', '.join(needs)}; give another or {make_one}"
            )
        return run

    @property
    def config(self) -> Path:
        return self.directory / "config.yaml"

    @property
    def prefix(self) -> Path:
        return self.directory / "prefix.safetensors"

    @property
    def adapters(self) -> Path:
        return self.directory / "adapters.safetensors"

    @property
    def adapters_config(self) -> Path:
        return self.directory / "adapters_config.json"

    @property
    def prefix_config(self) -> Path:
        return self.directory / "prefix_config.json"

    @property
    def model(self) -> Path:
        return self.directory / "model"

    @property
    def tokenizer(self) -> Path:
        return self.directory / "tokenizer"

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def best_checkpoint(self) -> Path:
        return self.checkpoints / "best.ckpt"

    @property
    def metrics(self) -> Path:
        return self.directory / "metrics.json"

    @property
    def metrics_csv(self) -> Path:
        return self.directory / "metrics.csv"

    @property
    def curves(self) -> Path:
        return self.directory / "curves.png"

    def generations(self, split: str) -> Path:
        """Return the path of a split's generations; ValueError for a name that does not fit in a file name."""
        if not re.fullmatch(r"[\w-]+", split):
            raise ValueError(f"a split is named by letters, digits, _ and -, got {split!r}")
        return self.directory / f"generations_{split}.jsonl"

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the run's options as YAML, in their order; TypeError for a value that YAML cannot hold plainly."""
        plain = _plain(config, self.config.name)
        write_atomically(self.config, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))

    def read_config(self) -> dict[str, Any]:
        """Read the run's options; UserError if there are none or the YAML is broken."""
        if not self.config.is_file():
            raise UserError(f"{self.config} is missing; give a directory that a training run has written")
        return read_options(self.config)

    def unfinished(self) -> UserError:
        """The error of a run that has kept nothing to generate with."""
        options = read_options(self.config) if self.config.is_file() else {}
        if options.get("do_train") is False:
            return UserError(
                f"{self.directory}: is a decoding of the run {options.get('prefix_model_path')}; give that run"
            )
        kept = f"{self.prefix.name}, {self.adapters.name} or {self.model.name}/"
        return UserError(f"{self.directory}: holds no {kept}; let the run finish with --resume")

    def refuse_other_config(self, config: Mapping[str, Any], may_change: Iterable[str]) -> None:
        """Raise UserError if the run was made with other options than `config`, those of `may_change` aside."""
        old, new = located(self.read_config()), _plain(config, self.config.name)
        for name in sorted(old.keys() & new.keys() - set(may_change)):
            if old[name] != new[name]:
                raise UserError(
                    f"{self.config}: the run was started with {name} {old[name]}, not {new[name]}; "
                    "resume it with that, or start another with --output_dir"
                )

    def update_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Merge values into metrics.json, dictionaries key by key; a float that is not finite is written as null."""
        with self._changing_metrics():
            self._write_metrics(_merge(self.read_metrics(), _plain(metrics, self.metrics.name, finite=True)))

    def replace_scores(self, split: str, scores: Mapping[str, Any]) -> None:
        """Put a split's scores (`split`, `split/part`, `baselines`: system -> these) in the place of its old ones.

        Scores of other splits stay, those of their baselines as well.
        """

        def of_others(named: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in named.items() if name != split and not name.startswith(f"{split}/")}

        with self._changing_metrics():
            old = of_others(self.read_metrics())
            baselines = {system: of_others(values) for system, values in old.pop("baselines", {}).items()}
            old["baselines"] = {system: values for system, values in baselines.items() if values}
            self._write_metrics(_merge(old, _plain(scores, self.metrics.name, finite=True)))

    @contextmanager
    def _changing_metrics(self) -> Iterator[None]:
        """While open, other processes wait with their changes to metrics.json: two decodings of a run add to it."""
        with ExitStack() as stack:
            with suppress(OSError):  # no options yet, or not ours to write; some file systems lock no file that is read
                lock(stack.enter_context(self.config.open("r+b")))
            yield

    def _write_metrics(self, merged: Mapping[str, Any]) -> None:
        write_atomically(self.metrics, json.dumps(merged, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def read_metrics(self) -> dict[str, Any]:
        """Read metrics.json, empty if nothing has been written yet; UserError with file:line if it is broken."""
        if not self.metrics.is_file():
            return {}
        try:
            metrics = json.loads(self.metrics.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:  # the second: nested too deeply
            where = f"{self.metrics}:{getattr(error, 'lineno', 1)}"
            reason = getattr(error, "msg", error)
            raise UserError(f"{where}: broken JSON ({reason}); correct or delete it") from error
        if not isinstance(metrics, dict):
            raise UserError(f"{self.metrics}:1: holds no JSON object; correct or delete it")
        return metrics

    def write_generations(self, split: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Put records (`source`, `references`, `generated`, by choice `part`) in the place of a split's old ones.

        Raises ValueError for a record that lacks one of the three keys; the old ones then stay.
        """
        path, lines = self.generations(split), []
        for number, record in enumerate(records):
            missing = [key for key in GENERATION_KEYS if key not in record]
            if missing:
                raise ValueError(f"record {number} for {path.name} lacks {', '.join(missing)}; has {list(record)}")
            lines.append(json.dumps(_plain(record, path.name, finite=True), ensure_ascii=False) + "\n")
        write_atomically(path, "".join(lines))

    def read_generations(self, split: str) -> list[dict[str, Any]]:
        """Read a split's records, empty if there are none. Raises UserError with file:line for what is no record."""
        path, records = self.generations(split), []
        # Split at the newline byte only: U+2028 and its like may stand inside a text.
        lines = path.read_bytes().split(b"\n") if path.is_file() else [b""]
        for number, line in enumerate(lines[:-1] if lines[-1] == b"" else lines, start=1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}:{number}: broken JSON line ({error}); delete it or decode again") from error
            if not isinstance(record, dict) or any(key not in record for key in GENERATION_KEYS):
                keys = ", ".join(GENERATION_KEYS)
                raise UserError(f"{path}:{number}: no record with {keys}; delete the line or decode again")
            records.append(record)
        return records

    def _holds(self, path: str | Path) -> bool:
        """Whether a file or folder lies in the run directory, or is it; a hub name does not."""
        path = Path(path).expanduser()
        return path.exists() and path.resolve().is_relative_to(self.directory.resolve())

    def owns(self, path: Path) -> bool:
        """Whether a path is one of the files that the run holds beside its generations."""
        own = [self.directory / name for name in self._present() if not name.startswith("generations_")]
        at = path.resolve()
        return at.is_relative_to(self.model.resolve()) or any(at == file.resolve() for file in own)

    def _files(self) -> list[Path]:
        """Every file of a run but its generations, the telling ones first."""
        named = [self.last_checkpoint, self.best_checkpoint, self.prefix, self.prefix_config, self.adapters]
        return [*named, self.adapters_config, self.metrics, self.metrics_csv, self.curves, self.config]

    def _present(self) -> list[str]:
        """Names of the run's files that exist, the telling ones first."""
        paths = [path for path in self._files() if path.is_file()] + sorted(self.directory.glob("generations_*.jsonl"))
        return [path.relative_to(self.directory).as_posix() for path in paths]

    def _remove(self) -> None:
        if self.config.is_file():  # else the folders are someone else's
            for folder in (self.model, self.tokenizer):
                shutil.rmtree(folder, ignore_errors=True)
        for name in self._present():
            (self.directory / name).unlink()
        self._remove_cut_writes()
        for path in self.directory.glob("generations_*.jsonl.partial"):
            path.unlink()

    def _remove_cut_writes(self) -> None:
        """What a kill in the middle of a write leaves behind."""
        for kept in self._files():
            for path in (*kept.parent.glob(f"{kept.name}*.tmp"), *kept.parent.glob(f"{kept.name}.new")):
                path.unlink()
        for path in self.directory.glob("generations_*.jsonl*.tmp"):
            path.unlink()


def _plain(value: Any, where: str, *, finite: bool = False) -> Any:
    """Turn a value into str, int, float, bool, None, list and dict; TypeError that names the place for any other."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Path):
        return str(value)
    # Subclasses (numpy.float64 is a float, an enum may be a str) are turned into the plain type.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return None if finite and not math.isfinite(value) else float(value)
    if isinstance(value, Mapping):
        for key in value:
            # YAML keeps a whole number as a key, JSON would make it a string
            if not isinstance(key, str) and (finite or type(key) is not int):
                raise TypeError(f"{where}: key {key!r} is {type(key).__name__}; use a string")
        return {
            str.__str__(key) if isinstance(key, str) else key: _plain(item, f"{where}: {key}", finite=finite)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{index}]", finite=finite) for index, item in enumerate(value)]
    # numpy scalars and tensors without dimension, told by their shape: neither library is needed for that
    if getattr(value, "shape", None) == ():
        return _plain(value.item(), where, finite=finite)
    raise TypeError(f"{where}: cannot store {type(value).__name__}; use a number, a text, a list or a dict of these")


def _merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
