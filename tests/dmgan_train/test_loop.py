"""The loop that both phases share, with a phase that does nothing."""

import json
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch

from dmgan_runtime.errors import CheckpointError, StoppedError, TrainingError
from dmgan_train import interruption, loop
from dmgan_train.checkpoint import load_checkpoint, save_checkpoint
from dmgan_train.run_folder import RunFolder


class Idle:
    """Data take a quarter of a second, a step one, a checkpoint ten, and looking at pictures a hundred."""

    name, steps, steps_per_epoch, batch_size, checkpoint_every, headlines = "gan", 40, 10, 8, 5, ()

    def __init__(self) -> None:
        self.now = 0.0
        self.looked: list[int] = []
        self.breaks_at: int | None = None

    def batches(self, start_step):
        while True:
            self.now += 0.25
            yield None

    def step(self, batch, step):
        self.now += 1
        return {"loss": torch.tensor(float("nan") if step == self.breaks_at else 1.0)}

    def looks_after(self, done):
        return done % 7 == 0

    def look(self, done, journal):
        self.looked.append(done)
        self.now += 100

    def has_looked(self, done):
        return done in self.looked

    def state(self):
        self.now += 10
        return {"value": 1}

    def load_state(self, state):
        assert state["value"] == 1


@pytest.fixture
def phase(monkeypatch) -> Idle:
    phase = Idle()
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: phase.now))
    return phase


