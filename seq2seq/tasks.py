"""What a task is: where its records lie, how a record reads as source and target, its limits, search and scores.

    name or folder --task_for--> Task        (its records: records.py)

A new task is one more entry of TASKS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from seq2seq.split_files import Split
from seq2seq.table_readers import TableName
from seq2seq.utils import UserError

LOWER_IS_BETTER = ("loss", "bits_per_byte", "ter")  # all other scores: the higher the better
CARRIED = Path(__file__).parent / "carried"


@dataclass(frozen=True)
class Search:
    """Beam search: the fields of transformers' `generate`, under its names.

    Encoder-decoders count the start token and </s> in both lengths; decoders (GPT-2) count new tokens alone.
    """

    num_beams: int
    """Hypotheses kept at each step."""
    min_length: int
    """Shortest output, tokens."""
    max_length: int
    """Longest output, tokens."""
    length_penalty: float
    """Exponent of the length by which a hypothesis' log-probability is divided; above 0 favours long ones."""
    no_repeat_ngram_size: int
    """No n tokens in a row occur twice in one output; 0 = no such ban."""
    early_stopping: bool
    """Stop as soon as num_beams hypotheses have ended."""
    length_norm: Literal["target", "prompt"] = "target"
    """prompt: as the authors' library, which counted a decoder's prompt as well and ended some searches later."""

    def __post_init__(self) -> None:
        if self.num_beams < 1:
            raise UserError(f"--num_beams {self.num_beams}: at least 1 (1 = greedy)")
        if self.min_length > self.max_length:
            raise UserError(f"--min_length {self.min_length} is above --max_length {self.max_length}; lower the first")


@dataclass(frozen=True)
class Task:
    """One task; lengths are tokens with the tokenizer's special tokens."""

    name: str
    kind: Literal["summarization", "translation", "table_to_text", "question_answering"]
    max_source_length: int
    max_target_length: int
    """Training targets are cut here."""
    val_max_target_length: int
    test_max_target_length: int
    search: Search
    metrics: tuple[str, ...]
    """Names of METRICS in `seq2seq/metrics.py`."""
    best_metric: str
    """The score that chooses the best checkpoint."""
    source_field: str = "source"
    """Field of a json, csv, parquet or hub record; a dot steps into a nested record."""
    target_field: str = "target"
    table: TableName | None = None
    """Data set whose own files and record fields are read beside the usual ones (`seq2seq/table_readers.py`)."""
    hub: str | None = None
    """Hub data set; None = there is none."""
    hub_config: str | None = None
    hub_splits: Mapping[Split, str] = field(
        default_factory=lambda: {"train": "train", "val": "validation", "test": "test"}
    )
    carried: str | None = None
    """Folder of records inside the package."""
    carried_test: tuple[str, ...] = ()
    """Further files of that folder which belong to its test split."""
    source_lang: str | None = None
    """Language code: ending of line files (`train.en`) and name of a record's field."""
    target_lang: str | None = None

    @property
    def limits(self) -> dict[str, int]:
        """The longest sources and targets, tokens, by the names of their flags."""
        names = ("max_source_length", "max_target_length", "val_max_target_length", "test_max_target_length")
        return {name: getattr(self, name) for name in names}

    @property
    def languages(self) -> tuple[str, str] | None:
        """(source, target) language codes of a translation task."""
        return (self.source_lang, self.target_lang) if self.source_lang and self.target_lang else None


ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")

# One-sentence summaries (the XSum paper's recipe), as bart-large's own configuration says.
SENTENCE_SEARCH = Search(
    num_beams=6, min_length=11, max_length=62, length_penalty=1.0, no_repeat_ngram_size=3, early_stopping=True
)
# A translation is as long as its source asks, and repeats what its source repeats.
TRANSLATION_SEARCH = Search(
    num_beams=5, min_length=0, max_length=128, length_penalty=1.0, no_repeat_ngram_size=0, early_stopping=True
)

