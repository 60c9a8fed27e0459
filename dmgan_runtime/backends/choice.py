"""Which engine serves a bundle: what was asked for, or the fastest whose images are near enough to fp32's.

Nothing falls back in silence: what was passed over, and why, is in `Active`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from dmgan_runtime.backends.base import (
    Backend,
    Candidate,
    EngineSettings,
    State,
    check_precision,
    check_threads,
    generator_precisions,
)
from dmgan_runtime.backends.registry import BACKENDS, CPU_ORDER, CPU_ORDER_WITH_BF16, ENGINES, Engine
from dmgan_runtime.backends.tuned import TunedWay, Tuning, read_tuning
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.cpus import find_processor
from dmgan_runtime.errors import BackendError, EngineError, SettingsError
from dmgan_runtime.manifest import Arithmetic, Manifest

Quality: TypeAlias = float | Literal["exact"]
"""How near to fp32 images must be: the least PSNR in dB, or fp32 itself."""

QUALITY = 40.0
"""What "auto" keeps to if nothing is asked for: nobody sees a difference from fp32."""

MAX_QUALITY = 200.0
_EXACT = 60.0  # what engines that compute in fp32, each in its own order, come to at least
_CUDA = re.compile(r"cuda(?::(\d{1,3}))?")
_LOG = logging.getLogger(__name__)


class Way(NamedTuple):
    """An engine, and what it is to compute in.

    Attributes:
        engine: The engine.
        precision: Its precision; "auto" if its plans decide.
        threads: The CPU threads with which it was measured to be fastest; None if it was not measured.
    """

    engine: Engine
    precision: Arithmetic | Literal["auto"]
    threads: int | None = None

    def candidate(self, index: int, state: State, verdict: str) -> Candidate:
        """What became of it."""
        precision = None if self.precision == "auto" else self.precision
        return Candidate(self.engine.backend, self.engine.device_name(index), state, verdict, precision)


def acceptable_precisions(manifest: Manifest, quality: Quality) -> frozenset[Arithmetic]:
    """What `auto` may compute in: fp32, and what the export found to come near enough to it.

    Args:
        manifest: Whose `image_psnr_db` counts.
        quality: A PSNR in dB, or "exact".

    Raises:
        SettingsError: if it is neither.
    """
    exact: frozenset[Arithmetic] = frozenset({"fp32"})
    if quality == "exact":
        return exact
    if isinstance(quality, bool) or not isinstance(quality, int | float) or not 0 < quality <= MAX_QUALITY:
        raise SettingsError(
            f"quality is {quality!r}; pass a PSNR in dB over 0 and at most {MAX_QUALITY:g}, or 'exact' for fp32"
        )
    return exact | {precision for precision, decibels in manifest.image_psnr_db.items() if decibels >= quality}


def _ways(
    engines: Sequence[Engine], bundle: Bundle, precision: str, quality: Quality, tuning: Tuning | None
) -> list[Way]:
    """The ways to serve a bundle with some of the engines, fastest first: as measured, or else as the processor is."""
    if precision != "auto":
        return [Way(engine, cast(Arithmetic, precision)) for engine in engines]
    order = CPU_ORDER_WITH_BF16 if find_processor().has_bf16 else CPU_ORDER
    on_gpu = [
        Way(engine, each) for engine in engines if engine.device == "cuda" for each in engine.precisions or ("auto",)
    ]
    on_cpu = [
        Way(engine, each)
        for backend, each in (
            *order,
            *((engine.backend, engine.precisions[0]) for engine in engines if not engine.auto),
        )
        for engine in engines
        if (engine.backend, engine.device) == (backend, "cpu")
    ]
    measured: dict[tuple[Engine, Arithmetic], Way] = {}
    for each in tuning.ways if tuning else ():
        for engine in engines:
            if (engine.backend, engine.device) == (each.backend, "cpu") and _is_near(each, quality):
                # Fastest first: the same way with other threads comes later.
                measured.setdefault((engine, each.precision), Way(engine, each.precision, each.threads))
    unmeasured = [way for way in on_cpu if (way.engine, way.precision) not in measured]
    # Of fp32 the engine itself says if a bundle lacks it, and of plans which of them fit.
    stored = {"auto", "fp32", "bf16", *generator_precisions(bundle)}
    return [way for way in (*on_gpu, *measured.values(), *unmeasured) if way.precision in stored]


def _is_near(way: TunedWay, quality: Quality) -> bool:
    if quality == "exact":
        return way.precision == "fp32" and (way.psnr_db is None or way.psnr_db >= _EXACT)
    return way.psnr_db is None or way.psnr_db >= quality


def open_backend(
    bundle: Bundle,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    quality: Quality = QUALITY,
    threads: int | None = None,
    engine_options: Mapping[str, Any] | None = None,
    named: bool | None = None,
) -> Backend:
    """Loads a bundle's graphs into an engine.

    Args:
        bundle: An open bundle; it may be closed afterwards.
        backend: "auto" or one of `BACKENDS`.
        device: "auto", "cpu", "cuda" (the first) or "cuda:N".
        precision: "auto" or a precision that both the engine and the bundle have.
        quality: What "auto" takes as a precision: the least PSNR in dB of `Manifest.image_psnr_db`, or "exact", fp32.
        threads: CPU threads for one operator; None takes every CPU that this process may use.
        engine_options: The named engine's own options.
        named: Whether the user named the engine; None if `backend` says so.

    Raises:
        BackendError: if something that was asked for cannot be had here; the message has the remedy.
        BundleError: if a graph is missing, damaged, or not what the manifest says.
        EngineError: if the engine cannot load a graph.
        SettingsError: if the number of threads is out of range, the quality is none, or the engine's options are no
            options.
    """
    counted = check_threads(threads)
    index = device_index(device)
    engines = _fitting(backend, device)
    if engine_options is not None:
        _check_options(engine_options, engines, backend)
    check_precision(bundle, precision)
    acceptable = acceptable_precisions(bundle.manifest, quality)
    # Whoever names threads has other circumstances than those that were measured.
    tuning, note = read_tuning(bundle) if precision == "auto" and threads is None else (None, "")
    ways = _ways(engines, bundle, precision, quality, tuning)
    trusted = backend != "auto" if named is None else named
    refused: list[Candidate] = []
    missing: set[Engine] = set()
    for place, way in enumerate(ways):
        engine, name = way.engine, way.engine.device_name(index)
        if engine in missing:  # said once, whatever it would compute in
            continue
        if precision == "auto" and not way.threads and way.precision not in (*acceptable, "auto"):
            refused.append(way.candidate(index, "missing", _too_far(bundle.manifest, way.precision, quality)))
            continue
        try:
            engine.load_class().probe(index)
        except BackendError as error:
            missing.add(engine)
            refused.append(Candidate(engine.backend, name, "missing", str(error)))
            continue
        settings = EngineSettings(
            index, way.precision, acceptable, way.threads or counted, trusted, engine_options or {}
        )
        try:
            opened = engine.load_class()(bundle, settings)
        except BackendError as error:
            refused.append(way.candidate(index, "missing", str(error)))
        except EngineError as error:
            # Over the bundle's own graphs there is no reason on a CPU but that they are broken, and then so they are
            # for the next engine. On a GPU there are many, from cuDNN to its memory; what lies in `engines/` may break.
            if engine_options:
                raise EngineError(f"{error}; or engine_options are wrong: {', '.join(engine_options)}") from error
            if (engine.device == "cpu" and engine.plans == "none") or len(engines) == 1:
                raise
            _LOG.warning("%s on %s is here but does not work, so another is taken: %s", engine.backend, name, error)
            refused.append(way.candidate(index, "broken", str(error)))
        else:
            why = "the best that can be had here" if "auto" in (backend, device) else "as asked for"
            # A word on what was measured, if it is what is taken, or if it is stale.
            told = engine.device == "cpu" and (way.threads or tuning is None)
            why = "; ".join(filter(None, [why, note if told else ""]))
            later = [each for each in ways[place + 1 :] if each.engine not in missing]
            return _explained(opened, way, refused, index, later, why)
    raise BackendError(_nothing(backend, device, precision, refused))


def _check_options(options: Mapping[str, Any], engines: Sequence[Engine], backend: str) -> None:
    """Checks that the options are named, and for one engine that takes some."""
    if not isinstance(options, Mapping) or not all(isinstance(name, str) and name for name in options):
        raise SettingsError(f"engine_options are {options!r}; pass a dict of names and values")
    if backend == "auto":
        names = dict.fromkeys(repr(engine.backend) for engine in ENGINES if engine.options)
        raise BackendError(f"engine_options are one engine's own; name it: backend={' or '.join(names)}")
    if len(engines) > 1:
        kinds = " and ".join(f"{engine.options} on device={engine.device!r}" for engine in engines)
        raise BackendError(f"engine_options of {backend} are {kinds}; pass the device too")
    if not engines[0].options:
        raise BackendError(f"{backend} takes no engine_options; leave them out")


def device_index(device: str) -> int:
    """N of `cuda:N`, 0 of the others.

    Raises:
        BackendError: if it is no device.
    """
    found = _CUDA.fullmatch(device) if isinstance(device, str) else None
    if found is None and device not in ("auto", "cpu"):
        raise BackendError(f"device {device!r} is unknown; pass 'auto', 'cpu', 'cuda' or 'cuda:N'")
    return int(found[1] or 0) if found else 0


def _fitting(backend: str, device: str) -> list[Engine]:
    if backend not in (*BACKENDS, "auto"):
        choices = ", ".join(map(repr, ("auto", *BACKENDS)))
        raise BackendError(f"backend {backend!r} is unknown; pass one of {choices}")
    kind = device.partition(":")[0]
    fitting = [
        each
        for each in ENGINES
        if kind in (each.device, "auto") and (each.auto if backend == "auto" else each.backend == backend)
    ]
    if not fitting:
        kinds = " or ".join(repr(each.device) for each in ENGINES if each.backend == backend)
        raise BackendError(f"the backend {backend} does not run on device {device!r}; pass device={kinds}")
    return fitting


def _too_far(manifest: Manifest, precision: str, quality: Quality) -> str:
    measured = manifest.image_psnr_db.get(cast(Arithmetic, precision))
    found = f"come to {measured:g} dB of fp32's" if measured is not None else "were not compared with fp32's at export"
    asked = "exact ones are" if quality == "exact" else f"{quality:g} dB are"
    return f"its images in {precision} {found}, and {asked} asked for; pass another quality, or precision={precision!r}"


def _explained(
    opened: Backend, way: Way, considered: Sequence[Candidate], index: int, untried: Sequence[Way], why: str
) -> Backend:
    active = opened.active
    reason = "; ".join(filter(None, [why, active.reason]))
    chosen = way.candidate(index, "chosen", reason)
    later = [each.candidate(index, "untried", f"{active.backend} comes first") for each in untried]
    opened.active = replace(active, reason=reason, considered=(*considered, chosen, *later))
    return opened


def _nothing(backend: str, device: str, precision: str, refused: Sequence[Candidate]) -> str:
    asked = {"backend": backend, "device": device, "precision": precision}
    named = ", ".join(f"{name} {value!r}" for name, value in asked.items() if value != "auto") or "any engine"
    if len(refused) == 1:
        return f"{named} cannot be had: {refused[0].verdict}"
    reasons = "".join(f"\n  {each}" for each in refused)
    return f"{named} cannot be had:{reasons}"
