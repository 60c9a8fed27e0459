"""Pictures and captions that cannot be used: a few are told of and left out, many are an error."""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from dmgan_runtime.errors import DataError, printable, shortened
from dmgan_train.data.examples import Split

_NAMED = 10
_log = logging.getLogger(__name__)


class BrokenFiles:
    """Collects what cannot be used of a split, and stops the work when it is too much."""

    def __init__(self, split: Split, limit: int | None = None) -> None:
        """Args:
        split: The split. What was left out when it was read counts already.
        limit: How many broken pictures and captions are put up with; by default 1% of the split, at least 10.
        """
        self.split = split
        self.limit = max(10, len(split) // 100) if limit is None else limit
        self._found: dict[str, None] = dict.fromkeys(split.left_out)

    @property
    def found(self) -> tuple[str, ...]:
        """`<place>: <reason>` of each picture and caption, once, in the order they were met."""
        return tuple(self._found)

    def add(self, broken: Iterable[str]) -> None:
        """Takes note of broken files and logs each that is new.

        Args:
            broken: `<file>: <reason>` of each.

        Raises:
            DataError: if there are now more than the limit.
        """
        new = [reason for reason in dict.fromkeys(broken) if reason not in self._found]
        self._found.update(dict.fromkeys(new))
        if len(self._found) > self.limit:
            raise DataError(
                f"{self.split.root}: {len(self._found):,} of the pictures and captions of the split"
                f" {self.split.name!r} ({len(self.split):,} pictures) cannot be used (at most {self.limit:,} may be,"
                f" see data.broken_limit); mend or remove them:{listed(self.found)}"
            )
        for reason in new:
            _log.warning("%s; it is passed over", printable(reason))


def check_files(split: Split, limit: int | None = None) -> frozenset[str]:
    """Looks whether the pictures of a split are there, without opening them, before any time goes into training.

    Up to the limit, missing and empty files and what was left out when the split was read are logged.

    Args:
        split: The split.
        limit: How many broken pictures and captions are put up with; by default 1% of the split, at least 10.

    Returns:
        The keys of those that are missing or empty.

    Raises:
        DataError: if there are more, or all pictures are missing or empty.
    """
    faults = {example.key: fault for example in split.examples if (fault := _fault(example.image))}
    if len(faults) == len(split):
        reasons = listed(list(faults.values()))
        raise DataError(
            f"{split.root}: none of the {len(split):,} pictures of the split {split.name!r} can be read:{reasons}"
        )
    check_left_out(split, limit)
    BrokenFiles(split, limit).add(faults.values())
    return frozenset(faults)


def check_left_out(split: Split, limit: int | None = None) -> None:
    """Logs what was left out when a split was read.

    Args:
        split: The split.
        limit: As in `check_files`.

    Raises:
        DataError: if it is more than the limit.
    """
    BrokenFiles(split, limit).add(())
    for reason in split.left_out:
        _log.warning("%s; left out", printable(reason))


def listed(reasons: Sequence[str]) -> str:
    """The first ten reasons, each on a line of its own, and how many more there are."""
    more = f"\n  and {len(reasons) - _NAMED:,} more" if len(reasons) > _NAMED else ""
    return "".join(f"\n  {reason}" for reason in reasons[:_NAMED]) + more


def _fault(path: Path) -> str | None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return f"{shortened(path)}: there is no such file"
    except OSError as error:  # such as a name that is too long
        return f"{shortened(path)}: cannot be read ({error.strerror})"
    if not stat.S_ISREG(found.st_mode):
        return f"{shortened(path)}: there is no such file"
    return None if found.st_size else f"{shortened(path)}: is empty (0 bytes)"
