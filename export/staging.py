"""Writing whole or not at all: beside the destination, under a lock, and moved there when it is done."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dmgan_runtime.errors import BundleError


@contextmanager
def workshop(destination: Path) -> Iterator[Path]:
    """A new folder beside `destination` that no other process writes to; it is gone afterwards.

    Folders above that had to be made are gone afterwards too, unless something lies in them by then.

    Args:
        destination: What will be made. Look again whether it exists: another process may have made it until the lock
            was had.

    Raises:
        BundleError: if another process is making it.
    """
    made = [folder for folder in destination.parents if not folder.exists()]
    scratch = destination.with_name(f".{destination.name}.partial")
    scratch.mkdir(parents=True, exist_ok=True)
    # The lock ends with the process, so what a killed one left is cleared away by the next.
    lock = FileLock(scratch / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BundleError(f"{destination}: another process is making it; wait for that") from error
    try:
        folder = scratch / "work"
        shutil.rmtree(folder, ignore_errors=True)
        # Fails if the lock's last owner cleared the scratch folder away just now: then the lock is worth nothing.
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        lock.release()
        with suppress(OSError):  # not empty: it was made, or another came meanwhile
            for folder in made:
                folder.rmdir()


def put_in_place(finished: Path, destination: Path) -> None:
    """Moves a finished file or folder of a workshop to its destination, which appears at once and whole.

    Raises:
        BundleError: if something came there meanwhile.
    """
    if destination.exists():
        raise BundleError(f"{destination}: came into being meanwhile, and is left as it is; choose another name")
    finished.replace(destination)
