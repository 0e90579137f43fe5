"""What README, docs and model cards name is there: commands, their flags, targets, files, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt2.generation_arguments import GenerationArguments
from seq2seq.parsing import parse, parse_into

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/carried/*/README.md")])
BLOCK = re.compile(r"^```bash\n(.*?)^```|^((?:    .*\n)+)", re.M | re.S)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command in a page's blocks of commands, comments left out."""
    for fenced, indented in BLOCK.findall(page.read_text(encoding="utf-8")):
        variables: dict[str, str] = {}
        for line in (fenced or indented).splitlines():
            if assigned := re.fullmatch(r'(\w)="(.*)"', line):
                variables[f"${assigned[1]}"] = assigned[2]
            for name, value in variables.items():
                line = line.replace(name, value)
            if line.split()[:1] in (["python"], ["make"]):
                yield shlex.split(line, comments=True)


def calls() -> list[tuple[str, list[str]]]:
    found = {(str(page.relative_to(ROOT)), tuple(command)) for page in PAGES for command in commands(page)}
    return [(page, list(command)) for page, command in sorted(found)]


@pytest.mark.parametrize(
    "page, command", calls(), ids=lambda part: " ".join(part)[:60] if isinstance(part, list) else ""
)
def test_commands_are_taken(page: str, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "gpt2" if any(part.startswith("../") for part in command) else ROOT)
    if command[0] == "make":
        targets = re.findall(r"^([a-z0-9_]+):", (ROOT / "Makefile").read_text(), re.M)
        assert command[1] in targets
        return
    program, flags = Path(command[1]).name, command[2:]
    if program in ("train_bart.py", "train_e2e.py"):
        assert parse(flags, program).mode
    elif program == "gen.py":
        assert parse_into(GenerationArguments, flags, program, "", None).progress
    elif command[1] == "-m":
        assert (ROOT / (command[2].replace(".", "/") + ".py")).is_file() or command[2].startswith("nltk")
    else:
        assert (ROOT / command[1]).is_file()


def test_there_are_commands_in_the_readme() -> None:
    assert len([command for page, command in calls() if page == "README.md"]) > 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_every_file_of_the_code_has_its_place_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for path in [*(ROOT / "seq2seq").glob("*.py"), *(ROOT / "gpt2").glob("*.py")]:
        assert re.search(rf"(?<!\w){re.escape(path.name)}", text) or path.name == "__init__.py", path.name
