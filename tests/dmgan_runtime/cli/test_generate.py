from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from dmgan_runtime import CaptionError, Generator, SettingsError, __version__
from dmgan_runtime.bundle import packaged_bundle
from dmgan_runtime.cli.captions import CaptionSource, check_captions
from dmgan_runtime.cli.files import plan_files
from dmgan_runtime.cli.generate import main
from dmgan_runtime.tokenizer import Tokenizer
from tests.bundles import SPEC, build_bundle

LEGIBLE = 192  # small pictures are enlarged to it on sheets


def run(*arguments: str | Path, stdin: str = "") -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], stdin, prog_name="dmgan-generate")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "pictures" / "out.png"


def names(out: Path) -> list[str]:
    return sorted(file.name for file in out.parent.iterdir())


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_one_picture(bundle: Path, generator: Generator, out: Path) -> None:
    result = run("-b", bundle, "a red heart", "-o", out, "--seed", "7", "--threads", "1")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{out}: 'a red heart', seed 7\n"
    assert names(out) == ["out.png"]
    with Image.open(out) as picture:
        expected = generator.generate("a red heart", seed=7)[0].image
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], {"Description": "a red heart", "Seed": "7"}),
        (["-n", "2", "--grid"], {"Description": "a red heart\na red heart", "Seed": "7\n8"}),
        (["--no-metadata"], {}),
        (["--no-metadata", "-n", "2", "--grid"], {}),
    ],
)
def test_captions_and_seeds_lie_in_the_file_unless_asked_not_to(
    bundle: Path, out: Path, options: list[str], text: dict[str, str]
) -> None:
    assert run("-b", bundle, "a red heart", "-o", out, "--seed", "7", *options).exit_code == 0
    with Image.open(out) as picture:
        assert picture.text == text


def test_attention_needs_a_memory(tmp_path: Path, out: Path) -> None:
    one_stage = build_bundle(tmp_path / "one", spec=msgspec.structs.replace(SPEC, stages=1))
    result = run("a heart", "-b", one_stage, "-o", out, "--attention")
    assert result.exit_code == 2
    assert "--attention: the first stage, of 8 pixels, has no memory" in result.stderr
    assert not out.exists()


def test_several_pictures_are_numbered(bundle: Path, out: Path) -> None:
    result = run("-b", bundle, "a heart", "a square", "-n", "5", "-o", out, "--seed", "3")
    assert names(out) == [f"out-{number:02}.png" for number in range(1, 11)]
    lines = result.stdout.splitlines()
    assert lines[0].endswith("out-01.png: 'a heart', seed 3")
    assert lines[9].endswith("out-10.png: 'a square', seed 7")


def test_emoji_are_captions_and_files_are_named_by_what_was_read(tmp_path: Path) -> None:
    bundle = build_bundle(tmp_path / "emoji", aliases={"❤": "red heart", "🟥": "red square"})
    result = run("-b", bundle, "❤️", "a 🟥 🇩🇪 👩\u200d🚀", "-o", f"{tmp_path}/out/", "--seed", "1")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "1-red-heart-seed1.png", "2-a-red-square-seed1.png",
    ]  # fmt: skip
    assert "'a 🟥 🇩🇪 👩\u200d🚀': the model does not know '🇩🇪', '👩\u200d🚀'; left out" in result.stderr
    with Image.open(tmp_path / "out" / "1-red-heart-seed1.png") as picture:
        assert picture.text == {"Description": "❤️", "Seed": "1"}


def test_a_grid_is_one_picture(bundle: Path, out: Path) -> None:
    result = run("-b", bundle, "a heart", "a square", "--images-per-caption", "2", "-o", out, "--grid")
    assert names(out) == ["out.png"]
    assert size(out)[0] == 2 * (LEGIBLE + 6) + 6
    assert len(result.stdout.splitlines()) == 4


def test_a_grid_of_several_images_a_caption_has_a_row_for_each(bundle: Path, out: Path) -> None:
    run("-b", bundle, "a heart", "a square", "-n", "3", "-o", out, "--grid")
    width, height = size(out)
    assert width == 3 * (LEGIBLE + 6) + 6
    assert height > 2 * (LEGIBLE + 6)


