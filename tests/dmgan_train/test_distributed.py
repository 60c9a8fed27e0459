"""Two processes with half a batch each do what one does with the whole."""

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dmgan_runtime.errors import SettingsError
from dmgan_train import distributed
from dmgan_train.checkpoint import load_checkpoint
from dmgan_train.run_folder import RunFolder
from tests.dmgan_train import one_of_two, stopped_while_saving
from tests.training import SMALL

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
TOLERANCE = 1e-4  # of losses and gradient norms; sums are rounded in another order


def torchrun(*arguments: object) -> str:
    done = subprocess.run(
        list(map(str, [*TORCHRUN, *arguments])), text=True, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def fit_arguments(images: Path, run: Path) -> list[object]:
    flags = [flag for override in SMALL for flag in ("--set", override)]
    return ["fit", "--preset", "tiny", "--data", images, "--run", run, "--workers", 0, "--device", "cpu", *flags]


@pytest.fixture(scope="module")
def captioned(images, tmp_path_factory) -> Path:
    """The images with captions enough for R-precision, and one that is broken."""
    folder = shutil.copytree(images, tmp_path_factory.mktemp("captioned") / "squares")
    texts = map(" ".join, itertools.permutations(("a", "red", "green", "blue", "square", "white"), 3))
    entries = [
        {"file_name": f"{index}.png", "captions": list(itertools.islice(texts, 9)), "class": index}
        for index in range(12)
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (folder / "4.png").write_bytes(b"broken")
    return folder


@pytest.fixture(scope="module")
def two(run, images, captioned, tmp_path_factory) -> list[dict[str, dict[str, float]]]:
    """What each of two processes has measured."""
    out = tmp_path_factory.mktemp("two")
    torchrun("-m", "--", one_of_two.__name__, run.root, images, captioned, out)
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(run, images) -> dict[str, dict[str, float]]:
    """What one process measures."""
    return one_of_two.measure(run, images)


@pytest.mark.parametrize("case", one_of_two.CASES)
def test_losses_and_gradients_are_those_of_one_process(two, alone, case) -> None:
    expected = {name: value for name, value in alone[case].items() if name != "state"}
    actual = {name: value for name, value in two[0][case].items() if name != "state"}
    assert actual == pytest.approx(expected, rel=TOLERANCE, abs=1e-6)


@pytest.mark.parametrize("case", one_of_two.CASES)
def test_both_hold_the_same_weights_and_buffers(two, case) -> None:
    assert two[0][case]["state"] == two[1][case]["state"]


def test_the_average_has_the_statistics_of_one_process(two, alone) -> None:
    assert two[0]["settled"] == pytest.approx(alone["settled"], rel=1e-3, abs=1e-4)


def test_evaluation_finds_what_one_process_finds(two, run, captioned) -> None:
    alone = one_of_two.evaluated(run, captioned)
    assert set(alone) == {"fid", "is", "r_precision", "diversity", "retrieval"}
    assert two[0]["evaluate"] == two[1]["evaluate"]
    for name, expected in alone.items():
        found = two[0]["evaluate"][name]
        assert found["value"] == pytest.approx(expected["value"], rel=1e-5, abs=1e-7)
        assert found["references"] == pytest.approx(expected["references"], rel=1e-5, abs=1e-7)
        assert found["protocol"] == expected["protocol"]


def test_parts_are_worked_on_in_order() -> None:
    assert list(distributed.in_turns(range(3), lambda part: part * part)) == [0, 1, 4]


def test_a_wish_to_stop_reaches_every_process(two) -> None:
    assert [measured["stop"] for measured in two] == [True, True]


def test_fit_under_torchrun_leaves_one_run(images, tmp_path) -> None:
    said = torchrun("-m", "--", "dmgan_train", *fit_arguments(images, tmp_path / "run"))
    assert said.count("Trained. Next") == said.count("gan: 4/4") == 1
    run = RunFolder(tmp_path / "run")
    assert load_checkpoint(run.checkpoint("gan"), "gan")["step"] == 4
    entries = [json.loads(line) for line in run.log_file.read_text().splitlines()]
    assert [(entry["phase"], entry["step"]) for entry in entries] == [("damsm", 4), ("gan", 4)]


def test_a_stop_under_torchrun_is_saved(images, tmp_path) -> None:
    """The main process saves slowly; the other has nothing to save and must not leave, or torchrun ends both."""
    run = RunFolder(tmp_path / "run")
    fit = [*TORCHRUN, "-m", "--", stopped_while_saving.__name__, *fit_arguments(images, run.root)]
    done = subprocess.run(list(map(str, fit)), text=True, capture_output=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "stopped after step 2 of gan and saved" in done.stderr
    assert load_checkpoint(run.checkpoint("gan"), "gan")["step"] == 2


def test_a_process_alone_has_everything() -> None:
    rows = torch.arange(6.0).view(3, 2)
    assert distributed.share_of(6, "gan.batch_size") == range(6)
    for function in (distributed.share, distributed.gather, distributed.total, distributed.mean_of):
        assert torch.equal(function(rows), rows)


def test_an_uneven_share_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(distributed, "count", lambda: 4)
    with pytest.raises(SettingsError, match=r"gan.batch_size is 10, which 4 processes .* multiple of 4, at least 8"):
        distributed.share_of(10, "gan.batch_size")
    with pytest.raises(SettingsError, match="at least 8"):
        distributed.share_of(4, "gan.batch_size")
