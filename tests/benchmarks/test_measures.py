"""Each measure, from contenders to a result; what it measures is not looked at, only that all of it is there."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import lineup as lineup_module
from benchmarks import memory as memory_module
from benchmarks import outputs as outputs_module
from benchmarks.building import random_captions, random_model
from benchmarks.cli import main
from benchmarks.contenders import REFERENCE, candidates, select
from benchmarks.environment import describe_environment
from benchmarks.floor import MachineRates
from benchmarks.latency import measure_latency
from benchmarks.lineup import END_TO_END, Lineup, open_lineup
from benchmarks.memory import measure_memory
from benchmarks.outputs import measure_outputs
from benchmarks.rates import measure_rates
from benchmarks.results import read_result
from benchmarks.samplers import open_sampler
from benchmarks.size import measure_size
from benchmarks.startup import measure_startup, start
from benchmarks.throughput import measure_throughput
from benchmarks.timed_sampler import peak_memory
from benchmarks.turns import Limits
from benchmarks.worker import call_in_worker
from dmgan_runtime.backends.registry import ENGINES
from dmgan_runtime.bundle import packaged_bundle
from dmgan_runtime.errors import EngineError

SERVED = "onnxruntime-fp32"
ONCE = Limits(rounds=2, seconds=100, least=1)
RATES = MachineRates(operations_per_s={"fp32": 1e11}, bytes_per_s=1e10)


class Here:
    """A worker without a process."""

    def __init__(self, factory, *arguments) -> None:
        self._target = factory(*arguments)

    def call(self, method, *arguments):
        return getattr(self._target, method)(*arguments)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None: ...


@pytest.fixture
def contenders():
    return select(candidates("cpu", 1), [SERVED, "openvino-bf16"])


@pytest.fixture
def at_hand(monkeypatch, contenders):
    """No processes, and rates that need no measuring."""
    for module in (lineup_module, memory_module, outputs_module):
        monkeypatch.setattr(module, "Worker", Here)
    monkeypatch.setattr("benchmarks.lineup.call_in_worker", lambda *_: RATES)
    return describe_environment("cpu"), contenders


def test_latency_measures_everybody_end_to_end_and_by_graph(subject, at_hand) -> None:
    environment, contenders = at_hand
    results = []
    result = measure_latency(environment, subject, contenders, [1, 3], ONCE, results.append)
    assert [{series.batch for series in each.series} for each in results] == [{1}, {1, 3}]
    assert [entry.name for entry in result.entries][:2] == [REFERENCE, SERVED]
    for batch in (1, 3):
        for name in (REFERENCE, SERVED):
            for measure in (END_TO_END, *subject.spec.roles):
                series = result.find(name, measure, batch)
                assert series is not None
                assert len(series.samples) == 2 * series.per_turn
                assert series.floor is not None
                assert series.floor.seconds > 0
    assert result.subject.manifest_sha256


def test_the_rewritten_graphs_have_a_lower_floor(subject, at_hand) -> None:
    _, contenders = at_hand
    with open_lineup(subject, contenders) as lineup:
        floors = [lineup.floors(name, 4, RATES)["generator_2"] for name in (REFERENCE, SERVED)]
    assert floors[0] is not None
    assert floors[1] is not None
    assert floors[1].operations_s < 0.8 * floors[0].operations_s


def test_images_are_compared_with_pytorchs(subject, at_hand) -> None:
    _, contenders = at_hand
    with open_lineup(subject, contenders) as lineup:
        served = lineup.entries[1]
    assert served.psnr_db is None or served.psnr_db > 100


def test_who_cannot_be_had_is_named_with_the_reason(subject, at_hand, monkeypatch) -> None:
    environment, contenders = at_hand
    lacking = subject.__replace__(lacks={"bf16": "these weights cannot"})
    result = measure_latency(environment, lacking, contenders, [1], ONCE)
    assert [(absence.contender, absence.reason) for absence in result.absences] == [
        ("openvino-bf16", "these weights cannot")
    ]


def test_a_reason_does_not_say_where_the_bundle_lay(subject, monkeypatch) -> None:
    bundle = Path(subject.bundle)
    monkeypatch.chdir(bundle.parent)
    lineup = Lineup(subject.__replace__(bundle=bundle.name))
    lineup.note("served", f"{bundle.resolve()}: no such graph; see {bundle.name}/model", None)
    assert lineup.absences[0].reason == f"{bundle.name}: no such graph; see {bundle.name}/model"


def test_who_dies_in_its_turn_is_named_once_and_leaves_no_empty_series(subject, at_hand, monkeypatch) -> None:
    environment, contenders = at_hand

    class Mortal(Here):
        dead = False

        def call(self, method, *arguments):
            served = type(self._target._sampler).__name__ == "RuntimeSampler"
            if served and (method == "time" or self.dead):
                self.dead = True
                raise EngineError("its process ended with exit code -9")
            return super().call(method, *arguments)

    monkeypatch.setattr(lineup_module, "Worker", Mortal)
    result = measure_latency(environment, subject, contenders[:2], [2], ONCE)
    assert {series.contender for series in result.series} == {REFERENCE}
    assert [(absence.contender, absence.batch) for absence in result.absences] == [(SERVED, 2)]


def test_other_images_are_no_contest(subject, at_hand, monkeypatch) -> None:
    _, contenders = at_hand

    class Wrong(Here):
        def call(self, method, *arguments):
            value = super().call(method, *arguments)
            served = type(self._target._sampler).__name__ == "RuntimeSampler"
            return -value if method == "synthesize" and served else value

    monkeypatch.setattr(lineup_module, "Worker", Wrong)
    with open_lineup(subject, contenders[:2]) as lineup:
        assert list(lineup.workers) == [REFERENCE]
    assert "makes other images than PyTorch" in lineup.absences[0].reason


def test_one_that_fails_at_a_batch_size_is_left_out_there(subject, at_hand, monkeypatch) -> None:
    environment, contenders = at_hand

    class Small(Here):
        def call(self, method, *arguments):
            served = type(self._target._sampler).__name__ == "RuntimeSampler"
            if served and method == "warm_up" and len(arguments[0]) > 2:
                raise EngineError("no memory")
            return super().call(method, *arguments)

    monkeypatch.setattr(lineup_module, "Worker", Small)
    result = measure_latency(environment, subject, contenders[:2], [1, 3], ONCE)
    assert result.find(SERVED, END_TO_END, 1) is not None
    assert result.find(SERVED, END_TO_END, 3) is None
    assert [(absence.contender, absence.batch) for absence in result.absences] == [(SERVED, 3)]


def test_throughput_counts_the_images_of_all_clients(subject, at_hand) -> None:
    environment, contenders = at_hand
    result = measure_throughput(environment, subject, contenders, [2], [1, 3], 0.01, ONCE)
    for clients in (1, 3):
        series = result.find(SERVED, "images_per_second", 2, clients)
        assert series is not None
        assert min(series.samples) > 0


def test_memory_and_size_are_bytes_of_everybody(subject, at_hand) -> None:
    environment, contenders = at_hand
    peak = measure_memory(environment, subject, contenders, [1], ONCE).find(SERVED, "peak_memory", 1)
    assert peak is not None
    assert min(peak.samples) > 10**7
    size = measure_size(environment, subject, contenders)
    model, installed = size.find(SERVED, "model"), size.find(SERVED, "installed")
    assert model is not None
    assert installed is not None
    assert 10**4 < model.samples[0] < 10**7 < installed.samples[0]


def test_every_engine_is_timed_with_and_without_what_is_beside_the_images(at_hand) -> None:
    environment, _ = at_hand
    result = measure_outputs(environment, packaged_bundle(), [1, 3], "cpu", 1, ONCE)
    assert {entry.name for entry in result.entries} >= {"onnxruntime", "openvino"}
    for entry in result.entries:
        for batch in (1, 3):
            images, everything = (result.find(entry.name, measure, batch) for measure in ("images", "everything"))
            assert images is not None
            assert everything is not None
            assert len(images.samples) == len(everything.samples) == 2 * images.per_turn
    names = {entry.name for entry in result.entries} | {absence.contender for absence in result.absences}
    assert names == {engine.backend for engine in ENGINES if engine.device == "cpu"}


def test_outputs_of_no_bundle_are_refused(tmp_path) -> None:
    result = CliRunner().invoke(main, ["outputs", str(tmp_path), "--device", "cpu"])
    assert result.exit_code == 2
    assert "pass a whole bundle" in result.output


def test_the_memory_of_a_worker_is_its_own() -> None:
    ballast = np.ones(2**26)
    assert call_in_worker(peak_memory) < peak_memory() - ballast.nbytes / 2


def test_startup_starts_a_process_each_time(subject, at_hand) -> None:
    environment, contenders = at_hand
    result = measure_startup(environment, subject, contenders[:2], Limits(rounds=1, seconds=0, least=1))
    assert {series.contender for series in result.series} == {REFERENCE, SERVED}


def test_a_process_that_fails_says_why(subject, contenders, tmp_path) -> None:
    broken = subject.__replace__(bundle=str(tmp_path))
    with pytest.raises(EngineError, match=r"the process failed: .*BundleError: .*missing"):
        start(broken, contenders[1], tmp_path / "first.png")


def test_rates_are_measured_where_they_can_be(monkeypatch) -> None:
    monkeypatch.setattr("benchmarks.rates._SIDE", {"cpu": 64})
    monkeypatch.setattr("benchmarks.rates._COPIED_BYTES", {"cpu": 2**16})
    rates = measure_rates("cpu", 1, ["fp32", "int8", "fp16", "fp32"])
    assert rates.operations_per_s.keys() == {"fp32", "int8"}
    assert min(*rates.operations_per_s.values(), rates.bytes_per_s) > 10**6


def test_the_command_measures_in_processes_of_their_own(subject, run, bundle, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("benchmarks.options.prepare_subject", lambda *_: subject)
    monkeypatch.setattr("benchmarks.lineup.call_in_worker", lambda *_: RATES)
    output = tmp_path / "latency.json"
    arguments = ["latency", "--run", str(run.root), "--bundle", str(bundle), "--device", "cpu", "--threads", "1"]
    arguments += ["--only", SERVED, "--batches", "1", "--rounds", "1", "--cache", str(tmp_path / "cache")]
    result = CliRunner().invoke(main, [*arguments, "-o", str(output)])
    assert result.exit_code == 0, result.output
    read = read_result(output)
    assert read.find(SERVED, END_TO_END, 1) is not None
    assert read.rates == RATES


def test_random_weights_have_the_signals_of_trained_ones() -> None:
    model = random_model("tiny")
    with torch.inference_mode():
        text = model.text_encoder(torch.ones(2, 20, dtype=torch.int64), torch.tensor([20, 3]))
        spec = model.generator.spec
        noise = torch.randn(2, spec.noise_features), torch.randn(2, spec.condition_features)
        images = model.generator(text.sentence, text.words, torch.tensor([20, 3]), *noise).images
    assert all(0.2 < image.std() < 0.9 for image in images)


def test_random_captions_are_of_many_lengths_and_known_words() -> None:
    captions = random_captions(18)
    assert {len(caption.split()) for caption in captions} == set(range(6, 19))
    tokenizer = random_model("tiny").tokenizer
    assert not any(tokenizer.encode(caption, 18).unknown for caption in captions)


def test_samplers_make_the_same_pictures(subject, contenders) -> None:
    captions = subject.take_captions(3)
    pictures = [open_sampler(subject, contender).generate(captions) for contender in contenders[:2]]
    for ours, theirs in zip(*pictures, strict=True):
        difference = np.asarray(ours, dtype=int) - np.asarray(theirs, dtype=int)
        assert np.abs(difference).max() <= 1