def test_a_grid_has_its_bounds(bundle: Path, out: Path) -> None:
    result = run("-b", bundle, "a heart", "-n", "257", "-o", out, "--grid")
    assert result.exit_code == 2
    assert "--grid holds at most 256 images, not 257" in result.stderr


def test_a_grid_that_its_format_has_no_room_for_is_refused_before_it_is_generated(bundle: Path, out: Path) -> None:
    arguments = ("-b", bundle, "a heart", "-n", "140", "--grid")
    result = run(*arguments, "-o", out.with_suffix(".webp"))
    assert result.exit_code == 2
    assert f"a picture of {140 * (LEGIBLE + 6) + 6}x" in result.stderr
    assert "Images to generate" not in result.stderr
    assert run(*arguments, "-o", out.with_suffix(".png")).exit_code == 0


def test_stages_are_shown_side_by_side(bundle: Path, out: Path) -> None:
    run("-b", bundle, "a heart", "-n", "2", "-o", out, "--stages")
    assert names(out) == ["out-1-stages.png", "out-1.png", "out-2-stages.png", "out-2.png"]
    width, height = size(out.with_name("out-1-stages.png"))
    assert width == 3 * (LEGIBLE + 6) + 6
    assert LEGIBLE < height < LEGIBLE + 60


def test_attention_is_two_more_pictures(bundle: Path, out: Path) -> None:
    result = run("-b", bundle, "a red heart", "-o", out, "--attention", "--grid")
    assert names(out) == ["out-attention.png", "out-words.png", "out.png"]
    assert len(result.stdout.splitlines()) == 3
    result = run("-b", bundle, "a red heart", "-o", out, "--attention", "--resolution", "8", "--overwrite")
    assert result.exit_code == 2
    assert "--attention: the first stage, of 8 pixels, has no memory" in result.stderr


@pytest.mark.parametrize("slash", [True, False])
def test_a_folder_gets_telling_names(bundle: Path, tmp_path: Path, slash: bool) -> None:
    folder = tmp_path / "pictures"
    if not slash:
        folder.mkdir()
    run("-b", bundle, "a RED heart!", "../a/square", "-n", "2", "--seed", "5", "-o", f"{folder}{'/' * slash}")
    expected = ["1-a-red-heart-seed5", "2-a-red-heart-seed6", "3-a-square-seed5", "4-a-square-seed6"]
    assert names(folder / "any") == [f"{name}.png" for name in expected]


def test_captions_come_from_a_file(bundle: Path, tmp_path: Path, out: Path) -> None:
    file = tmp_path / "captions.txt"
    file.write_bytes("\ufeffa red heart\r\n\n  a blue square \n".encode())
    result = run("-b", bundle, "a heart", "--file", file, "-o", out)
    assert [line.split("'")[1] for line in result.stdout.splitlines()] == ["a heart", "a red heart", "a blue square"]


def test_captions_come_from_standard_input(bundle: Path, out: Path) -> None:
    result = run("-b", bundle, "-", "a heart", "-o", out, stdin="a red heart\na square\n")
    assert [line.split("'")[1] for line in result.stdout.splitlines()] == ["a red heart", "a square", "a heart"]


def test_what_was_made_is_told_in_json_lines(bundle: Path, out: Path) -> None:
    result = run("-b", bundle, "a red zebra", "-n", "2", "--seed", "4", "-o", out, "--json", "--stages")
    first, second = map(json.loads, result.stdout.splitlines())
    assert first == {
        "caption": "a red zebra",
        "seed": 4,
        "resolution": 32,
        "words": ["a", "red"],
        "unknown_words": ["zebra"],
        "cut_words": [],
        "files": {"image": str(out.with_stem("out-1")), "stages": str(out.with_stem("out-1-stages"))},
    }
    assert second["seed"] == 5
    assert all(Path(file).exists() for file in second["files"].values())


