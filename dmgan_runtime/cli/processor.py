"""What the processor can do, and which engine was the fastest on one like it, as far as that was measured."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

# What engines make use of, by the names that Linux has for it on x86-64 and on ARM.
_ABILITIES = {
    "AVX2": {"avx2"},
    "AVX-512": {"avx512f"},
    "NEON": {"asimd"},
    "VNNI": {"avx512_vnni", "avx_vnni"},
    "int8 products": {"asimddp", "i8mm"},
    "bf16": {"avx512_bf16", "bf16"},
    "AMX": {"amx_tile"},
}
_MEASURED = ("AVX2",)


@dataclass(frozen=True)
class Processor:
    """A processor.

    Attributes:
        name: As the system has it.
        abilities: Kinds of instructions that engines make use of; None if they are not known, as outside of Linux.
    """

    name: str
    abilities: tuple[str, ...] | None

    @property
    def fastest(self) -> str:
        """The engine that was the fastest on a processor with the same abilities, in words."""
        if self.abilities != _MEASURED:
            return "not measured on a processor like this; python -m benchmarks latency compares the engines here"
        return (
            "mnn, as measured on a processor like this (docs/benchmarks.md): nearly twice as fast as onnxruntime and"
            " openvino at 256 pixels, hardly faster for small models; dmgan-export build-engine makes its engine"
        )


def find_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Processor:
    """The processor of this machine.

    Args:
        cpuinfo: Where Linux describes it.
    """
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return Processor(platform.processor() or platform.machine(), None)
    facts: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    flags = {*facts.get("flags", facts.get("Features", "")).split()}
    abilities = tuple(name for name, names in _ABILITIES.items() if names & flags)
    return Processor(facts.get("model name", platform.machine()), abilities)
