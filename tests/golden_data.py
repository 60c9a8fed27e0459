"""The golden data: the published network code, run once at a small width with random weights."""

from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent / "golden" / "official-birds-small"
CAPTIONS = ("c0", "c1", "c2", "c3")


def load(name: str) -> dict[str, torch.Tensor]:
    with np.load(FOLDER / name) as archive:
        return {key: torch.from_numpy(np.array(archive[key])) for key in archive if archive[key].dtype.kind in "fi"}
