import os
import resource
import shutil

import pytest
import torch

from dmgan_runtime.errors import CheckpointError, TrainingError
from dmgan_train.checkpoint import load_checkpoint, load_encoders, load_model, save_checkpoint
from dmgan_train.run_folder import RunFolder


def test_what_was_saved_is_loaded(tmp_path) -> None:
    path = tmp_path / "deep" / "checkpoint.pt"
    save_checkpoint(path, {"phase": "gan", "step": 3, "weights": {"w": torch.arange(3)}})
    state = load_checkpoint(path, "gan")
    assert state["step"] == 3
    assert torch.equal(state["weights"]["w"], torch.arange(3))
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("before", [True, False])
def test_a_full_disk_is_named_and_leaves_the_checkpoint_before_it(tmp_path, before) -> None:
    """A file that may not grow is refused by the system in the middle of writing, as on a full disk."""
    path = tmp_path / "checkpoint.pt"
    if before:
        save_checkpoint(path, {"phase": "gan", "step": 1})
    kept = "; the one of step 1 is kept" if before else ""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(TrainingError, match=rf"could not be saved \(.* MB for it\){kept}\. Make room"):
            save_checkpoint(path, {"phase": "gan", "step": 2, "weights": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    if not before:
        assert list(tmp_path.iterdir()) == []
        return
    assert load_checkpoint(path, "gan")["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("keep", [0, 10, 500])
def test_a_damaged_checkpoint_is_named_with_the_remedy(tmp_path, keep) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"phase": "gan", "step": 1, "w": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: the checkpoint is damaged .* remove it"):
        load_checkpoint(path, "gan")


def test_a_missing_checkpoint_says_what_to_run(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="dmgan_train fit"):
        load_checkpoint(tmp_path / "none.pt", "gan")


def test_a_checkpoint_of_another_phase_is_refused(tmp_path) -> None:
    save_checkpoint(tmp_path / "c.pt", {"phase": "damsm", "step": 1})
    with pytest.raises(CheckpointError, match="not a checkpoint of the phase 'gan'"):
        load_checkpoint(tmp_path / "c.pt", "gan")


@pytest.mark.parametrize("step", ["three", None, True, -1, 1.5, float("nan"), 2**60, [1]])
def test_a_step_that_is_no_whole_number_is_named(tmp_path, step) -> None:
    save_checkpoint(tmp_path / "c.pt", {"phase": "gan", "step": step})
    with pytest.raises(CheckpointError, match=r"c\.pt: its step is .*, where a whole number is"):
        load_checkpoint(tmp_path / "c.pt", "gan")


@pytest.mark.parametrize(
    ("phase", "name", "value"),
    [
        ("damsm", "text_encoder", None),
        ("damsm", "text_encoder", [1]),
        ("damsm", "image_encoder", {1: torch.zeros(1)}),
        ("damsm", "text_encoder", {"embedding.weight": 3}),
        ("damsm", "text_encoder", {"embedding.weight": torch.zeros(())}),
        ("gan", "generator_ema", None),
        ("gan", "generator_ema", {"module.x": torch.zeros(1)}),
        ("gan", "text_encoder_sha256", torch.zeros(1)),
    ],
)
def test_weights_that_are_none_are_a_message(run, tmp_path, phase, name, value) -> None:
    folder = RunFolder(shutil.copytree(run.root, tmp_path / "run"))
    path = folder.checkpoint(phase)
    save_checkpoint(path, {**load_checkpoint(path, phase), name: value})
    with pytest.raises(CheckpointError):
        (load_model(folder), load_encoders(folder))


def test_a_checkpoint_that_would_run_code_runs_none(tmp_path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"phase": "gan", "evil": Evil()}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(tmp_path / "c.pt", "gan")
    assert not (tmp_path / "ran").exists()