def test_nothing_is_replaced_unasked(bundle: Path, out: Path) -> None:
    run("-b", bundle, "a heart", "-n", "2", "-o", out, "--seed", "1")
    before = {file: file.read_bytes() for file in out.parent.iterdir()}
    refused = run("-b", bundle, "a square", "-n", "2", "-o", out, "--seed", "2")
    assert refused.exit_code == 2
    assert "out-1.png, " in refused.stderr
    assert "there already; pass --overwrite to replace files, or another --output" in refused.stderr
    assert {file: file.read_bytes() for file in out.parent.iterdir()} == before
    replaced = run("-b", bundle, "a square", "-n", "2", "-o", out, "--seed", "2", "--overwrite")
    assert replaced.exit_code == 0
    assert all(file.read_bytes() != content for file, content in before.items())


def test_every_caption_is_read_before_the_first_image(bundle: Path, tmp_path: Path, out: Path) -> None:
    file = tmp_path / "captions.txt"
    file.write_text("a heart\n\nzebra\n!!\n")
    result = run("-b", bundle, "--file", file, "-o", out)
    assert result.exit_code == 2
    assert f"{file}, line 3: no word of the caption 'zebra'" in result.stderr
    assert "(and 1 more caption that cannot be read); or pass --skip-unreadable, which leaves" in result.stderr
    assert not out.parent.exists()


