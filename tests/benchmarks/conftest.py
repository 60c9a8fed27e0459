from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch

from benchmarks.building import build_subject
from benchmarks.subject import SUBJECT_NAME, Subject, SubjectSource
from dmgan_train.run_folder import RunFolder


@pytest.fixture(scope="session")
def subject(run: RunFolder, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """The small run and its bundle, ready to be measured."""
    folder = tmp_path_factory.mktemp("subject") / "squares"
    build_subject(SubjectSource(preset="tiny", run=str(run.root), bundle=str(bundle)), folder, "cpu")
    return msgspec.json.decode((folder / SUBJECT_NAME).read_bytes(), type=Subject)


@pytest.fixture(scope="module", autouse=True)
def _threads_as_before(run: RunFolder) -> Iterator[None]:
    """Measuring sets PyTorch's threads, and with another number of them a run is another, bit for bit."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
