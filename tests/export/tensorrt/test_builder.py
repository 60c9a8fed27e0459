"""Real plans, built by tensorrt-rtx on the CPU."""

import gc
from typing import ClassVar

import numpy as np
import onnx
import pytest

from dmgan_runtime.backends.built_engines import BatchProfile
from dmgan_runtime.errors import EngineError
from export.tensorrt import builder as builder_module
from export.tensorrt.bindings import open_bindings
from export.tensorrt.builder import PlanBuilder
from tests.bundles import ROLES, build_graph
from tests.export.tensorrt.test_bindings import wanted

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this platform")


def builder(**changes) -> PlanBuilder:
    bindings = open_bindings("tensorrt_rtx")
    return PlanBuilder(bindings, wanted(bindings, **changes))


@pytest.mark.parametrize("role", ROLES)
def test_every_graph_becomes_a_plan(role) -> None:
    plan = builder().build(build_graph(role).SerializeToString(), role)
    assert plan.nbytes > 10_000


def test_the_targets_change_the_plan() -> None:
    graph = build_graph("generator_0").SerializeToString()
    plans = {bytes(builder(compute_capabilities=targets).build(graph, "g")) for targets in ((86,), (120,), (86, 120))}
    assert len(plans) == 3


def test_the_profile_changes_the_plan() -> None:
    graph = build_graph("generator_1").SerializeToString()
    profiles = (BatchProfile(min=1, opt=1, max=1), BatchProfile(min=1, opt=8, max=64))
    first, second = (bytes(builder(profile=profile).build(graph, "g")) for profile in profiles)
    assert first != second


def test_a_parse_failure_gives_all_of_the_parsers_words() -> None:
    model = build_graph("generator_0")
    for node in model.graph.node:
        if node.op_type == "Tanh":
            node.op_type = "NoSuchOperator"
    with pytest.raises(EngineError, match=r"my.onnx: tensorrt_rtx [\d.]+ cannot parse it") as caught:
        builder().build(model.SerializeToString(), "my.onnx")
    message = str(caught.value)
    assert message.count("operator: NoSuchOperator") == 2
    assert "In node 3" in message
    assert "In node 5" in message
    assert "Plugin not found" in message
    assert "try --precision fp32" in message


def test_what_is_no_onnx_is_a_parse_failure() -> None:
    with pytest.raises(EngineError, match=r"cannot parse it: .*Failed to parse the ONNX model"):
        builder().build(b"no protobuf", "my.onnx")


def test_a_build_failure_gives_the_builders_words() -> None:
    graph = build_graph("generator_1").SerializeToString()
    with pytest.raises(EngineError, match=r"cannot build it: .*Cannot compile .* for Turing.*; try a smaller"):
        builder(compute_capabilities=(75,)).build(graph, "g")


def test_an_empty_graph_is_a_build_failure() -> None:
    with pytest.raises(EngineError, match="Network must have at least one output"):
        builder().build(b"", "g")


def test_a_failure_does_not_speak_of_the_one_before() -> None:
    one = builder()
    for graph, words in ((b"no protobuf", "Failed to parse"), (b"", "at least one output")):
        with pytest.raises(EngineError, match=words) as caught:
            one.build(graph, "g")
    assert "Failed to parse" not in str(caught.value)
    assert one.build(build_graph("generator_0").SerializeToString(), "g").nbytes > 0


def test_weights_outside_the_graph_are_not_looked_for(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"save_as_external_data": True, "location": "weights.data", "size_threshold": 0}
    onnx.save(build_graph("generator_0"), "graph.onnx", **options)
    with pytest.raises(EngineError, match="Failed to import initializer"):
        builder().build((tmp_path / "graph.onnx").read_bytes(), "graph.onnx")


def test_no_garbage_is_collected_while_a_builder_is_made(monkeypatch) -> None:
    """A builder that was freed in a call of the log would wait for a lock that TensorRT holds: seen, and for ever."""
    bindings = open_bindings("tensorrt_rtx")
    collecting: list[bool] = []

    class Log(bindings.module.ILogger):
        errors: ClassVar[list[str]] = []

        def log(self, severity: object, message: str) -> None:
            collecting.append(gc.isenabled())

    first = builder()  # TensorRT tells a second builder that its log is not the first's
    monkeypatch.setattr(builder_module, "new_log", lambda _: Log())
    PlanBuilder(bindings, wanted(bindings))
    assert collecting
    assert not any(collecting)
    assert gc.isenabled()
    gc.disable()
    try:
        PlanBuilder(bindings, wanted(bindings))
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert first.timing_cache() == b""


def test_a_plan_outlives_its_builder() -> None:
    plan = builder().build(build_graph("text_encoder").SerializeToString(), "g")
    assert np.frombuffer(plan, dtype=np.uint8).any()