SAMPLE = Task(
    name="sample",
    kind="summarization",
    carried="sample",
    carried_test=("handwritten.jsonl",),
    # notices of a few sentences and one-sentence summaries: nothing is cut, and a demo stays short
    max_source_length=256,
    max_target_length=48,
    val_max_target_length=48,
    test_max_target_length=48,
    search=Search(
        num_beams=4, min_length=0, max_length=48, length_penalty=1.0, no_repeat_ngram_size=3, early_stopping=True
    ),
    metrics=ROUGE,
    best_metric="rougeL",
)

XSUM = Task(
    name="xsum",
    kind="summarization",
    hub="EdinburghNLP/xsum",
    source_field="document",
    target_field="summary",
    # the paper's recipe; scores see references whole, whatever these say
    max_source_length=1024,
    max_target_length=60,
    val_max_target_length=60,
    test_max_target_length=100,
    search=SENTENCE_SEARCH,
    metrics=ROUGE,
    best_metric="rougeL",
)

# The paper's extrapolation splits of XSum (section 6.4) were never put on the hub; the paper halves the source.
XSUM_NEWS = replace(XSUM, name="xsum_news", hub=None, max_source_length=512)

CNN_DM = replace(
    XSUM,
    name="cnn_dm",
    hub="abisee/cnn_dailymail",
    hub_config="3.0.0",
    source_field="article",
    target_field="highlights",
    max_source_length=512,
    max_target_length=56,
    val_max_target_length=142,
    test_max_target_length=142,
    # three or four sentences: the bounds of facebook/bart-large-cnn; with a minimum of 11 the search may stop after one
    search=replace(SENTENCE_SEARCH, min_length=56, max_length=142),
    # highlights are one sentence a line, and papers on this data set report ROUGE-L over lines
    best_metric="rougeLsum",
)

SCITLDR = replace(
    XSUM,
    name="scitldr",
    hub="allenai/scitldr",
    hub_config="Abstract",
    source_field="source",
    target_field="target",
    # abstracts have 160 words on average and few reach 512 tokens; summaries are one sentence, as in XSum
    max_source_length=512,
)

WMT16_EN_RO = Task(
    name="wmt16_en_ro",
    kind="translation",
    hub="wmt/wmt16",
    hub_config="ro-en",
    source_field="translation.en",
    target_field="translation.ro",
    source_lang="en",
    target_lang="ro",
    # sentences; the usual limit of the translation recipes
    max_source_length=128,
    max_target_length=128,
    val_max_target_length=128,
    test_max_target_length=128,
    search=TRANSLATION_SEARCH,
    metrics=("bleu", "chrf"),
    best_metric="bleu",
)

E2E = Task(
    name="e2e",
    kind="table_to_text",
    table="e2e",
    hub="tuetschek/e2e_nlg",
    # above the longest texts of the three data sets (245 and 131 tokens of the carried bases' small vocabulary), and
    # a source, its target and a prefix of 30 fit 512 positions
    max_source_length=320,
    max_target_length=160,
    val_max_target_length=160,
    test_max_target_length=160,
    # the authors' search for GPT-2
    search=Search(
        num_beams=5, min_length=0, max_length=100, length_penalty=1.0, no_repeat_ngram_size=0, early_stopping=False
    ),
    metrics=("e2e_bleu", "nist", "meteor", "e2e_rougeL", "cider"),
    best_metric="e2e_bleu",
)

WEBNLG = replace(
    E2E,
    name="webnlg",
    table="webnlg",
    hub="webnlg-challenge/web_nlg",
    hub_config="webnlg_challenge_2017",
    hub_splits={"train": "train", "val": "dev", "test": "test"},
    metrics=("bleu", "meteor", "ter"),
    best_metric="bleu",
)

DART = replace(WEBNLG, name="dart", table="dart", hub="Yale-LILY/dart", hub_config=None, hub_splits=E2E.hub_splits)

