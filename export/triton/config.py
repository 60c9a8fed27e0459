"""What Triton is told of each model: its `config.pbtxt`, made of the protocol's own message types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import (
    TYPE_BOOL,
    TYPE_FP32,
    TYPE_INT32,
    TYPE_INT64,
    TYPE_STRING,
    TYPE_UINT8,
    TYPE_UINT64,
    ModelConfig,
    ModelInstanceGroup,
)

from dmgan_runtime.graphs import IMAGE, Interface, run_graphs
from dmgan_runtime.manifest import Role, TensorEntry

GraphBackend = Literal["onnxruntime", "tensorrt"]

LENGTHS_FILE = "lengths"
"""In the folder `warmup` of a graph's model: an int64 of 1, as no caption has no words."""

_TYPES = {"float32": TYPE_FP32, "int64": TYPE_INT64}


@dataclass(frozen=True)
class Placement:
    """Where models run.

    Attributes:
        device: `cpu`, or `gpu` for every GPU that Triton may use.
        instances: How many times each model is loaded there.
        max_batch: How many images one request may make; on a GPU also how many Triton puts together of several.
        threads: CPU threads of one operator; None leaves it to the engine.
    """

    device: Literal["cpu", "gpu"]
    instances: int
    max_batch: int
    threads: int | None


def to_text(config: ModelConfig) -> str:
    """The content of config.pbtxt."""
    return text_format.MessageToString(config)


def python_config(name: str, placement: Placement, backend: str, precision: str, stream: bool) -> ModelConfig:
    """The config of the Python model, which reads captions.

    Args:
        name: The model's.
        placement: Where it runs.
        backend: As `Generator.open` takes it, like `precision`.
        precision: "auto" or a precision.
        stream: Whether a request may have a response for each stage. Plain `infer` does not take such a model.
    """
    config = _new_config(name, "python", placement)
    for value, kind in (("caption", TYPE_STRING), ("seed", TYPE_UINT64), ("resolution", TYPE_INT32)):
        config.input.add(name=value, data_type=kind, dims=[1], optional=value != "caption")
    config.input.add(name="truncation", data_type=TYPE_FP32, dims=[1], optional=True)
    if stream:
        config.input.add(name="stream", data_type=TYPE_BOOL, dims=[1], optional=True)
    config.output.add(name="image", data_type=TYPE_UINT8, dims=[-1, -1, 3])
    for value, kind in (("resolution", TYPE_INT32), ("seed", TYPE_UINT64)):
        config.output.add(name=value, data_type=kind, dims=[1])
    for value in ("words", "unknown_words", "cut_words"):
        config.output.add(name=value, data_type=TYPE_STRING, dims=[1])
    config.model_transaction_policy.decoupled = stream
    _add_parameters(config, {"backend": backend, "precision": precision})
    if placement.threads is not None:
        _add_parameters(config, {"threads": str(placement.threads)})
    return config


def graph_config(name: str, backend: GraphBackend, interface: Interface, placement: Placement) -> ModelConfig:
    """The config of one graph, as Triton's ONNX Runtime or TensorRT runs it.

    Args:
        name: The model's.
        backend: Triton's.
        interface: The graph's.
        placement: Where it runs.
    """
    config = _new_config(name, backend, placement)
    _add_tensors(config.input, interface.inputs, reshape=True)
    _add_tensors(config.output, interface.outputs, reshape=True)
    if placement.threads is not None:
        _add_parameters(config, {"intra_op_thread_count": str(placement.threads)})
    for size in sorted({1, placement.max_batch}) if placement.device == "gpu" else [1]:
        warm_up = config.model_warmup.add(name=f"batch of {size}", batch_size=size, count=2)
        for entry in config.input:
            values = warm_up.inputs[entry.name]
            values.data_type = entry.data_type
            values.dims.extend(entry.dims)
            if entry.name == "lengths":
                values.input_data_file = LENGTHS_FILE
            else:
                values.zero_data = True
    return config


def ensemble_config(name: str, interfaces: Mapping[Role, Interface], max_batch: int) -> ModelConfig:
    """The config of the ensemble that leads from tokens and noise to the last image.

    Args:
        name: The ensemble's; `graph_name` has those of its steps.
        interfaces: Every graph, in the order in which they run.
        max_batch: How many images one request may make.
    """
    config = ModelConfig(name=name, platform="ensemble", max_batch_size=max_batch)
    outputs = {entry.name: entry for interface in interfaces.values() for entry in interface.outputs}
    inputs = {entry.name: entry for interface in interfaces.values() for entry in interface.inputs}
    given = [entry for entry in inputs.values() if entry.name not in outputs.keys() | {"previous_features"}]
    _add_tensors(config.input, given, reshape=False)
    _add_tensors(config.output, [outputs["image"]], reshape=False)
    *_, last = interfaces

    def add_step(role: Role, tensors: Mapping[str, str], wanted: Sequence[str]) -> dict[str, str]:
        step = config.ensemble_scheduling.step.add(model_name=graph_name(name, role), model_version=-1)
        step.input_map.update(tensors)
        made = {output: "image" if role == last else f"{role}_{output}" for output in wanted}
        step.output_map.update({output: tensor for output, tensor in made.items() if output != "image" or role == last})
        return made

    # The chain says what leads where, if it is given names for tensors.
    for _ in run_graphs(add_step, interfaces, {entry.name: entry.name for entry in given}, IMAGE):
        pass
    return config


def graph_name(name: str, role: Role) -> str:
    """The name of a graph's model, in the ensemble `name`."""
    return f"{name}_{role}"


def _new_config(name: str, backend: str, placement: Placement) -> ModelConfig:
    config = ModelConfig(name=name, backend=backend, max_batch_size=placement.max_batch)
    on_gpu = placement.device == "gpu"
    kind = ModelInstanceGroup.KIND_GPU if on_gpu else ModelInstanceGroup.KIND_CPU
    config.instance_group.add(kind=kind, count=placement.instances)
    if on_gpu:
        config.dynamic_batching.SetInParent()
    return config


def _add_tensors(tensors: Any, entries: Iterable[TensorEntry], *, reshape: bool) -> None:
    """Adds inputs or outputs. Triton counts no batch axis, and knows no tensor that has nothing else."""
    for entry in entries:
        dims = entry.shape[1:]
        tensor = tensors.add(name=entry.name, data_type=_TYPES[entry.dtype], dims=dims or [1])
        if reshape and not dims:
            tensor.reshape.SetInParent()


def _add_parameters(config: ModelConfig, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        config.parameters[name].string_value = value
