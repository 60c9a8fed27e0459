from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch

from benchmarks.building import MODEL_NAME, build_model
from benchmarks.contender import BenchmarkModel
from benchmarks.machine import measure_others
from dmgan_train.run_folder import RunFolder


@pytest.fixture(scope="session")
def model(run: RunFolder, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> BenchmarkModel:
    """The small run and its bundle, ready to be measured."""
    folder = tmp_path_factory.mktemp("model") / "squares"
    build_model("squares", run.root, bundle, folder, "cpu")
    return msgspec.json.decode((folder / MODEL_NAME).read_bytes(), type=BenchmarkModel)


@pytest.fixture(scope="session", autouse=True)
def _short_looks_at_others() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_others, "__defaults__", (0.05,))
        yield


@pytest.fixture(scope="module", autouse=True)
def _threads_as_before(run: RunFolder) -> Iterator[None]:
    """Measuring sets PyTorch's threads, and with another number of them a run is another, bit for bit."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
