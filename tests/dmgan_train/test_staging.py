"""Whole or not at all, and one process at a time."""

import os
import signal
import subprocess
import sys

import pytest

from dmgan_runtime.errors import BundleError
from dmgan_train.staging import move_into_place, staging_folder


def make(destination, content="x") -> None:
    with staging_folder(destination) as folder:
        (folder / "file").write_text(content)
        move_into_place(folder / "file", destination)


def test_only_what_is_finished_stays(tmp_path) -> None:
    make(tmp_path / "deep" / "down" / "b")
    assert [path.name for path in (tmp_path / "deep" / "down").iterdir()] == ["b"]


def test_a_failure_leaves_no_folder_that_was_not_there(tmp_path) -> None:
    (tmp_path / "old").mkdir()

    def fail() -> None:
        with staging_folder(tmp_path / "old" / "new" / "deep" / "b") as folder:
            (folder / "half").write_text("x")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]


def test_two_do_not_meet(tmp_path) -> None:
    with staging_folder(tmp_path / "b") as folder:
        (folder / "file").write_text("first")
        with pytest.raises(BundleError, match="another process is making it; wait for that"):
            make(tmp_path / "b", "second")
        move_into_place(folder / "file", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("other", ["file", "folder"])
def test_what_came_meanwhile_is_left_as_it_is(tmp_path, other) -> None:
    destination = tmp_path / "b"
    with staging_folder(destination) as folder:
        (folder / "file").write_text("ours")
        if other == "file":
            destination.write_text("theirs")
        else:
            destination.mkdir()
        with pytest.raises(BundleError, match="came into being meanwhile"):
            move_into_place(folder / "file", destination)
    assert destination.is_dir() or destination.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [destination]


def test_what_a_killed_process_left_is_cleared_away(tmp_path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from dmgan_train.staging import staging_folder
with staging_folder(Path({str(tmp_path / "b")!r})) as folder:
    (folder / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False, timeout=60)
    assert result.returncode == -signal.SIGKILL
    assert not (tmp_path / "b").exists()
    make(tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
