"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LEFT_BEHIND_SECONDS = 3600


@contextmanager
def replacing(path: Path, *, durable: bool = False, locked: bool = False) -> Iterator[Path]:
    """Writes a file beside its destination, and moves it there at the end of the block.

    Whoever reads `path` finds the old file, or none, until the new one is complete; if the block fails, or the process
    is killed, that does not change.

        with replacing(path) as scratch:
            scratch.write_bytes(content)

    Args:
        path: The destination. Its folder is made; a file of that name is replaced.
        durable: Whether the content must reach the disk first, so that a power cut leaves the old file or the new one.
        locked: Whether the caller holds a lock under which it alone writes `path`. The scratch file then has a fixed
            name, and what a killed process left is overwritten by the next.

    Yields:
        The path to write to, in the same folder.

    Raises:
        OSError: if the folder cannot be made or the file cannot be moved; a file at `path` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not made of the destination's name where it need not be: that may be as long as names can be.
    scratch = path.with_name(f".{path.name}.tmp" if locked else f".dmgan-{secrets.token_hex(8)}.tmp")
    try:
        yield scratch
        if durable:
            with scratch.open("rb+") as stream:
                os.fsync(stream.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def clear_scratch(folder: Path) -> None:
    """Removes the scratch files of `replacing` that killed processes have left: those that nobody wrote to for an hour.

    Args:
        folder: Where files are going to be written; it need not exist.
    """
    for scratch in folder.glob(".dmgan-*.tmp"):
        with suppress(OSError):  # another process was faster, or it is somebody else's
            if time.time() - scratch.stat().st_mtime > _LEFT_BEHIND_SECONDS:
                scratch.unlink()
