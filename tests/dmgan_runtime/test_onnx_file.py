from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from dmgan_runtime import EngineError
from dmgan_runtime.onnx_file import check_onnx_file
from tests.bundles import ROLES, build_graph


def external() -> TensorProto:
    tensor = TensorProto(name="secret", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../secret")
    return tensor


def varint(value: int) -> bytes:
    more = value >> 7
    return bytes([value & 0x7F | (0x80 if more else 0)]) + (varint(more) if more else b"")


def sparse(values: TensorProto, indices: TensorProto) -> onnx.SparseTensorProto:
    return helper.make_sparse_tensor(values, indices, [3])


def in_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(external())


def in_constant(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=external()))


def in_subgraph(model: onnx.ModelProto) -> None:
    branch = helper.make_graph([helper.make_node("Constant", [], ["c"], value=external())], "then", [], [])
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch))


def in_list(model: onnx.ModelProto) -> None:
    node = helper.make_node("Custom", [], ["c"])
    node.attribute.add(name="many", type=onnx.AttributeProto.TENSORS).tensors.append(external())
    model.graph.node.append(node)


def in_function(model: onnx.ModelProto) -> None:
    model.functions.add(name="f").node.append(helper.make_node("Constant", [], ["c"], value=external()))


def in_training(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.initializer.append(external())


def in_sparse_values(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.append(sparse(external(), numpy_helper.from_array(np.array([0]))))


def in_sparse_indices(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.append(sparse(numpy_helper.from_array(np.ones(1, np.float32)), external()))


@pytest.mark.parametrize("role", ROLES)
def test_a_whole_file_is_taken(role: Any) -> None:
    """Any other raises."""
    check_onnx_file(build_graph(role).SerializeToString(), "here")


@pytest.mark.parametrize(
    "hide",
    [in_initializer, in_constant, in_subgraph, in_list, in_function, in_training, in_sparse_values, in_sparse_indices],
)
def test_external_data_is_refused_wherever_it_is(hide: Callable[[onnx.ModelProto], None]) -> None:
    model = build_graph("generator_1")
    hide(model)
    with pytest.raises(
        EngineError, match=r"^here: (keeps weights in another file|has .* that no graph by dmgan-export)"
    ):
        check_onnx_file(model.SerializeToString(), "here")


def test_no_weights_are_kept_elsewhere_in_a_function_or_an_attribute() -> None:
    """Neither has a place in an exported graph, whatever the operator."""
    for hide in (in_subgraph, in_list, in_function, in_training, in_sparse_values):
        model = build_graph("generator_1")
        hide(model)
        for node in model.graph.node:
            node.op_type = "Conv"
        with pytest.raises(EngineError, match="has graphs or tensors in a place that no graph by dmgan-export has"):
            check_onnx_file(model.SerializeToString(), "here")


@pytest.mark.parametrize("operator", ["Loop", "If", "Scan", "Tile", "Expand", "Range", "ConstantOfShape", "Custom", ""])
def test_operators_that_no_export_writes_are_refused(operator: str) -> None:
    model = build_graph("generator_1")
    model.graph.node[3].op_type = operator
    with pytest.raises(EngineError, match=f"^here: has the operator '{operator}', that no graph by dmgan-export has"):
        check_onnx_file(model.SerializeToString(), "here")


@pytest.mark.parametrize("domain", ["com.microsoft", "evil"])
def test_operators_of_other_domains_are_refused(domain: str) -> None:
    model = build_graph("generator_1")
    model.graph.node[3].domain = domain
    with pytest.raises(EngineError, match=f"^here: has the domain '{domain}', that no graph by dmgan-export has"):
        check_onnx_file(model.SerializeToString(), "here")


def test_a_location_without_the_flag_is_found_too() -> None:
    model = build_graph("generator_1")
    in_initializer(model)
    model.graph.initializer[-1].ClearField("data_location")
    with pytest.raises(EngineError, match="another file"):
        check_onnx_file(model.SerializeToString(), "here")


def test_the_flag_that_says_inside_is_no_harm() -> None:
    """The one that says outside raises."""
    model = build_graph("generator_1")
    model.graph.initializer[0].data_location = TensorProto.DEFAULT
    check_onnx_file(model.SerializeToString(), "here")


@pytest.mark.parametrize(
    "content",
    [
        b"garbage",
        b"<?xml version='1.0'?>",
        b"\x80" * 20,
        b"\x3b",
        b"\x3a\x7f",
        b"\x3a\x02\x08",
        b"\x0d\x00",
        b"\x0a\x06..ORTM",  # a field of the message, and ONNX Runtime takes the file for one of its own format
    ],
)
def test_what_is_no_protocol_buffer_is_refused(content: bytes) -> None:
    with pytest.raises(EngineError, match=r"^here: cannot be loaded, because it is not an ONNX file"):
        check_onnx_file(content, "here")


def test_a_field_whose_number_wraps_around_is_refused() -> None:
    tensor = external().SerializeToString()
    graph = varint(5 << 3 | 2 | 1 << 32) + varint(len(tensor)) + tensor
    with pytest.raises(EngineError, match="number is too large"):
        check_onnx_file(bytes([7 << 3 | 2]) + varint(len(graph)) + graph, "here")


@given(st.data())
def test_a_changed_or_cut_file_never_leaks_another_error(data: st.DataObject) -> None:
    content = bytearray(build_graph("generator_0").SerializeToString())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        check_onnx_file(bytes(content[: data.draw(st.integers(0, len(content)))]), "here")
    except EngineError as error:
        assert str(error).startswith("here: ")  # noqa: PT017 - some changes are harmless
