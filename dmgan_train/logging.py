"""Logging: a run's journal, JSON lines for programs and TensorBoard for people."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from dmgan_train.run_folder import RunFolder, write_whole

_log = logging.getLogger(__name__)


class Journal:
    """The log of one phase of a run; entries after the step that it starts from are dropped."""

    def __init__(self, run: RunFolder, phase: str, start_step: int) -> None:
        self._phase = phase
        self._path = run.log_file
        self._drop_from(run, start_step)
        self._stream = self._path.open("a", encoding="utf-8")
        self._writer = SummaryWriter(str(run.tensorboard / phase), purge_step=start_step + 1)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._writer.close()

    def record(self, step: int, values: Mapping[str, float], **more: Any) -> None:
        """Writes the scalars of a step.

        Args:
            step: Steps of this phase that are done.
            values: Name to value; each becomes a TensorBoard scalar.
            more: What else the JSON line holds.
        """
        line = {"phase": self._phase, "step": step, **more, **values}
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()
        for name, value in values.items():
            self._writer.add_scalar(f"{self._phase}/{name}", value, step)

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        """Shows a picture of a step in TensorBoard."""
        self._writer.add_image(f"{self._phase}/{name}", np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def _drop_from(self, run: RunFolder, step: int) -> None:
        """A killed run has logged steps after its last checkpoint; they are about to be done again."""
        kept, odd = [], []
        for number, line, entry in run.log_entries():
            if entry is None:
                odd.append(number)
            elif entry["phase"] != self._phase or entry["step"] <= step:
                kept.append(line)
        if odd and odd[0] != number:  # a kill may cut off the last line
            _log.warning(
                "%s: %d lines are no entries and are dropped, the first is line %d", self._path, len(odd), odd[0]
            )
        if self._path.exists():
            write_whole(self._path, "".join(line + "\n" for line in kept).encode())
