"""Results as a benchmark would leave them, with figures that a test can check by hand."""

from typing import Any

from benchmarks.floor import Floor, MachineRates
from benchmarks.results import (
    SCHEMA_VERSION,
    Absence,
    BenchmarkResult,
    Entry,
    Environment,
    Measure,
    Series,
    SubjectEntry,
)

ENTRIES = (
    Entry(
        name="torch-eager-fp32",
        label="PyTorch eager",
        engine="torch",
        version="2.13.0",
        device="cpu",
        precision="fp32",
        threads=2,
    ),
    Entry(
        name="onnxruntime-int8",
        label="ONNX Runtime",
        engine="onnxruntime",
        version="1.32.0",
        device="cpu",
        precision="int8",
        threads=2,
        psnr_db=41.3,
    ),
)
FLOOR = Floor(operations_s=0.05, bytes_s=0.01)
SERIES: dict[Measure, list[dict[str, Any]]] = {
    "latency": [
        {"measure": measure, "unit": "s", "batch": batch, "floor": FLOOR, "per_turn": turn}
        for batch in (1, 4)
        for measure, turn in (("end_to_end", 2), ("generator_2", 1))
    ],
    "throughput": [
        {"measure": "images_per_second", "unit": "images/s", "batch": 1, "clients": clients, "floor": FLOOR}
        for clients in (1, 8)
    ],
    "startup": [{"measure": "first_image", "unit": "s", "batch": 1}],
    "memory": [
        {"measure": measure, "unit": "bytes", "batch": batch}
        for measure in ("peak_memory", "peak_device_memory")
        for batch in (1, 16)
    ],
    "size": [{"measure": measure, "unit": "bytes"} for measure in ("model", "installed")],
    "training": [{"measure": "images_per_second", "unit": "images/s", "batch": 10}],
    "outputs": [{"measure": measure, "unit": "s", "batch": 4} for measure in ("images", "everything")],
}


def environment(**changes: Any) -> Environment:
    fields: dict[str, Any] = {
        "time": "2026-11-24T10:00:00+00:00",
        "system": "Linux x86_64",
        "cpu": "Some CPU",
        "cpus": 2,
        "memory": 2**34,
        "python": "3.11.7",
        "packages": {"torch": "2.13.0", "onnxruntime": "1.32.0"},
        "commit": "0123456789",
        "busy_before": 0.1,
    }
    return Environment(**(fields | changes))


def make_result(measure: Measure, scale: float = 1.0, **changes: Any) -> BenchmarkResult:
    """The second contender has a quarter of the reference's seconds, bytes or images; `scale` multiplies all."""
    series = [
        Series(contender=entry.name, samples=tuple(scale * share * value for value in (0.4, 0.4, 0.6, 0.6)), **fields)
        for entry, share in zip(ENTRIES, (1, 0.25), strict=True)
        for fields in SERIES[measure]
    ]
    fields: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "measure": measure,
        "environment": environment(),
        "subject": SubjectEntry(name="birds", weights="random", resolution=256),
        "settings": {"rounds": 2},
        "entries": ENTRIES,
        "series": tuple(series),
        "absences": (Absence(contender="openvino-bf16", reason="this CPU has no bf16", batch=4),),
        "rates": MachineRates(operations_per_s={"fp32": 1e11}, bytes_per_s=1e10),
    }
    return BenchmarkResult(**(fields | changes))