SAMPLE_TABLES = replace(
    E2E,
    name="sample_tables",
    table=None,
    hub=None,
    carried="sample_tables",
    carried_test=("handwritten.jsonl",),
    # above the longest of its texts in the carried bases' vocabulary, 63 tokens
    max_source_length=96,
    max_target_length=96,
    val_max_target_length=96,
    test_max_target_length=96,
)

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        *(SAMPLE, XSUM, XSUM_NEWS, replace(XSUM_NEWS, name="xsum_news_sport"), CNN_DM, SCITLDR, WMT16_EN_RO),
        *(E2E, WEBNLG, DART, SAMPLE_TABLES),
    )
}

# What a folder without a task is read as: room for a paragraph; the flags narrow it.
CUSTOM = replace(
    SAMPLE,
    name="custom",
    carried=None,
    carried_test=(),
    max_source_length=512,
    max_target_length=128,
    val_max_target_length=128,
    test_max_target_length=128,
    search=replace(SAMPLE.search, max_length=128),
)
# The same for decoders (train_e2e.py): short sources, equal ones scored against all their references, GPT-2's search.
CUSTOM_TABLES = replace(E2E, name="custom_tables", table=None, hub=None)
# Questions with short answers; the same question is one record with all its answers.
CUSTOM_QA = Task(
    name="custom_qa",
    kind="question_answering",
    source_field="question",
    target_field="answer",
    max_source_length=256,
    max_target_length=32,
    val_max_target_length=32,
    test_max_target_length=32,
    # the likeliest answer, however short it is
    search=Search(
        num_beams=4, min_length=0, max_length=32, length_penalty=0.0, no_repeat_ngram_size=0, early_stopping=False
    ),
    metrics=("exact_match", "f1"),
    best_metric="f1",
)
FOLDERS = {task.name: task for task in (CUSTOM, CUSTOM_TABLES, CUSTOM_QA)}
CUSTOM_TRANSLATION = replace(WMT16_EN_RO, name="custom", hub=None, hub_config=None)


def task_for(name: str | None, data_dir: str | None, source_lang: str | None, target_lang: str | None) -> Task:
    """The task that the flags --task, --data_dir, --source_lang and --target_lang ask for together.

    Nothing given: the carried `sample`; a folder without a task: `custom`, a translation when both languages are given.
    (train_e2e.py names its own: `sample_tables`, `custom_tables`.) `custom_qa` reads a folder as questions and answers.
    Raises UserError for an unknown task and for languages that do not fit.
    """
    if (source_lang is None) != (target_lang is None):
        given, lacking = ("source", "target") if source_lang else ("target", "source")
        raise UserError(f"--{given}_lang {source_lang or target_lang} without --{lacking}_lang; give both or neither")
    if source_lang and source_lang == target_lang:
        raise UserError(f"--source_lang and --target_lang are both {source_lang}; give two languages")
    if name is not None and name not in TASKS and not (name in FOLDERS and data_dir):
        raise UserError(f"--task {name}: no such task; known are {', '.join(TASKS)}, or give --data_dir without --task")

    if name in TASKS:
        task = TASKS[name]
    elif data_dir:
        task = CUSTOM_TRANSLATION if source_lang else FOLDERS.get(name or "", CUSTOM)
    elif source_lang:
        raise UserError("--source_lang and --target_lang need --data_dir DIR or --task wmt16_en_ro")
    else:
        task = SAMPLE
    return _between(task, source_lang, target_lang, data_dir) if source_lang and target_lang else task


def _between(task: Task, source_lang: str, target_lang: str, data_dir: str | None) -> Task:
    """A translation task between the two languages."""
    if task.kind != "translation":
        raise UserError(f"--task {task.name} is {task.kind}; leave out --source_lang and --target_lang")
    if not data_dir and {source_lang, target_lang} != {task.source_lang, task.target_lang}:
        raise UserError(
            f"--task {task.name} holds {task.source_lang} and {task.target_lang}, not {source_lang} and {target_lang}; "
            "give --data_dir DIR with those languages"
        )
    return replace(
        task,
        source_lang=source_lang,
        target_lang=target_lang,
        source_field=f"translation.{source_lang}",
        target_field=f"translation.{target_lang}",
    )
