"""Every engine is timed with and without what is beside the images."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from benchmarks.contender import BundleFolder
from benchmarks.report import render
from benchmarks.results import read_result
from benchmarks.turns import Calls
from dmgan_runtime.bundle import packaged_bundle
from scripts.outputs import Fetcher, FetchingEngine, main


class CountingBackend:
    """An engine that takes a second for the images, and three for everything."""

    def __init__(self) -> None:
        self.now, self.wanted = 0.0, []

    def generate(self, batch, stages, wanted):
        self.wanted.append((len(batch.noise), stages, set(wanted)))
        self.now += 1 if set(wanted) == {"image"} else 3
        return iter(())


def test_the_two_ways_alternate_and_the_first_calls_are_not_counted(monkeypatch) -> None:
    engine = FetchingEngine(Fetcher("fp32", "cpu", 1, "onnxruntime"), packaged_bundle())
    backend = engine._backend = CountingBackend()
    monkeypatch.setattr("scripts.outputs.time.perf_counter", lambda: backend.now)
    assert engine.time(3, Calls(1, 2)) == {"images": [1, 1], "everything": [3, 3]}
    assert [len(wanted) for _, _, wanted in backend.wanted] == [1, backend_outputs(backend)] * 3
    assert {rows for rows, _, _ in backend.wanted} == {3}


def backend_outputs(backend: CountingBackend) -> int:
    return max(len(wanted) for _, _, wanted in backend.wanted)


def test_the_command_writes_a_result_of_the_engines_that_can_be_had(tmp_path) -> None:
    output = tmp_path / "outputs.json"
    arguments = ["--device", "cpu", "--threads", "1", "--batches", "2", "--rounds", "1", "--only", "openvino-bf16"]
    result = CliRunner().invoke(main, [str(packaged_bundle()), *arguments, "-o", str(output)])
    assert result.exit_code == 0, result.output
    read = read_result(output)
    assert "onnxruntime-fp32" in {entry.name for entry in read.entries}
    assert "| ms, batch 2 | precision | images | everything |" in render(read)
    assert BundleFolder(packaged_bundle()).describe() == read.model


@pytest.mark.parametrize("folder", [".", "nowhere"])
def test_outputs_of_no_bundle_are_refused(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, [folder, "--device", "cpu"]).exit_code == 2
