from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from dmgan_runtime import Generator
from dmgan_runtime.cli import main

LEGIBLE = 192  # small pictures are enlarged to it on sheets


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="dmgan-generate")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "pictures" / "out.png"


def names(out: Path) -> list[str]:
    return sorted(file.name for file in out.parent.iterdir())


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_one_picture(bundle: Path, generator: Generator, out: Path) -> None:
    result = run(bundle, "a red heart", "-o", out, "--seed", "7", "--threads", "1")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{out}: 'a red heart', seed 7\n"
    assert names(out) == ["out.png"]
    with Image.open(out) as picture:
        expected = generator.generate("a red heart", seed=7)[0].image
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))


def test_several_pictures_are_numbered(bundle: Path, out: Path) -> None:
    result = run(bundle, "a heart", "a square", "-n", "5", "-o", out, "--seed", "3")
    assert names(out) == [f"out-{number:02}.png" for number in range(1, 11)]
    lines = result.stdout.splitlines()
    assert lines[0].endswith("out-01.png: 'a heart', seed 3")
    assert lines[9].endswith("out-10.png: 'a square', seed 7")


def test_a_grid_is_one_picture(bundle: Path, out: Path) -> None:
    result = run(bundle, "a heart", "a square", "--n", "2", "-o", out, "--grid")
    assert names(out) == ["out.png"]
    assert size(out)[0] == 2 * (LEGIBLE + 6) + 6
    assert len(result.stdout.splitlines()) == 4


def test_stages_are_shown_side_by_side(bundle: Path, out: Path) -> None:
    run(bundle, "a heart", "-n", "2", "-o", out, "--stages")
    assert names(out) == ["out-1-stages.png", "out-1.png", "out-2-stages.png", "out-2.png"]
    assert size(out.with_name("out-1-stages.png")) == (3 * (LEGIBLE + 6) + 6, LEGIBLE + 6 + 6)


def test_stages_of_a_grid_are_its_rows(bundle: Path, out: Path) -> None:
    run(bundle, "a heart", "-n", "4", "-o", out, "--stages", "--grid", "--resolution", "16")
    assert names(out) == ["out-stages.png", "out.png"]
    assert size(out.with_name("out-stages.png")) == (2 * (LEGIBLE + 6) + 6, 4 * (LEGIBLE + 6) + 6)


def test_a_random_seed_is_printed_and_repeats(bundle: Path, out: Path) -> None:
    first = run(bundle, "a heart", "-o", out)
    seed = re.search(r"seed (\d+)", first.stdout)
    assert seed is not None
    before = out.read_bytes()
    run(bundle, "a heart", "-o", out, "--seed", seed[1])
    assert out.read_bytes() == before


def test_words_left_out_are_warned_of_once(bundle: Path, out: Path) -> None:
    result = run(bundle, "a red zebra and a small blue heart", "-n", "3", "-o", out)
    assert result.exit_code == 0
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning")]
    caption = "'a red zebra and a small blue heart'"
    assert warnings == [
        f"warning: {caption}: the model does not know 'zebra'; left out",
        f"warning: {caption}: there is no room for 'heart'; left out",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zebra"], "no word of the caption 'zebra'"),
        (["a heart", "--resolution", "64"], "pass one of 8, 16, 32"),
        (["a heart", "--seed", "-1"], "0<=x<=18446744073709551615"),
        (["a heart", "--truncation", "0"], "0<x<=1"),
        (["a heart", "--truncation", "nan"], "truncation"),
        (["a heart", "-n", "0"], "x>=1"),
        (["a heart", "-o", "picture.tiff"], "cannot tell the picture's format"),
        (["a heart", "-o", "."], "is a directory"),
        ([], "Missing argument 'CAPTION...'"),
    ],
)
def test_a_mistake_is_a_message_and_exit_2(bundle: Path, arguments: list[str], message: str) -> None:
    result = run(bundle, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_a_missing_bundle_is_a_message_and_exit_2(tmp_path: Path) -> None:
    result = run(tmp_path / "none", "a heart")
    assert result.exit_code == 2
    assert "no such bundle; pass a folder or .zip" in result.stderr


def test_a_folder_that_cannot_be_made_is_a_message_and_exit_1(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run(bundle, "a heart", "-o", tmp_path / "file" / "out.png")
    assert result.exit_code == 1
    assert "Error: [Errno" in result.stderr


def test_help_shows_types_defaults_and_ranges() -> None:
    text = " ".join(run("--help").stdout.split())
    for expected in (
        "BUNDLE CAPTION...",
        "[default: out.png]",
        "[default: 1; x>=1]",
        "[default: (random); 0<=x<=18446744073709551615]",
        "[default: (largest); x>=1]",
        "[default: 1.0; 0<x<=1]",
        "[default: (all CPUs); 1<=x<=1024]",
        "INTEGER RANGE",
        "FLOAT RANGE",
        "out-1.png, out-2.png",
        "Exit status",
    ):
        assert expected in text


def test_it_runs_as_a_program(bundle: Path, out: Path) -> None:
    program = "from dmgan_runtime.cli import main; main(prog_name='dmgan-generate')"
    arguments = [
        sys.executable,
        "-W",
        "error",
        "-c",
        program,
        str(bundle),
        "a red heart",
        "-o",
        str(out),
        "--seed",
        "1",
    ]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stdout) == (0, f"{out}: 'a red heart', seed 1\n")
    assert result.stderr == "Images to paint: 1\n"
    assert size(out) == (32, 32)
