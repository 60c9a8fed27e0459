from __future__ import annotations

import pytest

from dmgan_runtime.backends.base import choose
from dmgan_runtime.errors import BackendError


def test_auto_takes_the_best() -> None:
    assert choose("device", "auto", ["cuda", "cpu"], "here") == "cuda"


def test_what_was_asked_for_is_taken() -> None:
    assert choose("device", "cpu", ["cuda", "cpu"], "here") == "cpu"


@pytest.mark.parametrize("asked", ["tpu", "", "CPU"])
def test_what_cannot_be_had_never_becomes_another(asked: str) -> None:
    message = (
        f"device '{asked}' is not available: here offers cuda, cpu; pass device='cuda' or device='cpu' or device='auto'"
    )
    with pytest.raises(BackendError, match=message):
        choose("device", asked, ["cuda", "cpu"], "here")
