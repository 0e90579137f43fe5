"""From the command line and a YAML recipe to `Arguments`, and what each program means where they say nothing."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from seq2seq.arguments import ABOUT_THE_CALL, CONFIGS, OF_THE_TASK, PATHS, Arguments
from seq2seq.effect import IN_DECODING, refuse_idle_search, refuse_in_decoding, refuse_without_effect
from seq2seq.mistakes import in_the_recipe, wrong_kind
from seq2seq.runs import read_options
from seq2seq.utils import UserError, one_line

# The task without a flag; a program of decoders is named here, others are BART's.
DEFAULT_TASKS = {"train_e2e.py": "sample_tables", "quality.py": "sample_tables"}
BARTS_TASK = "sample"
FOLDERS_OF_TABLES = "custom_tables"  # what a decoder reads a folder as
OF_GEN = ("run", "input", "output")  # its paths
TRAIN_THE_BASE = ("finetune", "finetune-top", "bothtune")


def parse(argv: list[str] | None, program: str) -> Arguments:
    """Read flags and a YAML recipe into `Arguments`; flags win over the recipe, the recipe over the defaults.

    The recipe is `--config FILE.yaml`; else the task's in `configs/`; in a decoding the run's own is below or in place.
    argv: flags without the program's name, None = this process's.
    Raises UserError for anything that does not parse; exits after --help.
    """
    argv = sys.argv[1:] if argv is None else argv
    flags = flags_of(argv)
    flags |= {name: _path(flags[name]) for name in (*PATHS, "config") if name in flags}
    if flags.get("config") == "":
        raise UserError("--config: is empty; give a YAML file, or leave it out")
    _refuse_authors_habit(flags, program)
    recipe = _recipe(flags, program)
    if _words_give_the_length(flags, recipe):
        argv = [*argv, "--preseqlen", "null"]
    if flags.get("lowdata", "null") != "null" and "n_train" not in flags:  # a recipe's was not meant for a draw
        argv = [*argv, "--n_train", "null"]
    what = "Prefix-tune, fine-tune or pretrain, then decode and score."
    arguments = parse_into(Arguments, argv, program, what, recipe)
    if not arguments.do_train:
        decoding = _of_the_run(arguments, flags)
        refuse_idle_search((name for name, value in flags.items() if value != "null"), decoding)
        return decoding
    refuse_without_effect([name for name, value in flags.items() if value != "null"], arguments)
    _tell_of_a_prefixs_rate(arguments, flags, recipe)
    if not (arguments.task or arguments.data_dir or arguments.source_lang):
        return replace(arguments, task=DEFAULT_TASKS.get(program, BARTS_TASK))
    return arguments


def _of_the_run(arguments: Arguments, flags: Mapping[str, str]) -> Arguments:
    """The options of a decoding: what its run was trained with is as the run has it, another task brings its own.

    With a --config that is so of all that neither it nor a flag says.
    """
    config = Path(arguments.prefix_model_path or "") / "config.yaml"
    run = read_options(config) if config.is_file() else {}
    refuse_in_decoding(flags, arguments, run)
    given = {*flags, *(read_options(Path(flags["config"])) if "config" in flags else ())}
    own_task = run.get("task") or ("custom" if run.get("data_dir") else None)
    if "task" in given and arguments.task in (None, own_task):
        given.remove("task")
    known = {f.name for f in fields(Arguments)} - IN_DECODING
    changes: dict[str, Any] = {}
    if "config" in flags:
        changes = {name: getattr(Arguments, name) for name in known if hasattr(Arguments, name)}  # the run may be older
        known |= IN_DECODING - {*given, *ABOUT_THE_CALL, "config"}
    changes |= {name: value for name, value in run.items() if name in known}
    if "task" in given:
        changes |= {name: None for name in OF_THE_TASK if name not in given}
    try:
        return replace(arguments, **changes)
    except TypeError as error:
        raise UserError(f"{config}: a value is of the wrong kind ({error}); correct it") from error


def flags_of(argv: Iterable[str]) -> dict[str, str]:
    """The options that flags give (`--name value`, `--name=value`, `--name.key=value`), and what follows each.

    That is the last flag's value where an option is given twice, and an empty text behind a bare flag.
    """
    parts = [part for a in argv for part in (a.split("=", 1) if a.startswith("--") else [a])]
    pairs = zip(parts, [*parts, ""][1:], strict=True)
    return {
        flag[2:].split(".")[0]: "" if value.startswith("--") else value
        for flag, value in pairs
        if flag.startswith("--")
    }


Options = TypeVar("Options")


def parse_into(kind: type[Options], argv: list[str], program: str, description: str, recipe: Path | None) -> Options:
    """Read flags into a dataclass composed of groups of options; a recipe's values are its defaults.

    Raises UserError for anything that does not parse and for a recipe's unknown option; exits after --help.
    """
    return reader(kind, program, description, recipe)(argv)


def reader(
    kind: type[Options], program: str, description: str = "", recipe: Path | None = None
) -> Callable[[list[str]], Options]:
    """What `parse_into` reads flags with, made once for many calls."""
    import jsonargparse

    names = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    of_recipe = read_options(recipe) if recipe else {}
    if unknown := sorted(map(str, of_recipe.keys() - names)):
        raise UserError(f"{recipe}: unknown option {', '.join(unknown)}; {program} --help lists them")
    parser = _parser(kind, program, description)  # type: ignore[arg-type]  # a class is hashable

    def read(argv: list[str]) -> Options:
        parser.default_config_files = [glob.escape(str(recipe))] if recipe else []
        try:
            parsed = parser.parse_args(_lists(_bare_switches(argv, kind), kind))
        except jsonargparse.ArgumentError as error:
            wrong = wrong_kind(error, kind, flags_of(argv), recipe)
            raise UserError(wrong or f"{program}: {one_line(error)}; see --help") from None
        values = {name: value for name, value in vars(parsed).items() if name in names}
        values |= _texts(kind, {**of_recipe, **flags_of(argv)})
        values |= {name: _path(values[name]) for name in (*PATHS, *OF_GEN) if isinstance(values.get(name), str)}
        try:
            for field in fields(kind):  # type: ignore[arg-type]
                if values[field.name] is None and "None" not in str(field.type):
                    raise UserError(f"--{field.name}: is null; give a value, or leave it out")
            options = kind(**values)
        except UserError as error:
            raise UserError(in_the_recipe(str(error), flags_of(argv), recipe)) from None
        return _of_the_program(options, program) if isinstance(options, Arguments) else options  # type: ignore[return-value]

    return read


@cache
def _parser(kind: Any, program: str, description: str) -> Any:
    """The parser of a dataclass's flags, a long fifth of a second in the making."""
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)  # the fields' texts are the help
    parser = jsonargparse.ArgumentParser(
        prog=program,
        description=description,
        exit_on_error=False,
        allow_abbrev=False,  # the recipe and the checks go by the flags' whole names
    )
    if kind is Arguments:
        parser.add_argument("--config", help="YAML recipe; every key is a flag's name; default: the task's in configs/")
    for group in reversed(kind.__mro__[1:-1]):
        parser.add_class_arguments(group, as_group=True)
    return parser


