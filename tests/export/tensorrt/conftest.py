from pathlib import Path

import pytest

from tests.bundles import build_bundle


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A tiny bundle of one's own, which may be changed."""
    return build_bundle(tmp_path / "small")
