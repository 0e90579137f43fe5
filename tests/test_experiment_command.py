"""The command line of the studies: what a user types, sees and is told."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from small_studies import SCORES, pretend, shared_options, study_of

from gpt2 import experiment
from seq2seq.runs import Run

pytestmark = pytest.mark.usefixtures("without_curves")

SHIPPED = sorted(experiment.STUDIES.glob("*.yaml"))


class TestTheCommand:
    @pytest.fixture
    def call(self, monkeypatch, tmp_path, capsys) -> Callable[..., tuple[int, str, str]]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("signal.signal", lambda *args: None)

        def command(*argv: str) -> tuple[int, str, str]:
            monkeypatch.setattr(sys, "argv", ["experiment.py", *argv])
            return experiment.main(), *capsys.readouterr()

        return command

    def test_lists_the_studies(self, call):
        code, out, _ = call()
        assert code == 0 and [line.split()[0] for line in out.splitlines()] == [path.stem for path in SHIPPED]

    def test_runs_a_study_as_a_user_does_and_ends_with_1_where_a_cell_failed(self, study_file, tmp_path):
        axes = {"length": {"long": {"max_source_length": 500}, "short": {}}}
        command = [sys.executable, "experiment.py", str(study_file(axes=axes)), "--seeds", "7", "--max_steps=1"]
        folder = Path(experiment.__file__).parent
        command += ["--output_dir", str(tmp_path / "runs")]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
        assert (done.returncode, done.stderr) == (1, "")
        assert re.search(r"^\[1/2\] short-seed7: rougeL .* left$", done.stdout, re.M)
        assert re.search(
            r"^\[0/2\] long-seed7: failed: error: --max_source_length 500.*0:\d\d:\d\d left$", done.stdout, re.M
        )
        assert "| short | 1 of 1 |" in (tmp_path / "runs" / "table.md").read_text()
        assert (tmp_path / "runs" / "plot.png").is_file() and (tmp_path / "runs" / "table.csv").is_file()
        config = Run(tmp_path / "runs" / "short-seed7").read_config()
        assert (config["max_steps"], config["seed"], config["lowdata_seed"]) == (1, 7, 7)

    def test_reports_what_is_there_without_running(self, call, study_file, tmp_path):
        study = study_of(study_file())
        place = tmp_path / "runs" / "experiments" / "lengths"
        assert call(str(study_file()), "--report")[0] == 2
        pretend(study, place, SCORES)
        code, out, _ = call(str(study_file()), "--report")
        assert code == 0 and "32.00 ± 2.83" in out and (place / "plot.png").is_file()

    def test_takes_numbers_as_people_write_them(self, study_file):
        """To YAML 1.1 `1e-5` is a text."""
        path = study_file(axes={"learning_rate": [1e-4]}, log_x=True)
        path.write_text(re.sub(r"- 0\.0001", "- 1e-5\n  - 5E-4\n  - 0.01", path.read_text()))
        study = study_of(path)
        assert [level.number for level in study.axes["learning_rate"]] == [1e-5, 5e-4, 0.01]
        assert [cell.arguments.learning_rate for cell in study.cells] == [1e-5, 5e-4, 0.01]
        assert study.cells[0].name == "learning_rate_1e-5"

    def test_gives_other_data_without_a_task_no_task(self, study_file, small):
        path = study_file(options={**shared_options(small), "task": "sample", "data_dir": None})
        assert {(r.arguments.task, r.arguments.data_dir) for r in study_of(path).runs()} == {("sample", None)}
        moved = {(r.arguments.task, r.arguments.data_dir) for r in study_of(path, "--data_dir", "mine").runs()}
        assert moved == {(None, "mine")}
        kept = {r.arguments.task for r in study_of(path, "--data_dir", "mine", "--task", "xsum").runs()}
        assert kept == {"xsum"}

    @pytest.mark.parametrize(
        "argv, said",
        [
            (["nope"], r"study nope: there is none; known are embedding, .*sites, or give the path of a .yaml file"),
            (["sites", "--colour", "red"], r"--colour: no such option; train_bart.py --help lists"),
            (["sites", "--sites", "[cross]"], r"--sites: is set by the axis at of .*sites.yaml; change a copy"),
            (["sites", "--seed", "3"], r"--seed: is set for each run"),
            (["sites", "--resume"], r"--resume: is set for each run"),
            (["--report", "sites"], r"experiment.py --report: the study stands first; experiment.py alone lists them"),
            (["--bsz", "4"], r"experiment.py --bsz: the study stands first"),
            (["sites", "more"], r"train_bart.py: .*more"),
            (["sites", "--bsz", "many"], r"--bsz many: must be a whole number; see --help"),
            (["sites", "--bsz", "0"], r"--bsz 0: must be at least 1"),
            (["sites", "--seeds", "a"], r"experiment.py: argument --seeds: invalid int value: 'a'; see --help"),
            (["sites", "--seeds", "1", "1"], r".*seeds: are \[1, 1\]; give different whole numbers"),
            (
                ["prefix_length", "--mode", "finetune"],
                r".*prefix_length.yaml: axes: preseqlen: does nothing in --mode fin",
            ),
            (
                ["sites", "--bottleneck", "4"],
                r"--bottleneck: does nothing in --mode prefixtune; it is for --mode adapt",
            ),
            (["sites", "--task", "e3e"], r"--task e3e: no such task; known are "),
        ],
    )
    def test_says_a_mistake_in_one_line(self, call, argv, said):
        code, out, error = call(*argv)
        assert (code, out) == (2, "") and error.count("\n") == 1
        assert re.match(f"error: {said}", error), error

    @pytest.mark.parametrize(
        "keys, said",
        [
            ({"colour": "red"}, r"unknown key colour; there are description, command"),
            ({"seeds": 3}, r"seeds: is 3; give a list"),
            ({"seeds": [1, "two"]}, r"seeds: are \[1, 'two'\]"),
            ({"seeds": []}, r"seeds: are \[\]; give different whole numbers"),
            ({"seeds": [2, True]}, r"seeds: are \[2, True\]"),
            ({"seeds": [[1, 2]]}, r"seeds: are \[\[1, 2\]\]; give different whole numbers from 0"),
            ({"seeds": [{}]}, r"seeds: are \[{}\]"),
            ({"seeds": [3, -1]}, r"seeds: are \[3, -1\]"),
            (
                {"options": {"task": "sample", "n_val": date(2020, 1, 2)}},
                "options: --n_val 2020-01-02: must be a whole",
            ),
            ({"command": "train"}, r"command: train is none; give train_bart or train_e2e"),
            ({"axes": {"preseqlength": [1, 2]}}, r"axes: unknown option preseqlength"),
            ({"axes": {"preseqlen": 3}}, r"axes: preseqlen: is 3; give a list of values, or cells by name"),
            ({"axes": {"preseqlen": [1, 1]}}, r"axes: preseqlen: has a value twice"),
            ({"axes": {"preseqlen": []}}, r"axes: preseqlen: is empty"),
            ({"axes": {}}, r"axes: there are none"),
            ({"axes": {"sites": [["cross"]]}}, r"axes: sites: \['cross'\] names no run directory; give cells by name"),
            ({"axes": {"a": {"one": {"preseqlength": 1}}}}, r"axes: a: one: unknown option preseqlength"),
            ({"axes": {"a": {"one": 1}}}, r"axes: a: one: is 1; give its options"),
            ({"axes": {"a": {"o/e": {}}}}, r"axes: a: o/e is no name of a cell"),
            ({"axes": {"a": {"o-e": {}}}}, r"axes: a: o-e is no name of a cell"),
            ({"axes": {"lowdata_token": ["to a"]}}, r"axes: lowdata_token: 'to a' names no run directory"),
            ({"axes": {"lowdata": [None, 5]}}, r"axes: lowdata: None names no run directory"),
            ({"axes": {"lowdata_seed": [1, 2]}}, r"axes: lowdata_seed is set for each run"),
            ({"axes": {"preseqlen": [1, "1"]}}, r"axes: preseqlen: has a value twice"),
            ({"axes": {"task": ["xsum", "e2e"]}, "metrics": ["rougeL"]}, r"metrics: task e2e has no rougeL"),
            ({"axes": {"preseqlen": [0]}}, r"cell preseqlen_0: --preseqlen 0: must be at least 1"),
            (
                {"axes": {"preseqlen": ["five"]}},
                r"cell preseqlen_five: --preseqlen five: must be a whole number or",
            ),
            ({"axes": {"preseqlen": [1], "a": {"b": {"preseqlen": 2}}}}, r"axes: preseqlen and a both set preseqlen"),
            ({"axes": {"mode": ["finetune", "pretrain"]}}, r"cell mode_pretrain: --mode pretrain: its runs have no"),
            ({"x": "length"}, r"x: length is no axis; the axes are preseqlen"),
            ({"axes": {"mode": ["finetune"]}, "log_x": True}, r"log_x: mode has values that are no numbers"),
            ({"axes": {"deep": [False, True]}, "log_x": True}, r"log_x: deep has values that are no numbers"),
            ({"axes": {"mid_dim": [0, 8]}, "log_x": True}, r"log_x: mid_dim has values that are no numbers above 0"),
            ({"metrics": ["bleu"]}, r"metrics: task custom has no bleu; it has rouge1, "),
            ({"options": {"output_dir": "here", "task": "sample"}}, r"options: output_dir is set for each run"),
            ({"options": {"config": "a.yaml", "task": "sample"}}, r"options: config is set for each run"),
            ({"options": {"bsz": 4}}, r"options: no data; give the option task or data_dir"),
        ],
    )
    def test_says_a_mistake_in_a_study_with_its_file(self, call, study_file, keys, said):
        code, out, error = call(str(study_file(**keys)))
        assert (code, out) == (2, "") and error.count("\n") == 1
        assert re.match(rf"error: .*lengths.yaml: {said}", error), error

    def test_says_what_a_study_lacks(self, call, tmp_path):
        (tmp_path / "empty.yaml").write_text("description: nothing\n")
        code, _, error = call("empty.yaml")
        assert code == 2 and "command is missing; the file needs description, command, options, axes, seeds" in error

    def test_is_what_make_experiment_types(self):
        root = Path(experiment.__file__).resolve().parent.parent
        shown = [
            subprocess.run(["make", "-n", *words], cwd=root, capture_output=True, text=True, check=True).stdout
            for words in (["experiment"], ["experiment", "NAME=sites", "DATA=my data"], ["tune", "NAME=sample"])
        ]
        # within `make test` an inner make adds lines of its own
        commands = [[line for line in text.splitlines() if "python gpt2/" in line] for text in shown]
        assert [shlex.split(line.split("python ")[1]) for lines in commands for line in lines] == [
            ["gpt2/experiment.py"],
            ["gpt2/experiment.py", "sites", "--data_dir", "my data"],
            ["gpt2/tune.py", "sample"],
        ]
