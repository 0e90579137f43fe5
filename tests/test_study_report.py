"""The report of a study: figures that were computed by hand, honest about what is missing."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
from small_studies import SCORES, pretend, study_of

from seq2seq.study_report import collect, figure_of, table_markdown, write_report
from seq2seq.utils import UserError


def test_the_report_has_mean_and_sample_deviation_over_seeds(study_file, tmp_path):
    study = study_of(study_file(metrics=["rougeL"]))
    pretend(study, tmp_path, SCORES)
    write_report(study, collect(study, tmp_path), tmp_path)
    with (tmp_path / "table.csv").open() as file:
        two, four = csv.DictReader(file)
    assert (two["preseqlen"], two["runs"], two["of"], two["records"]) == ("2", "2", "2", "5")
    # (30 + 34) / 2, and sqrt(((30 - 32)² + (34 - 32)²) / (2 - 1))
    assert float(two["rougeL mean"]) == 32 and float(two["rougeL std"]) == pytest.approx(8**0.5)
    assert float(four["rougeL mean"]) == 40.5 and float(four["rougeL std"]) == pytest.approx(0.5**0.5)
    assert float(two["seconds mean"]) == 2.5 and float(two["trained mean"]) == 1000
    markdown = (tmp_path / "table.md").read_text()
    assert "| 2 | 2 of 2 | 5 | 32.00 ± 2.83 | 1,000 | 10 | 2 |" in markdown
    assert "| 4 | 2 of 2 | 5 | 40.50 ± 0.71 |" in markdown and "Missing" not in markdown
    assert "- rougeL: s\n" in markdown
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_plots_the_same_figures(study_file, tmp_path):
    study = study_of(study_file(metrics=["rougeL"], log_x=True))
    pretend(study, tmp_path, SCORES)
    (panel,) = figure_of(study, collect(study, tmp_path)).axes
    (bars,) = panel.containers
    line, _, (segments,) = bars.lines
    assert line.get_xydata().tolist() == [[2, 32], [4, 40.5]]
    heights = [(low, high) for (_, low), (_, high) in segments.get_segments()]
    assert heights[0] == pytest.approx((32 - 8**0.5, 32 + 8**0.5))
    assert heights[1] == pytest.approx((40.5 - 0.5**0.5, 40.5 + 0.5**0.5))
    dots = [dot for spot in panel.collections[1:] for dot in spot.get_offsets().tolist()]
    assert dots == [[2, 30], [2, 34], [4, 40], [4, 41]]
    assert panel.get_xscale() == "log" and [tick.get_text() for tick in panel.get_xticklabels()] == ["2", "4"]


def test_the_report_is_honest_about_what_is_missing(study_file, tmp_path):
    study = study_of(study_file(metrics=["rougeL"], seeds=[1, 2, 3]))
    pretend(study, tmp_path, {"preseqlen_2": {"test": [30.0, 34.0, 0.0]}})
    shutil.rmtree(tmp_path / "preseqlen_2-seed3")
    rows = collect(study, tmp_path)
    markdown = table_markdown(study, rows)
    assert "| 2 | 2 of 3 | 5 | 32.00 ± 2.83 |" in markdown and "| 4 | 0 of 3 | – | – | – | – | – |" in markdown
    assert "Missing: 4 of 6 runs." in markdown and "- preseqlen_2-seed3: new" not in markdown
    assert "- preseqlen_2-seed3: not run yet" in markdown
    figure = figure_of(study, rows)
    assert "3 seeds, 4 of 6 runs missing" in figure.get_suptitle()
    assert figure.axes[0].containers[0].lines[0].get_xydata().tolist() == [[2, 32]]


def test_the_report_does_not_count_runs_with_other_options(study_file, tmp_path):
    before, after = study_of(study_file()), study_of(study_file(), "--learning_rate=0.5")
    pretend(before, tmp_path, SCORES)
    row = collect(after, tmp_path)[0]
    assert row.finished == 0
    assert row.missing["preseqlen_2-seed1"] == "other options (learning_rate was 0.02, is 0.5)"


def test_the_report_of_one_seed_has_no_deviation(study_file, tmp_path):
    study = study_of(study_file(seeds=[1], metrics=["rougeL"]))
    pretend(study, tmp_path, {"preseqlen_2": {"test": [30.0]}, "preseqlen_4": {"test": [31.0]}})
    assert "| 2 | 1 of 1 | 5 | 30.00 |" in table_markdown(study, collect(study, tmp_path))


def test_the_report_has_a_row_and_a_panel_for_each_part_and_a_line_for_each_other_cell(study_file, tmp_path):
    axes = {"preseqlen": [2, 4], "form": {"mlp": {}, "flat": {"mid_dim": 0}}}
    study = study_of(study_file(axes=axes, parts=True, metrics=["rougeL"], seeds=[1]))
    parts = {"test": [3.0], "test/seen": [2.0], "test/unseen": [4.0]}
    pretend(study, tmp_path, {cell.name: parts for cell in study.cells})
    rows = collect(study, tmp_path)
    assert [cell.name for cell in study.cells] == [f"preseqlen_{p}-{f}" for p in (2, 4) for f in ("mlp", "flat")]
    assert "| preseqlen | form | part | runs | records | rougeL |" in table_markdown(study, rows)
    for part, score in (("all", "3.00"), ("seen", "2.00"), ("unseen", "4.00")):
        assert f"| 2 | flat | {part} | 1 of 1 | 5 | {score} |" in table_markdown(study, rows)
    panels = figure_of(study, rows).axes
    assert [panel.get_title(loc="left") for panel in panels] == ["seen", "unseen"]
    assert [bars.get_label() for bars in panels[1].containers] == ["mlp", "flat"]
    assert panels[1].containers[0].lines[0].get_ydata().tolist() == [4, 4]


@pytest.mark.parametrize(
    "metrics, said",
    [
        ({"test": {}}, r"test has no rougeL with score, n, signature"),
        ({"test": {"rougeL": 3}}, r"test has no rougeL with score"),
        ({"test": 3}, r"test has no rougeL with score"),
        ({"test": {"rougeL": {"score": "3", "n": 1, "signature": "s"}}}, r"test has no rougeL with score"),
        ({"test": {"rougeL": {"score": 3, "n": 1, "signature": "s"}}}, r"has no number trainable_parameters"),
    ],
)
def test_a_run_without_its_scores_is_named(study_file, tmp_path, metrics, said):
    study = study_of(study_file(metrics=["rougeL"]))
    pretend(study, tmp_path, SCORES)
    (tmp_path / "preseqlen_4-seed1" / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(UserError, match=rf"preseqlen_4-seed1/metrics\.json: {said}.*; delete the file to run it again"):
        collect(study, tmp_path)
