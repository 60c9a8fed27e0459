"""The memory's attention and gates, small enough to be sent."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dmgan_runtime import Generation
from dmgan_runtime.viz import encode


def attention_of(generation: Generation) -> dict[str, Any]:
    """What each refinement stage read where.

    Args:
        generation: Generated with `attention=True`.

    Returns:
        By resolution of the stage: `attention`, a map with a square for each word, one under the other (eq. 4);
        `shares`, each word's part of all attention, 1 in total; `writing_gate`, a number from 0 to 1 for each word
        (eq. 7), and `response_gate`, a map (eq. 9), or null where the model has no such gate. A map is a grey `png`,
        whose 255 stands for the map's `largest` value.
    """
    stages = {}
    for resolution, weights in (generation.attention or {}).items():
        gates = (generation.gates or {})[resolution]
        stages[str(resolution)] = {
            "attention": _map(weights.reshape(-1, weights.shape[-1])),
            "shares": [round(float(share), 4) for share in weights.mean(axis=(1, 2))],
            "writing_gate": None if gates.writing is None else [round(float(gate), 4) for gate in gates.writing],
            "response_gate": None if gates.response is None else _map(gates.response),
        }
    return stages


def _map(values: npt.NDArray[np.float32]) -> dict[str, Any]:
    largest = float(values.max())
    levels = np.rint(values * (255 / largest if largest else 0)).astype(np.uint8)
    return {"png": base64.b64encode(encode(Image.fromarray(levels), "PNG")).decode(), "largest": largest}
