from pathlib import Path

import pytest

from dmgan_train.run import RunFolder
from tests.training import train_small, write_images


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small image folder."""
    return write_images(tmp_path_factory.mktemp("data") / "squares")


@pytest.fixture(scope="session")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that was trained for a few steps; do not change it."""
    return train_small(images, tmp_path_factory.mktemp("runs") / "squares")
