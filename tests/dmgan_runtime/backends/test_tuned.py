from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from dmgan_runtime.backends.tuned import Circumstances, TunedWay, Tuning, circumstances, read_tuning, write_tuning
from dmgan_runtime.bundle import Bundle


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def opened(bundle: Path) -> Bundle:
    return Bundle(bundle)


def measured(now: Circumstances) -> Tuning:
    way = TunedWay(backend="openvino", precision="fp32", threads=1, milliseconds=1.5, psnr_db=130.2)
    return Tuning(measured_on=date(2026, 11, 28), circumstances=now, ways=(way,))


def test_what_was_kept_is_found(opened: Bundle, cache: Path) -> None:
    assert read_tuning(opened) == (None, "")
    tuning = measured(circumstances())
    assert write_tuning(opened, tuning).startswith(f"kept in {cache}")
    assert read_tuning(opened) == (tuning, "as dmgan-doctor --tune measured on 2026-11-28")
    assert [path.suffix for path in cache.rglob("*") if path.is_file()] == [".json"]  # no scratch is left


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda old: {"processor": "another"}, "another processor"),
        (lambda old: {"cpus": old.cpus + 1}, "another number of CPUs"),
        (lambda old: {"versions": {**old.versions, "onnxruntime": "1.0"}}, "onnxruntime 1.0"),
        (lambda old: {"versions": {**old.versions, "abacus": "2.0"}}, "abacus 2.0"),
    ],
)
def test_what_is_stale_is_left_aside_with_a_word(
    opened: Bundle, change: Callable[[Circumstances], dict[str, Any]], words: str
) -> None:
    now = circumstances()
    write_tuning(opened, measured(now.__replace__(**change(now))))
    assert read_tuning(opened) == (None, f"what dmgan-doctor --tune kept is of {words}; run it again")


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, b"\xff\xfe", b'{"measured_on": "soon"}'])
def test_what_is_damaged_is_left_aside_with_a_word(opened: Bundle, cache: Path, content: bytes) -> None:
    write_tuning(opened, measured(circumstances()))
    (file,) = cache.rglob("*.json")
    file.write_bytes(content)
    tuning, note = read_tuning(opened)
    assert tuning is None
    assert note.startswith("what dmgan-doctor --tune kept cannot be read (")
    assert len(note) < 500


def test_a_folder_that_cannot_be_written_is_no_error(opened: Bundle, cache: Path) -> None:
    cache.write_text("in the way")
    assert write_tuning(opened, measured(circumstances())).startswith("not kept (")
    assert read_tuning(opened).tuning is None


@pytest.mark.parametrize(
    "way",
    [
        {"threads": 0},
        {"threads": 10**9},
        {"threads": 10**30},
        {"threads": 1000},  # more than there were CPUs
        {"milliseconds": -5},
        {"precision": "fp8"},
    ],
)
def test_what_nobody_measured_is_left_aside(opened: Bundle, cache: Path, way: dict[str, Any]) -> None:
    write_tuning(opened, measured(circumstances()))
    (file,) = cache.rglob("*.json")
    content = json.loads(file.read_bytes())
    content["ways"][0] |= way
    file.write_text(json.dumps(content))
    assert read_tuning(opened).note.startswith("what dmgan-doctor --tune kept cannot be read (")
    file.write_text(json.dumps(content | {"ways": []}))
    assert read_tuning(opened).tuning is None


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_what_is_no_file_is_left_aside(opened: Bundle, cache: Path, make: Callable[[Path], None]) -> None:
    write_tuning(opened, measured(circumstances()))
    (file,) = cache.rglob("*.json")
    file.unlink()
    make(file)
    assert "it is no file of at most" in read_tuning(opened).note
