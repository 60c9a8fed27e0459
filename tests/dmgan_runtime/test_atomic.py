"""A file is the old one until the new one is complete."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dmgan_runtime.atomic import replacing


def write(path: Path, content: str, **options: bool) -> None:
    with replacing(path, **options) as scratch:
        assert scratch.parent == path.parent
        scratch.write_text(content)


@pytest.mark.parametrize("options", [{}, {"durable": True}, {"locked": True}, {"durable": True, "locked": True}])
def test_a_file_is_written_and_replaced(tmp_path: Path, options: dict[str, bool]) -> None:
    path = tmp_path / "new" / "deep" / "file.txt"
    for content in ("first", "second"):
        write(path, content, **options)
        assert path.read_text() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("locked", [True, False])
def test_nobody_sees_a_file_that_is_not_complete(tmp_path: Path, locked: bool) -> None:
    path = tmp_path / "file.txt"
    with replacing(path, locked=locked) as scratch:
        scratch.write_text("half")
        assert not path.exists()
    with replacing(path, locked=locked) as scratch:
        scratch.write_text("another")
        assert path.read_text() == "half"


@pytest.mark.parametrize("begun", [True, False])
def test_after_a_failure_the_old_file_is_as_it_was(tmp_path: Path, begun: bool) -> None:
    def fail(path: Path) -> None:
        with replacing(path) as scratch:
            if begun:
                scratch.write_text("half")
            raise OSError("full")

    path = tmp_path / "file.txt"
    write(path, "old")
    with pytest.raises(OSError, match="full"):
        fail(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_take_its_place_leaves_nothing_beside(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="directory"):
        write(tmp_path / "taken", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"


def test_a_name_may_be_as_long_as_names_can_be(tmp_path: Path) -> None:
    write(tmp_path / ("x" * 255), "x")


def test_under_a_lock_the_next_process_clears_up_after_a_killed_one(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write(path, "old", locked=True)
    code = f"""
import os, signal
from pathlib import Path
from dmgan_runtime.atomic import replacing
with replacing(Path({str(path)!r}), locked=True) as scratch:
    scratch.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False, timeout=60)
    assert result.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    write(path, "new", locked=True)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