def test_a_plan_takes_no_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        plan = plan_files(f"{tmp_path}/new/", ["a heart"] * 10, range(100_000), grid=False, sheets=("stages",))
        plan.check_place(overwrite=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000
    assert plan.files(999_999)["stages"].name == "1000000-a-heart-seed99999-stages.png"


def test_of_many_files_that_are_there_a_few_are_named(tmp_path: Path) -> None:
    plan = plan_files(f"{tmp_path}/", ["a heart"], range(9), grid=False, sheets=())
    for index in range(2, 9):
        plan.image(index).touch()
    with pytest.raises(
        SettingsError, match=r"/3-a-heart-seed2\.png, .*/5-a-heart-seed4\.png and 4 more: there already"
    ):
        plan.check_place(overwrite=False)


def test_a_random_seed_is_printed_and_repeats(bundle: Path, out: Path) -> None:
    first = run("-b", bundle, "a heart", "-o", out)
    seed = re.search(r"seed (\d+)", first.stdout)
    assert seed is not None
    before = out.read_bytes()
    run("-b", bundle, "a heart", "-o", out, "--seed", seed[1], "--overwrite")
    assert out.read_bytes() == before


def test_words_left_out_are_warned_of_once(bundle: Path, out: Path) -> None:
    result = run("-b", bundle, "a red hart and a small blue heart", "-n", "3", "-o", out)
    assert result.exit_code == 0
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning")]
    caption = "'a red hart and a small blue heart'"
    assert warnings == [
        f"warning: {caption}: the model does not know 'hart' (did you mean 'heart'?); left out",
        f"warning: {caption}: there is no room for 'heart'; left out",
    ]


def test_warnings_of_many_captions_are_few_and_look_a_word_up_once(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []
    nearest = Tokenizer.nearest
    monkeypatch.setattr(
        Tokenizer,
        "nearest",
        lambda self, word: looked_up.append(word) or nearest(self, word),  # type: ignore[func-returns-value]
    )
    file = tmp_path / "captions.txt"
    file.write_text("a red hart\n" * 22)
    result = run("-b", bundle, "-f", file, "--resolution", "8", "-o", tmp_path / "out.png")
    assert result.exit_code == 0, result.output
    assert looked_up == ["hart"]
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning")]
    assert len(warnings) == 21
    assert warnings[-1] == "warning: words of 2 more captions are left out; --json says which"


def test_captions_that_are_refused_are_counted_at_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []
    monkeypatch.setattr(Tokenizer, "nearest", lambda self, word: looked_up.append(word) or [])  # type: ignore[func-returns-value]
    sources = [
        CaptionSource("a heart", None),
        *[CaptionSource("zebra", None)] * 1001,
        CaptionSource("", None),
        CaptionSource("a" * 20_000, None),
    ]
    with (
        Generator.open(bundle, threads=1) as generator,
        pytest.raises(CaptionError, match=r"'zebra'.*\(and 1,002 more captions that cannot be read\)"),
    ):
        check_captions(sources, generator.encode, generator.tokenizer.takes)
    assert looked_up == ["zebra"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zebra"], "no word of the caption 'zebra'"),
        (["a heart", "--resolution", "64"], "pass one of 8, 16, 32"),
        (["a heart", "--seed", "-1"], "0<=x<=18446744073709551615"),
        (["a heart", "--truncation", "0"], "0<x<=1"),
        (["a heart", "--truncation", "nan"], "truncation"),
        (["a heart", "-n", "0"], "1<=x<=1000000"),
        (["a heart", "-n", "1000000000"], "1<=x<=1000000"),
        (["a heart", "a square", "-n", "1000000"], "2,000,000 images are too many at once; ask for at most 1,000,000"),
        (["a heart", "-o", "w/pics"], "end it in .png, .jpg, .jpeg, .webp, or in a slash if it is a folder"),
        (["a heart", "-o", f"{__file__}/"], f"{__file__}/: there is a file of this name; leave the slash out"),
        (["a heart", "--precision", "fp8"], "'fp8' is not one of 'auto', 'fp32'"),
        (["a heart", "--quality", "high"], "'high' is neither a PSNR in dB, over 0 and at most 200, nor exact"),
        (["a heart", "--quality", "0"], "'0' is neither a PSNR in dB"),
        (["a heart", "--precision", "int8"], "or pass --precision auto"),
        (
            ["a heart", "--seed", str(2**64 - 1), "-n", "2"],
            f"the last of 2 images has the seed {2**64 - 1} + 1, which is out",
        ),
        (["a heart", "--device", "gpu"], "device 'gpu' is unknown; pass 'auto', 'cpu'"),
        (["a heart", "a square", "-o", "-"], "--output - takes one picture; pass --grid"),
        (["a heart", "--stages", "-o", "-"], "--output - takes one picture"),
        (["a heart", "--n", "2"], "No such option"),
        (["a heart", "-o", "picture.tiff"], "cannot tell the picture's format"),
        ([], "there are no captions"),
        (["--file", "nowhere.txt"], "'nowhere.txt' does not exist"),
        (["--file", sys.executable], "not UTF-8 text"),
        (["a heart", "--backend", "abacus"], "'abacus' is not one of 'auto', 'tensorrt'"),
    ],
)
def test_a_mistake_is_a_message_and_exit_2(bundle: Path, arguments: list[str], message: str) -> None:
    result = run("-b", bundle, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_a_missing_bundle_is_a_message_and_exit_2(tmp_path: Path) -> None:
    result = run("-b", tmp_path / "none", "a heart")
    assert result.exit_code == 2
    assert "no such bundle; pass a folder or .zip" in result.stderr


@pytest.mark.parametrize("options", [[], ["--grid"], ["--overwrite"], ["-n", "2"]])
@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("file/out.png", "Not a directory"),
        ("file/new/out.png", "Not a directory"),
        ("file/new/", "Not a directory"),
        (f"{'a' * 300}.png", "File name too long"),
        (f"new/{'a' * 300}.png", "File name too long"),
        (f"new/{'a' * 300}/out.png", "File name too long"),
        pytest.param("/proc/out.png", "", marks=pytest.mark.skipif(sys.platform != "linux", reason="writes to /proc")),
        pytest.param("locked/out.png", "Permission", marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may")),
    ],
)
def test_an_impossible_output_is_refused_before_anything_is_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, reason: str, options: list[str]
) -> None:
    monkeypatch.setattr(Generator, "open", lambda *_, **__: pytest.fail("the bundle was opened"))
    (tmp_path / "file").touch()
    (tmp_path / "locked").mkdir(mode=0o500)
    result = run("a heart", "-o", f"{tmp_path}/{output}" if output[0] != "/" else output, *options)
    assert result.exit_code == 2
    assert f"cannot be written ({reason}" in result.stderr
    assert "; pass another --output, or make room there" in result.stderr
    assert ".tmp" not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "locked"]


def test_a_folder_in_the_place_of_a_picture_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out-2.png").mkdir()
    result = run("a heart", "-n", "2", "-o", tmp_path / "out.png", "--overwrite")
    assert result.exit_code == 2
    assert f"{tmp_path}/out-2.png: there already" in result.stderr


