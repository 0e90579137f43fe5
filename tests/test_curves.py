"""A run's table is read back whole, and drawn whatever it holds."""

from pathlib import Path

import pytest

from seq2seq.curves import draw_curves, read_rows
from seq2seq.utils import UserError


def write_table(path: Path, steps: int, scored: int = 0, score: str = "val_rougeL") -> None:
    """A table of `steps` steps whose last `scored` ones hold a validation."""
    lines = [f"step,epoch,train_loss,learning_rate,examples_per_second,seconds,val_loss,{score}"]
    for step in range(1, steps + 1):
        values = f"{5 / step},{50 + step}" if step > steps - scored else ","
        lines.append(f"{step},1,{6 / step},{1 / step},100,{step},{values}")
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    "steps, scored, score",
    [(1, 0, "val_rougeL"), (5, 1, "val_rougeL"), (200, 12, "val_rougeL"), (60, 3, "val_bits_per_byte")],
)
def test_curves_are_drawn_from_any_table(tmp_path, steps, scored, score):
    write_table(tmp_path / "m.csv", steps, scored, score)
    draw_curves(tmp_path / "m.csv", tmp_path / "curves.png", "a line")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_curves_of_no_step_are_refused(tmp_path):
    with pytest.raises(UserError, match="no training step to draw"):
        draw_curves(tmp_path / "m.csv", tmp_path / "curves.png", "nothing")


def test_a_cut_last_row_is_left_out_and_a_foreign_one_is_named(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,train_loss\n1,0.5\n2,0.")
    assert read_rows(path) == [{"step": "1", "train_loss": "0.5"}]
    path.write_text("step,train_loss\n1,0.5\nfoo\n")
    with pytest.raises(UserError, match=r"metrics.csv:3: not a row"):
        read_rows(path)
