"""The loop that both phases share, with a phase that does nothing."""

import itertools
import json
from types import SimpleNamespace

import pytest
import torch

from dmgan_train import loop
from dmgan_train.run import RunFolder


class Idle:
    """A step takes a second, a checkpoint ten, and looking at pictures a hundred."""

    name, steps, steps_per_epoch, batch_size, checkpoint_every, headlines = "gan", 40, 10, 8, 5, ()

    def __init__(self) -> None:
        self.now = 0.0

    def batches(self, start_step):
        return itertools.repeat(None)

    def step(self, batch, step):
        self.now += 1
        return {"loss": torch.tensor(1.0)}

    def after_step(self, done, journal):
        self.now += 100 * (done % 7 == 0)

    def state(self):
        self.now += 10
        return {}


def test_images_a_second_are_those_of_the_steps_alone(tmp_path, monkeypatch) -> None:
    phase = Idle()
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: phase.now))
    run = RunFolder(tmp_path)
    loop.train(phase, run, seed=0)
    entries = [json.loads(line) for line in run.log_file.read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [20, 40]
    assert [entry["images_per_second"] for entry in entries] == [pytest.approx(8)] * 2