def _texts(kind: Any, given: Mapping[str, Any]) -> dict[str, str]:
    """Options that are texts, as they stand: the parser takes them for YAML, in which `# x` is a comment."""
    texts = [field.name for field in fields(kind) if field.type in ("str", "str | None")]
    return {name: given[name] for name in texts if isinstance(given.get(name), str) and given[name] != "null"}


def _path(text: str) -> str:
    """A path, or a hub name, with the user's folder in place of `~`, which a shell leaves alone behind `=`."""
    return os.path.expanduser(text)


def _of_the_program(arguments: Arguments, program: str) -> Arguments:
    """The options with what the program means where they say nothing: its clipping, and its task of a folder."""
    decoders = program in DEFAULT_TASKS
    if arguments.max_grad_norm is None:
        arguments = replace(arguments, max_grad_norm=1.0 if decoders else 0.0)
    trains = arguments.do_train and arguments.mode != "pretrain"
    if decoders and trains and arguments.data_dir and not arguments.task and not arguments.source_lang:
        arguments = replace(arguments, task=FOLDERS_OF_TABLES)
    return arguments


def _recipe(flags: Mapping[str, str], program: str) -> Path | None:
    """The YAML file whose values are the defaults of this call."""
    if "config" in flags:
        return Path(flags["config"])
    if "prefix_model_path" in flags and _says_no(flags.get("do_train", "yes")):
        own = Path(flags["prefix_model_path"]) / "config.yaml"
        return own if own.is_file() else None
    folders = FOLDERS_OF_TABLES if program in DEFAULT_TASKS and "source_lang" not in flags else "custom"
    task = flags.get("task") or (folders if "data_dir" in flags else DEFAULT_TASKS.get(program, BARTS_TASK))
    mode = flags.get("mode", "prefixtune")
    names = [f"{task}_{mode}", *([f"{task}_finetune"] if mode in TRAIN_THE_BASE else []), task]
    candidates = [CONFIGS / f"{name}.yaml" for name in names if mode != "pretrain"]
    return next((path for path in candidates if path.is_file()), None)


