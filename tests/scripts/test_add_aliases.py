"""A bundle gets aliases without its training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from dmgan_runtime import Generator
from dmgan_runtime.bundle import Bundle
from scripts.add_aliases import main


@pytest.fixture(scope="module")
def added(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("added")
    (folder / "aliases.json").write_text(json.dumps({"⬜": "white square", "🦓": "zebra"}))
    (folder / "notes.md").write_text("Squares only.\n")
    output = folder / "bundle"
    arguments = [bundle, folder / "aliases.json", "-o", output, "--notes", folder / "notes.md"]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert result.output == f"{output}: 1 aliases\n"
    again = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert (again.exit_code, "exists already" in again.output) == (2, True)
    return output


def test_its_emoji_are_read_and_its_pictures_are_the_same(bundle: Path, added: Path) -> None:
    with Generator.open(bundle) as before, Generator.open(added) as after:
        (expected,) = before.generate("a white square", seed=3)
        (made,) = after.generate("a ⬜", seed=3)
    assert made.words == ("a", "white", "square")
    assert made.image.tobytes() == expected.image.tobytes()


def test_nothing_else_changes(bundle: Path, added: Path) -> None:
    files = {path.relative_to(added).as_posix() for path in added.rglob("*") if path.is_file()}
    same = {
        name
        for name in files
        if (bundle / name).exists() and (bundle / name).read_bytes() == (added / name).read_bytes()
    }
    assert files - same == {"manifest.json", "MODEL_CARD.md", "aliases.json"}
    with Bundle(bundle) as before, Bundle(added) as after:
        assert all(after.read(entry) for entry in after.manifest.every_file)
        known = {"tokenizer": before.manifest.tokenizer, "files": before.manifest.files}
        assert after.manifest.__replace__(**known) == before.manifest
    card = (added / "MODEL_CARD.md").read_text()
    assert "Squares only." in card
    assert "1 emoji (`aliases.json`)" in card
    assert f"It knows {len(Bundle(added).tokenizer()) - 1} words" in card
