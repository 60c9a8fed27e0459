"""What has to be shipped and installed to serve.

    python -m scripts.sizes --preset birds

For each contender of the benchmarks: the model's files, and the packages that serve them.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.cli import make_command
from benchmarks.contender import BenchmarkModel, Contender, RuntimeContender
from benchmarks.generation import GenerationMeasure
from benchmarks.pool import Pool
from benchmarks.results import Series
from benchmarks.turns import Limits
from dmgan_runtime.backends.base import graphs_of
from dmgan_runtime.backends.registry import ENGINES
from dmgan_runtime.bundle import Bundle

_COMMON = ("numpy", "pillow", "click", "msgspec", "platformdirs")
_EXTRAS = {"onnxruntime-gpu": "[cuda,cudnn]"}  # with which pip installs them, since they are of no use without


@dataclass(frozen=True)
class Sizes(GenerationMeasure):
    """Weigh each engine: the model's files, and the packages that serve them."""

    name = "size"

    def take(self, pool: Pool) -> Iterator[list[Series]]:
        yield pool.sample(pool.contenders, partial(self._weigh, pool), "bytes", Limits(rounds=1, seconds=0))

    def _weigh(self, pool: Pool, name: str) -> Mapping[str, Sequence[float]]:
        contender = pool.contenders[name]
        installed = installed_bytes(packages(contender.engine))
        return {"model": [model_bytes(pool.model, contender)], "installed": [installed]}


def model_bytes(model: BenchmarkModel, contender: Contender) -> int:
    """What a contender reads of the model: weights in fp32 for PyTorch, else graphs in its precision; and the words."""
    with Bundle(model.bundle) as bundle:
        words = sum(entry.bytes for entry in bundle.manifest.tokenizer.files)
        if not isinstance(contender, RuntimeContender):
            return words + Path(model.weights).stat().st_size
        graphs = graphs_of(bundle, contender.precision)  # type: ignore[arg-type]
    return words + sum(graph.file.bytes for graph in graphs.values())


def packages(engine: str) -> list[str]:
    """What serving with `torch` or a backend needs, as pip takes it; what does not belong here is not installed."""
    needed = [name for row in ENGINES if row.backend == engine for name in row.distributions] or ["torch"]
    return [*_COMMON, *(name + _EXTRAS.get(name, "") for name in needed)]


def installed_bytes(requirements: Iterable[str]) -> int:
    """The files of packages and of all that they need, as far as they are installed here.

    Args:
        requirements: As pip takes them, extras included.
    """
    files = [file.locate() for name in closure(requirements) for file in importlib.metadata.files(name) or []]
    return sum(path.stat().st_size for path in map(Path, map(str, files)) if path.is_file())


def closure(requirements: Iterable[str]) -> set[str]:
    """The names of the installed packages that some requirements bring, themselves included."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    todo = [Requirement(each) for each in requirements]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        try:
            needs = [Requirement(each) for each in importlib.metadata.requires(name) or []]
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        for extra in {"", *requirement.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            todo += [each for each in needs if each.marker is None or each.marker.evaluate({"extra": extra})]
    return found


main = make_command(Sizes)

if __name__ == "__main__":
    main()
