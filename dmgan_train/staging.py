"""Makes folders and archives that take minutes: beside their destination, under a lock, moved there when complete.

`dmgan_runtime.atomic` replaces single files. Here nothing is ever replaced, and of two processes one is refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dmgan_runtime.errors import BundleError, DmganError


@contextmanager
def staging_folder(destination: Path, refusal: type[DmganError] = BundleError) -> Iterator[Path]:
    """Makes a new folder beside `destination` that no other process writes to, and removes it afterwards.

    Folders above that had to be made are removed too, unless something lies in them by then.

    Args:
        destination: What will be made. Check again whether it exists: another process may have made it before this one
            had the lock.
        refusal: The error for what is being made by another process.

    Raises:
        BundleError: or whatever `refusal` is, if another process is making it.
    """
    made = [folder for folder in destination.parents if not folder.exists()]
    scratch = destination.with_name(f".{destination.name}.partial")
    scratch.mkdir(parents=True, exist_ok=True)
    # The lock ends with the process, so what a killed one left is removed by the next.
    lock = FileLock(scratch / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise refusal(f"{destination}: another process is making it; wait for that") from error
    try:
        folder = scratch / "work"
        shutil.rmtree(folder, ignore_errors=True)
        # Fails if the lock's last owner removed the scratch folder just now: then the lock is worth nothing.
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        lock.release()
        with suppress(OSError):  # not empty: the destination was made, or something else came meanwhile
            for folder in made:
                folder.rmdir()


def move_into_place(finished: Path, destination: Path) -> None:
    """Moves a complete file or folder out of a staging folder to its destination, where it appears at once.

    Raises:
        BundleError: if something came there meanwhile.
    """
    if destination.exists():
        raise BundleError(f"{destination}: came into being meanwhile, and is left as it is; choose another name")
    finished.replace(destination)
