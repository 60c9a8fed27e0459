"""Files that are missing or broken: a few are told of and left out, many are an error."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from dmgan_runtime.errors import DataError
from dmgan_train.data.examples import Split

_NAMED = 10
_log = logging.getLogger(__name__)


class BrokenFiles:
    """Collects the files of a split that cannot be used, and stops the work when they are too many."""

    def __init__(self, split: Split, limit: int | None = None) -> None:
        """Args:
        split: The split that the files belong to.
        limit: How many broken files are put up with; by default 1% of the split, at least 10.
        """
        self.split = split
        self.limit = max(10, len(split) // 100) if limit is None else limit
        self._found: dict[str, None] = {}

    @property
    def found(self) -> tuple[str, ...]:
        """`<file>: <reason>` of each broken file, once, in the order they were met."""
        return tuple(self._found)

    def add(self, broken: Iterable[str]) -> None:
        """Takes note of broken files and logs each that is new.

        Args:
            broken: `<file>: <reason>` of each.

        Raises:
            DataError: if there are now more than the limit.
        """
        for reason in broken:
            if reason not in self._found:
                self._found[reason] = None
                _log.warning("%s; another example takes its place", reason)
        if len(self._found) > self.limit:
            raise _too_many(self.split, self.found, self.limit)


def check_files(split: Split, limit: int | None = None) -> None:
    """Looks whether the pictures of a split are there, without opening them, before any time goes into training.

    Missing files up to the limit are logged.

    Args:
        split: The split.
        limit: How many missing files are put up with; by default 1% of the split, at least 10.

    Raises:
        DataError: if more are missing, or all.
    """
    missing = [f"{example.image}: there is no such file" for example in split.examples if not example.image.is_file()]
    if len(missing) == len(split):
        raise _too_many(split, missing, 0)
    BrokenFiles(split, limit).add(missing)


def _too_many(split: Split, broken: Iterable[str], limit: int) -> DataError:
    reasons = list(broken)
    more = f"\n  and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
    return DataError(
        f"{split.root}: {len(reasons)} of the {len(split)} pictures of the split {split.name!r} cannot be used"
        f" (at most {limit} may be); mend or remove them:\n  " + "\n  ".join(reasons[:_NAMED]) + more
    )
