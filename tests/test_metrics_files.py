"""`python -m seq2seq.metrics` scores files and answers a mistake with one line."""

import json
import subprocess
import sys

import pytest

from seq2seq.metrics import E2E, main, score
from seq2seq.records import Record
from seq2seq.report import Report
from seq2seq.runs import Run
from seq2seq.tasks import CUSTOM

HYPOTHESES = ["The Copper Kettle is a cheap tea room.", "", "Brook's is a pub near the station."]
REFERENCES = [
    ("The Copper Kettle is a tea room. It's cheap.", "A cheap tea room is The Copper Kettle."),
    ("Lantern House is a Thai restaurant.",),
    ("Brook's is a pub by the station.", "Near the station is the pub Brook's.", "Brook's pub is near the station."),
]


@pytest.fixture
def files(tmp_path):
    generated, references = tmp_path / "generated.txt", tmp_path / "references.txt"
    generated.write_text("".join(text + "\n" for text in HYPOTHESES), encoding="utf-8")
    references.write_text("\n".join("".join(text + "\n" for text in record) for record in REFERENCES), encoding="utf-8")
    return generated, references


@pytest.fixture
def json_lines(tmp_path):
    path = tmp_path / "generations_test.jsonl"
    records = [
        {"source": "s", "references": list(references), "generated": text}
        for text, references in zip(HYPOTHESES, REFERENCES, strict=True)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def run(capsys, *argv) -> str:
    assert main([str(part) for part in argv]) == 0
    return capsys.readouterr().out


def mistake(capsys, *argv) -> str:
    assert main([str(part) for part in argv]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1 and output.err.startswith("error: ")
    return output.err


def rows(output: str) -> dict[str, list[str]]:
    """metric -> its cells in the table."""
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if line[:1] == "│"]
    return {row[0]: row[1:] for row in cells}


def test_the_challenges_format_is_scored_by_the_challenges_metrics(capsys, files):
    output = run(capsys, *files)
    expected = score(E2E, HYPOTHESES, REFERENCES)
    assert rows(output) == {name: [f"{expected[name]['score']:.4f}"] for name in E2E}
    assert "3 texts" in output and "6 references" in output
    for name in E2E:
        assert [name, expected[name]["signature"]] in [line.split(maxsplit=1) for line in output.splitlines()]


def test_metrics_can_be_named(capsys, files):
    assert list(rows(run(capsys, *files, "--metrics", "bleu, ter,meteor"))) == ["bleu", "ter", "meteor"]


def test_generations_of_a_run_score_as_the_same_files(capsys, files, json_lines):
    assert run(capsys, json_lines) == run(capsys, *files)


def test_parts_are_scored_by_themselves_too(capsys, json_lines):
    records = [json.loads(line) for line in json_lines.read_text().splitlines()]
    for record, part in zip(records, ["seen", "unseen", "seen"], strict=True):
        record["part"] = part
    json_lines.write_text("\n".join(map(json.dumps, records)))
    expected = [
        score(["ter"], [HYPOTHESES[i] for i in some], [REFERENCES[i] for i in some])["ter"]["score"]
        for some in ([0, 1, 2], [0, 2], [1])
    ]
    output = run(capsys, json_lines, "--metrics", "ter")
    assert rows(output) == {"ter": [f"{value:.4f}" for value in expected]}
    assert output.index("all") < output.index("seen") < output.index("unseen")


@pytest.mark.parametrize("part", ["[/red]", "[bold]", ":heart:"])
def test_a_part_is_shown_as_it_is_called(capsys, json_lines, part):
    records = [json.loads(line) for line in json_lines.read_text().splitlines()]
    json_lines.write_text("\n".join(json.dumps({**record, "part": part}) for record in records[:2]))
    with json_lines.open("a") as file:
        file.write("\n" + json.dumps({**records[2], "part": "other"}))
    assert part in run(capsys, json_lines, "--metrics", "ter")


def test_a_part_that_is_null_is_none(capsys, json_lines):
    usual = run(capsys, json_lines, "--metrics", "ter")
    records = [json.loads(line) for line in json_lines.read_text().splitlines()]
    json_lines.write_text("\n".join(json.dumps({**record, "part": None}) for record in records))
    assert run(capsys, json_lines, "--metrics", "ter") == usual


def test_a_part_that_all_records_have_is_not_shown_twice(capsys, json_lines):
    usual = run(capsys, json_lines, "--metrics", "ter")
    records = [json.loads(line) for line in json_lines.read_text().splitlines()]
    json_lines.write_text("\n".join(json.dumps({**record, "part": "seen"}) for record in records))
    assert run(capsys, json_lines, "--metrics", "ter") == usual


def test_json_lines_that_are_all_blank(capsys, json_lines):
    json_lines.write_text("\n \n")
    assert "no text to score" in mistake(capsys, json_lines)


def test_a_runs_report_shows_texts_as_they_are(capsys, tmp_path):
    names = [f"{name}[/red]:heart:" for name in ("seen", "unseen")]
    report = Report(CUSTOM, [Record(name, (name,), name) for name in names], {"[/run]": names}, lead=False)
    report.show(Run(tmp_path / "[/place]"))
    shown = capsys.readouterr().out
    assert all(f" · {name} · 1 records" in shown and f"generated  {name}\n" in shown for name in names)
    assert "[/run]" in shown and "[/place]" in shown


def test_records_without_a_part_count_in_the_whole_and_are_shown(capsys, tmp_path):
    records = [Record("a", ("a",), ""), Record("b", ("b",), "hard"), Record("c", ("c",), "hard")]
    report = Report(CUSTOM, records, {"run": ["a", "x", "y"]}, lead=False)
    sizes = {name: (scores["rouge1"]["n"], scores["rouge1"]["score"]) for name, scores in report.metrics("test").items()
             if name != "baselines"}  # fmt: skip
    assert sizes == {"test": (3, pytest.approx(100 / 3)), "test/hard": (2, 0)}
    report.show(Run(tmp_path))
    shown = capsys.readouterr().out
    assert " · 3 records" in shown and " · hard · 2 records" in shown and shown.count("generated  ") == 3


def test_one_text_may_have_many_references_or_many_texts_one_each(capsys, tmp_path):
    one, three, block = tmp_path / "one.txt", tmp_path / "three.txt", tmp_path / "block.txt"
    one.write_text("a pub\n")
    three.write_text("a pub\na pub\na pub\n")
    block.write_text("a pub\nthe pub\na bar\n")
    assert "1 texts" in (output := run(capsys, one, block, "--metrics", "ter")) and rows(output)["ter"] == ["0.0000"]
    assert "3 texts" in (output := run(capsys, three, block, "--metrics", "ter")) and rows(output)["ter"] == ["33.3333"]


def test_extra_blank_lines_between_references_do_not_matter(capsys, files):
    usual = run(capsys, *files)
    files[1].write_text("\n \n" + files[1].read_text().replace("\n\n", "\n\n\t\n") + "\n\n")
    assert run(capsys, *files) == usual


def test_mistakes_are_answered_with_one_line(capsys, tmp_path, files, json_lines):
    generated, references = files
    missing, latin, empty = tmp_path / "missing.txt", tmp_path / "latin.txt", tmp_path / "empty.txt"
    latin.write_bytes("a\ncaf\xe9\nb\n".encode("latin-1"))
    empty.write_text("")
    assert f"{missing}: no such file" in mistake(capsys, missing, references)
    assert f"{missing}: no such file" in mistake(capsys, generated, missing)
    assert f"{tmp_path}: is a folder; give a file in it" in mistake(capsys, tmp_path)
    assert f"{latin}:2: not UTF-8" in mistake(capsys, latin, references)
    assert f"{latin}:2: not UTF-8" in mistake(capsys, generated, latin)
    assert "no text to score" in mistake(capsys, empty, empty)
    assert "/dev/null: is no file" in mistake(capsys, "/dev/null", references)
    assert "must follow" in mistake(capsys, generated)
    assert "leave" in mistake(capsys, json_lines, references)
    assert "unknown metric 'rogue'; choose from" in mistake(capsys, generated, references, "--metrics", "rogue")
    assert "--help" in mistake(capsys)
    assert "unrecognized arguments: --metric5" in mistake(capsys, generated, references, "--metric5", "x")


def test_unequal_numbers_are_both_named(capsys, files):
    generated, references = files
    generated.write_text(generated.read_text() + "one more\n")
    assert f"{generated} has 4 texts, {references} has references of 3" in mistake(capsys, generated, references)
    generated.write_text("one\ntwo\n")
    assert f"{generated} has 2 texts, {references} has references of 3" in mistake(capsys, generated, references)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"generated": "a"}',
        '{"generated": "a", "references": []}',
        '{"generated": "a", "references": "b"}',
        '{"generated": "a", "references": [1]}',
        '{"generated": null, "references": ["b"]}',
        '{"generated": "a", "references": ["b"], "part": 0}',
        "[" * 100_000,
    ],
)
def test_a_broken_record_is_named_by_its_line(capsys, json_lines, line):
    json_lines.write_text(json_lines.read_text() + "\n" + line + "\n")
    assert f"{json_lines}:5: must be" in mistake(capsys, json_lines)


def test_the_command_runs_by_itself(files):
    done = subprocess.run([sys.executable, "-m", "seq2seq.metrics", *files, "--metrics", "ter"], capture_output=True)
    assert done.returncode == 0 and b"TER|nrefs:var" in done.stdout
    wrong = subprocess.run([sys.executable, "-m", "seq2seq.metrics", "nowhere", "none"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr) == (2, "error: nowhere: no such file\n")


def test_nothing_heavy_is_loaded_before_the_arguments_are_read():
    heavy = "{'torch', 'transformers', 'numpy', 'nltk', 'sacrebleu', 'rouge_score', 'rich'}"
    code = f"import sys, seq2seq.metrics; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