def test_images_a_second_are_those_of_the_steps_alone(phase, tmp_path) -> None:
    run = RunFolder(tmp_path)
    loop.train(phase, run, seed=0)
    entries = [json.loads(line) for line in run.log_file.read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [20, 40]
    assert [entry["images_per_second"] for entry in entries] == [pytest.approx(8 / 1.25)] * 2
    assert [entry["data_wait"] for entry in entries] == [pytest.approx(0.2)] * 2
    assert phase.looked == [7, 14, 21, 28, 35]


@pytest.mark.parametrize("ended", [35, 40])
def test_what_a_killed_run_did_not_look_at_is_looked_at_first(phase, tmp_path, ended) -> None:
    phase.looks_after = lambda done: done % 7 == 0 or done == phase.steps
    look, whole = phase.look, [*range(7, 40, 7), 40]

    def die(done, journal):
        if done == ended:
            raise KeyboardInterrupt
        look(done, journal)

    phase.look = die
    run = RunFolder(tmp_path)
    with pytest.raises(StoppedError):
        loop.train(phase, run, seed=0)
    assert load_checkpoint(run.checkpoint("gan"), "gan")["step"] == ended
    phase.look = look
    for _ in range(2):
        loop.train(phase, run, seed=0)
        assert phase.looked == whole


def test_other_processes_stay_while_the_main_one_looks(phase, tmp_path, monkeypatch) -> None:
    run = RunFolder(tmp_path)
    loop.train(phase, run, seed=0)
    waited, flags = [], iter([False, True])  # all see the same checkpoint; the main process has not looked
    monkeypatch.setattr(loop.distributed, "any_process", lambda _: next(flags))
    monkeypatch.setattr(loop.distributed, "is_main", lambda: False)
    monkeypatch.setattr(loop.distributed, "wait", lambda: waited.append(True))
    phase.looked.clear()
    loop.train(phase, run, seed=0)
    assert waited == [True]
    assert phase.looked == []


def test_nothing_is_looked_at_or_saved_after_a_loss_that_is_no_number(phase, tmp_path) -> None:
    phase.breaks_at = 12
    run = RunFolder(tmp_path)
    with pytest.raises(TrainingError, match="loss is not a number at step 13"):
        loop.train(phase, run, seed=0)
    assert phase.looked == [7]
    assert load_checkpoint(run.checkpoint("gan"), "gan")["step"] == 10


@pytest.mark.parametrize("place", ["load_state", "batches", "step", "state", "look"])
def test_no_memory_is_a_message_wherever_it_is_missed(phase, tmp_path, place) -> None:
    def fail(*_):
        raise torch.OutOfMemoryError

    run = RunFolder(tmp_path)
    save_checkpoint(run.checkpoint("gan"), {"phase": "gan", "step": 3, "value": 1})
    setattr(phase, place, fail)
    with pytest.raises(TrainingError, match=r"out of memory in the phase gan; .*--set gan\.batch_size=.*checkpoint"):
        loop.train(phase, run, seed=0)


@pytest.mark.parametrize("removed", [True, False])
def test_a_folder_that_is_moved_or_removed_stops_the_training_and_is_not_made_again(phase, tmp_path, removed) -> None:
    run, step = RunFolder(tmp_path / "run"), phase.step

    def taken_away(batch, number):
        if number == 12:
            shutil.rmtree(run.root) if removed else run.root.rename(tmp_path / "elsewhere")
        return step(batch, number)

    phase.step = taken_away
    with (
        run.locked(),
        pytest.raises(TrainingError, match=r"moved or removed .* step 13 .* goes on after step 10"),
    ):
        loop.train(phase, run, seed=0)
    assert not run.root.exists()
    if not removed:
        assert load_checkpoint(RunFolder(tmp_path / "elsewhere").checkpoint("gan"), "gan")["step"] == 10


def test_the_first_means_after_a_stop_are_those_of_a_run_that_did_not_stop(phase, tmp_path) -> None:
    def logged(name: str) -> list[float]:
        return [json.loads(line)["loss"] for line in RunFolder(tmp_path / name).log_file.read_text().splitlines()]

    stops: set[int] = set()

    def step(batch, number):
        if number in stops:
            signal.raise_signal(signal.SIGTERM)
        return {"loss": torch.tensor(float(number))}

    phase.step = step
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    loop.train(phase, RunFolder(tmp_path / "whole"), seed=0)
    stops.update((12, 26))
    for _ in range(2):
        with pytest.raises(StoppedError):
            loop.train(phase, RunFolder(tmp_path / "cut"), seed=0)
    loop.train(phase, RunFolder(tmp_path / "cut"), seed=0)
    assert logged("cut") == logged("whole") == [sum(range(20)) / 20, sum(range(20, 40)) / 20]


def test_a_wish_to_stop_is_granted_after_the_step(phase, tmp_path, monkeypatch) -> None:
    step = phase.step

    def asked(batch, number):
        if number == 12:
            for _ in range(2):  # the second comes at once
                signal.raise_signal(signal.SIGTERM)
        return step(batch, number)

    monkeypatch.setattr(phase, "step", asked)
    with pytest.raises(StoppedError, match="stopped after step 13 of gan and saved; the same command goes on") as told:
        loop.train(phase, RunFolder(tmp_path), seed=0)
    assert told.value.number == signal.SIGTERM
    assert load_checkpoint(RunFolder(tmp_path).checkpoint("gan"), "gan")["step"] == 13


def test_a_second_ctrl_c_stops_at_once_and_says_what_was_saved(phase, tmp_path, monkeypatch) -> None:
    now, step = iter([10.0, 12.0]), phase.step
    monkeypatch.setattr(interruption, "time", SimpleNamespace(monotonic=lambda: next(now)))

    def asked(batch, number):
        if number == 12:
            for _ in range(2):  # two seconds apart
                signal.raise_signal(signal.SIGINT)
        return step(batch, number)

    monkeypatch.setattr(phase, "step", asked)
    with pytest.raises(StoppedError, match=r"without saving; .* goes on after step 10 of gan \(step 12 was reached\)"):
        loop.train(phase, RunFolder(tmp_path), seed=0)
    assert load_checkpoint(RunFolder(tmp_path).checkpoint("gan"), "gan")["step"] == 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_between_steps_a_signal_stops_at_once(number) -> None:
    before = signal.getsignal(number)
    with pytest.raises(StoppedError, match="between steps, so nothing is lost") as told, interruption.stops_at_once():
        signal.raise_signal(number)
    assert told.value.number == number
    assert signal.getsignal(number) is before


def test_a_checkpoint_that_lacks_something_is_refused(phase, tmp_path) -> None:
    run = RunFolder(tmp_path)
    save_checkpoint(run.checkpoint("gan"), {"phase": "gan", "step": 5})
    with pytest.raises(CheckpointError, match="has no 'value', so another version of dmgan wrote it; go on with that"):
        loop.train(phase, run, seed=0)