def test_a_disk_that_fills_meanwhile_is_a_message_and_exit_1(
    bundle: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "scratch.tmp")

    monkeypatch.setattr("dmgan_runtime.cli.generate.save", full)
    result = run("-b", bundle, "a heart", "-o", out)
    assert result.exit_code == 1
    assert f"Error: {out} cannot be written (No space left on device); pass another --output, or" in result.stderr


@pytest.mark.parametrize("arguments", [["a heart"], ["a heart", "a square", "--grid"], ["a heart", "--json"]])
def test_a_picture_goes_to_standard_output(bundle: Path, tmp_path: Path, arguments: list[str]) -> None:
    program = "from dmgan_runtime.cli.generate import main; main()"
    command = [sys.executable, "-c", program, "-b", str(bundle), *arguments, "--seed", "1", "-o", "-"]
    made = subprocess.run(command, capture_output=True, check=True, timeout=60, cwd=tmp_path)
    with Image.open(io.BytesIO(made.stdout)) as picture:
        picture.load()
        assert picture.format == "PNG"
    run("-b", bundle, *arguments, "--seed", "1", "-o", tmp_path / "same.png")
    assert (tmp_path / "same.png").read_bytes() == made.stdout
    said = made.stderr.decode().splitlines()[1:]  # after the progress
    assert len(said) == len([each for each in arguments if each[0] != "-"])
    assert all(("-: 'a " in line) or json.loads(line)["files"] == {"image": "-"} for line in said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["same.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no pseudo-terminals")
@pytest.mark.parametrize("closed", [True, False])
def test_a_picture_does_not_go_to_a_terminal(monkeypatch: pytest.MonkeyPatch, closed: bool) -> None:
    plan = plan_files("-", ["a heart"], range(1), grid=False, sheets=())
    terminal = os.fdopen(os.openpty()[1], "w")
    monkeypatch.setattr(sys, "stdout", None if closed else terminal)
    with pytest.raises(SettingsError, match=r"standard output is closed, or a terminal; redirect it, as in: > a.png"):
        plan.check_place(overwrite=False)
    terminal.close()


@pytest.mark.parametrize("encoding", ["cp1252", "cp932"])
def test_an_output_of_any_encoding_takes_any_caption(tmp_path: Path, encoding: str) -> None:
    program = "import sys; from dmgan_runtime.cli.{} import main; main(sys.argv[1:])"
    caption = "red heart \u2665 caf\u00e9 \u9ce5"
    own = shutil.copytree(packaged_bundle(), tmp_path / "\u2665")
    calls = (
        ("generate", [caption, "pizza \u2665", "-o", f"{tmp_path}/\u2665/", "-b", str(own)]),
        ("generate", ["\u2665\u9ce5 red", "\u2665", "--skip-unreadable", "--json", "-o", f"{tmp_path}/out.png"]),
        ("doctor", [str(own)]),
    )
    for command, arguments in calls:
        made = subprocess.run(
            [sys.executable, "-c", program.format(command), *arguments],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
            check=False,
            timeout=60,
        )
        assert made.returncode == 0, made.stderr
        assert made.stdout.decode(encoding)
        assert b"Traceback" not in made.stderr
    assert len(list(own.glob("*.png"))) == 3  # the samples, and two more


@pytest.mark.parametrize("slash", ["", "/"])
def test_what_killed_runs_have_left_is_cleared(bundle: Path, out: Path, slash: str) -> None:
    out.parent.mkdir()
    program = f"""
import os, signal
from pathlib import Path
from dmgan_runtime.atomic import replacing
with replacing(Path({str(out)!r})) as scratch:
    scratch.write_text("half a picture")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    (left,) = out.parent.iterdir()
    fresh, mine = out.with_name(".dmgan-0123456789abcdef.tmp"), out.with_name("dmgan-notes.tmp")
    for each in (left, fresh, mine):
        each.touch()
        os.utime(each, (0, time.time() - 3700 * (each != fresh)))
    run("-b", bundle, "a heart", "-o", f"{out.parent}/" if slash else out, "--seed", "1")
    assert left.name not in names(out)
    assert {fresh.name, mine.name} < set(names(out))  # a run of another process, and a user's own file
    assert len(names(out)) == 3


def test_packaged_models_are_listed_and_opened_by_name(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = run("--list")
    assert (listed.exit_code, listed.stdout) == (0, f"emoji-256: 256 pixels, {packaged_bundle()}\n")
    assert run("-b", "emoji-256", "red heart", "-o", out, "--seed", "1").exit_code == 0
    by_name = out.read_bytes()
    run("red heart", "-o", out, "--seed", "1", "--overwrite")
    assert out.read_bytes() == by_name
    refused = run("-b", "emoji64", "red heart", "-o", out, "--overwrite")
    assert refused.exit_code == 2
    assert "that dmgan-export wrote, or the name of a packaged model: emoji-256" in refused.stderr
    out.with_name("emoji-256").mkdir()
    monkeypatch.chdir(out.parent)
    assert "manifest.json: missing" in run("-b", "emoji-256", "red heart", "-o", "new.png").stderr


def test_captions_that_cannot_be_read_are_left_out_if_so_asked(bundle: Path, tmp_path: Path, out: Path) -> None:
    file = tmp_path / "captions.txt"
    file.write_text("a heart\nzebra\n" + "!!\n" * 30 + f"a square\n{'a ' * 9000}\n", encoding="utf-8")
    result = run("-b", bundle, "--file", file, "-o", out, "--skip-unreadable")
    assert result.exit_code == 0
    assert names(out) == ["out-1.png", "out-2.png"]
    assert [line.split("'")[1] for line in result.stdout.splitlines()] == ["a heart", "a square"]
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning")]
    assert warnings[0].startswith(f"warning: {file}, line 2: no word of the caption 'zebra'")
    assert warnings[0].endswith("; left out")
    assert len(warnings) == 21
    assert warnings[-1] == "warning: 32 of 34 captions cannot be read, and are left out"
    again = run("-b", bundle, "--file", file, "-o", out, "--skip-unreadable")
    assert again.exit_code == 2
    assert "out-1.png, " in again.stderr
    file.write_text("zebra\n!!\n")
    nothing = run("-b", bundle, "--file", file, "-o", tmp_path / "none.png", "--skip-unreadable")
    assert nothing.exit_code == 2
    assert "--skip-unreadable" not in nothing.stderr
    assert "(and 1 more caption that cannot be read)" in nothing.stderr


def test_help_shows_types_defaults_and_ranges() -> None:
    text = " ".join(run("--help").stdout.split())
    for expected in (
        "[CAPTION]...",
        "[default: (emoji-256)]",
        "[default: out.png]",
        "[default: 1; 1<=x<=1000000]",
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


def test_it_has_a_version() -> None:
    assert run("--version").stdout == f"dmgan-generate, version {__version__}\n"


def test_escape_sequences_never_reach_the_terminal(bundle: Path, tmp_path: Path) -> None:
    caption = "\x1b]0;owned\x07\x1b[2J red\u202eheart \x9b31m \u200bsquare"
    captions = tmp_path / "captions.txt"
    captions.write_text(f"{caption}\n", encoding="utf-8")
    for folder, options in (("a\x1b[2J", []), ("b", ["--json"])):
        result = run("-b", bundle, "--file", captions, "-o", f"{tmp_path / folder}/", *options)
        assert result.exit_code == 0
        assert (result.stdout + result.stderr).replace("\n", "").isprintable()
    failed = run("-b", bundle, "\x1b[2Jzebra", "-o", tmp_path / "c.png")
    assert failed.stderr.replace("\n", "").isprintable()


def test_it_runs_as_a_program(bundle: Path, out: Path) -> None:
    program = "from dmgan_runtime.cli.generate import main; main(prog_name='dmgan-generate')"
    arguments = [
        sys.executable,
        "-W",
        "error",
        "-c",
        program,
        "--bundle",
        str(bundle),
        "a red heart",
        "-o",
        str(out),
        "--seed",
        "1",
    ]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stdout) == (0, f"{out}: 'a red heart', seed 1\n")
    assert result.stderr == "Images to generate: 1\n"
    assert size(out) == (32, 32)
