"""What the README and the docs tell a reader to type works."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest
from PIL import Image

from benchmarks.report import summarize
from benchmarks.results import read_result
from dmgan_runtime.cli.doctor import main as doctor
from dmgan_runtime.cli.generate import main as generate
from dmgan_runtime.cli.serve import main as serve
from dmgan_train.cli import main as train
from export.commands import DEFAULT_COMMAND
from export.commands import main as export

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language: str, documents: Sequence[Path] = DOCUMENTS) -> Iterator[str]:
    for document in documents:
        for found in BLOCK.finditer(document.read_text()):
            if found[1] == language:
                yield found[2]


def commands() -> list[str]:
    lines = [line.partition(" #")[0].strip() for block in blocks("") for line in block.replace("\\\n", "").splitlines()]
    return [line for line in lines if line.startswith(("python -m dmgan_train", "dmgan-"))]


def options(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts}


@pytest.mark.parametrize("line", commands())
def test_a_command_exists_with_its_options(line) -> None:
    words = shlex.split(line)
    commands = {
        "python": train,
        "dmgan-export": export,
        "dmgan-generate": generate,
        "dmgan-doctor": doctor,
        "dmgan-serve": serve,
        "dmgan-train": train,
    }
    command: click.Command = commands[words[0]]
    rest = words[3:] if words[0] == "python" else words[1:]
    while isinstance(command, click.Group):
        context = click.Context(command)
        name = rest.pop(0) if rest[0] in command.list_commands(context) else DEFAULT_COMMAND
        found = command.get_command(context, name)
        assert found is not None
        command = found
    assert {word for word in rest if word.startswith("-")} <= options(command)


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 6


def test_the_python_example_makes_an_image(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("python", DOCUMENTS[:1])
    assert list(blocks("python", [ROOT / "docs" / "index.md"])) == [example]
    exec(compile(example, "README.md", "exec"), {})
    with Image.open("heart.png") as picture:
        assert picture.size == (256, 256)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize(
    ("column", "result", "rows"), [(1, "latency-cpu", 6), (2, "latency-cpu-avx512-bf16", 7)], ids=["avx2", "bf16"]
)
def test_figures_in_the_readme_are_the_committed_ones(column: int, result: str, rows: int) -> None:
    table = [line.strip("| ").split(" | ") for line in README.read_text().splitlines() if line.startswith("| ")]
    shown = {
        row[0].partition(" (")[0]: row[column]
        for row in table
        if len(row) == 4 and row[3].isdigit() and row[column].isdigit()
    }
    summary = summarize(read_result(ROOT / "benchmarks" / "results" / f"{result}.json"))
    cells = [line.strip("| ").split(" | ") for line in summary.splitlines() if line.startswith("| ")]
    measured = {f"{cell[0]}, {cell[1]}": cell[2] for cell in cells}
    assert len(shown) == rows
    assert shown.items() <= measured.items()


def test_the_makefile_has_the_two_commands() -> None:
    assert {"demo:", "test:"} <= {line.split(" ")[0] for line in (ROOT / "Makefile").read_text().splitlines()}
