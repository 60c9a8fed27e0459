"""The machine's own limits, measured: a large matrix product in every precision, and a large copy."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import onnxruntime
import torch
from onnx import parser

from benchmarks.floor import MachineRates
from dmgan_runtime.backends.ort_cpu import session_options
from dmgan_train.devices import autocast_type

_TRIALS = 8
_SIDE = {"cpu": 2048, "cuda": 8192}
_COPIED_BYTES = {"cpu": 2**28, "cuda": 2**31}
_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def measure_rates(device: str, threads: int, precisions: Sequence[str]) -> MachineRates:
    """The best of several trials of each.

    Args:
        device: `cpu` or `cuda:N`.
        threads: CPU threads.
        precisions: Those whose matrix rate is wanted. What cannot be measured here is left out: int8 on a GPU, fp16
            on a CPU, bf16 where there are no instructions for it.
    """
    torch.set_num_threads(threads)
    place = torch.device(device)
    rates = {}
    for precision in dict.fromkeys(precisions):
        product = _product(place, precision, threads)
        if product is not None:
            rates[precision] = 2 * _SIDE[place.type] ** 3 / _fastest(product, place)
    source = torch.ones(_COPIED_BYTES[place.type] // 4, device=place)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes
    return MachineRates(operations_per_s=rates, bytes_per_s=copied / _fastest(lambda: target.copy_(source), place))


def _product(device: torch.device, precision: str, threads: int) -> Callable[[], object] | None:
    if precision == "int8":
        return _int8_product(threads) if device.type == "cpu" else None
    if (precision == "bf16" and not autocast_type("auto", device)) or (device.type, precision) == ("cpu", "fp16"):
        return None
    side = _SIDE[device.type]
    left, right = (torch.randn(side, side, device=device).to(_DTYPES[precision]) for _ in range(2))
    out = torch.empty_like(left)

    def multiply() -> None:
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.mm(left, right, out=out)

    return multiply


def _int8_product(threads: int) -> Callable[[], object]:
    """By ONNX Runtime: PyTorch has no int8 product of this size for CPUs."""
    side = _SIDE["cpu"]
    square = f"[{side}, {side}]"
    graph = f"g (uint8{square} a, int8{square} b) => (int32{square} c) {{ c = MatMulInteger(a, b) }}"
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {graph}')
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(onnxruntime, threads, {}), providers=["CPUExecutionProvider"]
    )
    random = np.random.default_rng(0)
    feeds = {
        "a": random.integers(0, 256, (side, side), dtype=np.uint8),
        "b": random.integers(-128, 128, (side, side), dtype=np.int8),
    }
    return lambda: session.run(None, feeds)


def _fastest(action: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(_TRIALS):
        _wait(device)
        began = time.perf_counter()
        action()
        _wait(device)
        times.append(time.perf_counter() - began)
    return min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