def _says_no(text: str) -> bool:
    """Whether a switch's value is one of those that YAML and the parser take for false."""
    return text.lower() in ("no", "false", "off")


def _words_give_the_length(flags: Mapping[str, str], recipe: Path | None) -> bool:
    """Whether --lowdata_token is given here, its length is not, and the recipe's length was meant for another start.

    It was in a recipe of `configs/` that starts from something else; in one of the user's own it is given.
    """
    here = "lowdata_token" in flags and "preseqlen" not in flags
    if not here or not recipe or not recipe.is_file():
        return here
    return recipe.resolve().parent == CONFIGS and not read_options(recipe).get("lowdata_token")


def _tell_of_a_prefixs_rate(arguments: Arguments, flags: Mapping[str, str], recipe: Path | None) -> None:
    """A line on standard error where a base is trained by a recipe whose learning rate is meant for a prefix."""
    a_prefixs = recipe is not None and "config" not in flags and not recipe.stem.endswith("_finetune")
    if a_prefixs and arguments.mode in TRAIN_THE_BASE and "learning_rate" not in flags:
        print(
            f"--mode {arguments.mode}: {recipe} is a prefix's recipe; its learning rate {arguments.learning_rate} may "
            "be too high for a base, --learning_rate changes it",
            file=sys.stderr,
        )


def _bare_switches(argv: list[str], kind: Any) -> list[str]:
    """`--resume` alone means `--resume true`; `--resume no` stays as it is."""
    switches = {f"--{f.name}" for f in fields(kind) if f.type == "bool"}
    following = [*argv, "--"][1:]
    return [a + "=true" if a in switches and n.startswith("--") else a for a, n in zip(argv, following, strict=True)]


def _lists(argv: list[str], kind: Any) -> list[str]:
    """`--sites encoder cross` and `--sites encoder,cross` mean `--sites=[encoder,cross]`."""
    names = {f"--{f.name}" for f in fields(kind) if str(f.type).startswith("list[")}
    found, parts = [], list(argv)
    while parts:
        flag, _, value = parts[0].partition("=")
        if flag not in names:
            found.append(parts.pop(0))
            continue
        values = [value]
        while parts[1:] and not parts[1].startswith("--"):
            values.append(parts.pop(1))
        text = " ".join(values).strip()
        if text and text != "null" and text[0] not in "[{":
            text = f"[{','.join(text.replace(',', ' ').split())}]"
        found.append(f"{flag}={text}")
        parts.pop(0)
    return found


def _refuse_authors_habit(flags: Mapping[str, str], program: str) -> None:
    """The authors' code said `--mode TASK --tuning_mode WAY`; ours says `--task TASK --mode WAY`."""
    if "tuning_mode" in flags:
        task, way = flags.get("mode") or "TASK", flags["tuning_mode"] or "prefixtune"
        raise UserError(f"--tuning_mode is the authors' flag; type: python {program} --task {task} --mode {way}")
