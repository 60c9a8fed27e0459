"""Results as Markdown: every number comes from the samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import get_args

from benchmarks.results import BenchmarkResult, Entry, Measure, Series
from benchmarks.statistics import median, paired_ratio, percentile
from dmgan_runtime.manifest import Role

_NONE = "-"


def tables(result: BenchmarkResult) -> str:
    """Everything that a result says, with where it was measured."""
    parts = [_TITLES[result.measure], _where(result), *_TABLES[result.measure](result), _notes(result)]
    return "\n\n".join(filter(None, parts)) + "\n"


def summary(result: BenchmarkResult) -> str:
    """The first table alone, with where it was measured."""
    return "\n\n".join([next(iter(_TABLES[result.measure](result))), _where(result)]) + "\n"


def _where(result: BenchmarkResult) -> str:
    place, subject = result.environment, result.subject
    first = result.entries[0]
    machine = f"{place.gpu} (CUDA {place.cuda}), {place.cpu}" if place.gpu else place.cpu
    versions = ", ".join(f"{name} {number}" for name, number in place.packages.items() if name != "dmgan")
    rounds = max((len(series.samples) // series.per_turn for series in result.series), default=0)
    lines = [
        f"*{subject.name} ({subject.resolution} pixels, {subject.weights} weights); {machine}, {place.cpus} cores,"
        f" {first.threads} threads; {versions}; Python {place.python}; {place.time[:10]}, commit {place.commit or '-'};"
        f" in turns, rounds: {rounds}.*"
    ]
    if result.was_disturbed:
        lines.append(f"**Measured on a busy machine (others used {place.busy_cpus} CPUs): not a result.**")
    return "\n\n".join(lines)


def _latency(result: BenchmarkResult) -> Iterable[str]:
    for batch in result.batches():
        yield _end_to_end(result, batch)
    for batch in result.batches():
        measured = {series.measure for series in result.series if series.batch == batch}
        if roles := [role for role in get_args(Role) if role in measured]:
            yield _by_graph(result, batch, roles)


def _end_to_end(result: BenchmarkResult, batch: int) -> str:
    reference = result.find(result.entries[0].name, "end_to_end", batch)
    images = "image" if batch == 1 else "images"
    head = (
        f"{batch} {images} at once",
        "precision",
        "p50, ms",
        "p95",
        "p99",
        "speed",
        "PSNR, dB",
        "floor, ms",
        "p50 / floor",
    )
    rows = []
    for entry, series in _found(result, "end_to_end", batch):
        floor = series.floor.seconds if series.floor else None
        rows.append(
            (
                entry.label,
                entry.precision,
                _ms(median(series.samples)),
                *(_ms(percentile(series.samples, percent)) for percent in (95, 99)),
                _ratio(reference, series),
                _psnr(entry, result),
                _ms(floor),
                _times(median(series.samples) / floor if floor else None),
            )
        )
    return _table(head, rows)


def _by_graph(result: BenchmarkResult, batch: int, roles: Sequence[str]) -> str:
    head = (f"p50, ms (floor), batch {batch}", "precision", *(role.replace("_", " ") for role in roles))
    rows = []
    for entry in result.entries:
        found = [result.find(entry.name, role, batch) for role in roles]
        if any(found):
            rows.append((entry.label, entry.precision, *map(_with_floor, found)))
    return _table(head, rows)


def _with_floor(series: Series | None) -> str:
    if series is None:
        return _NONE
    return f"{_ms(median(series.samples))} ({_ms(series.floor.seconds if series.floor else None)})"


def _throughput(result: BenchmarkResult) -> Iterable[str]:
    counts = sorted({series.clients for series in result.series if series.clients is not None})
    for batch in result.batches():
        head = (
            f"images/s, batch {batch}",
            "precision",
            *(f"{count} client{'s' * (count > 1)}" for count in counts),
            "of the matrix rate",
        )
        rows = []
        for entry in result.entries:
            found = [result.find(entry.name, "images_per_second", batch, count) for count in counts]
            if any(found):
                rates = [_number(median(series.samples)) if series else _NONE for series in found]
                rows.append((entry.label, entry.precision, *rates, _share(found, batch)))
        yield _table(head, rows)


def _share(found: Sequence[Series | None], batch: int) -> str:
    """How much of the machine's matrix rate the best number of clients uses."""
    shares = [
        median(series.samples) / batch * series.floor.operations_s
        for series in found
        if series is not None and series.floor is not None
    ]
    return f"{max(shares):.0%}" if shares else _NONE


def _startup(result: BenchmarkResult) -> Iterable[str]:
    reference = result.find(result.entries[0].name, "first_image", 1)
    rows = [
        (
            entry.label,
            entry.precision,
            f"{median(series.samples):.2f}",
            f"{max(series.samples):.2f}",
            _ratio(reference, series),
        )
        for entry, series in _found(result, "first_image", 1)
    ]
    yield _table(("from process to first picture, s", "precision", "p50", "longest", "speed"), rows)


def _memory(result: BenchmarkResult) -> Iterable[str]:
    batches = result.batches()
    for measure, name in (("peak_memory", "main memory"), ("peak_device_memory", "GPU memory")):
        rows = []
        for entry in result.entries:
            found = [result.find(entry.name, measure, batch) for batch in batches]
            if any(found):
                rows.append((entry.label, entry.precision, *map(_mb, found)))
        if rows:
            yield _table((f"peak of {name}, MB", "precision", *(f"batch {batch}" for batch in batches)), rows)


def _size(result: BenchmarkResult) -> Iterable[str]:
    rows = []
    for entry in result.entries:
        found = [result.find(entry.name, measure) for measure in ("model", "installed")]
        rows.append((entry.label, entry.precision, *map(_mb, found)))
    yield _table(("on disk, MB", "precision", "model", "packages installed"), rows)


def _training(result: BenchmarkResult) -> Iterable[str]:
    batch = result.batches()[0]
    plain = result.find(result.entries[0].name, "images_per_second", batch)
    rows = []
    for entry, series in _found(result, "images_per_second", batch):
        rows.append((entry.label, entry.precision, _number(median(series.samples)), _ratio(series, plain)))
    yield _table((f"a whole step, batch {batch}", "precision", "images/s", "speed"), rows)


def _outputs(result: BenchmarkResult) -> Iterable[str]:
    for batch in result.batches():
        head = (f"ms, batch {batch}", "precision", "images alone", "everything", "everything / images alone")
        rows = []
        for entry, images in _found(result, "images", batch):
            everything = result.find(entry.name, "everything", batch)
            assert everything is not None
            times = [_ms(median(series.samples)) for series in (images, everything)]
            ratio = paired_ratio(everything, images)
            spread = f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
            rows.append((entry.label, entry.precision, *times, spread))
        yield _table(head, rows)


def _found(result: BenchmarkResult, measure: str, batch: int) -> Iterable[tuple[Entry, Series]]:
    for entry in result.entries:
        series = result.find(entry.name, measure, batch)
        if series is not None:
            yield entry, series


def _notes(result: BenchmarkResult) -> str:
    if not result.absences:
        return ""
    lines = [
        f"- {each.contender}{f' at batch {each.batch}' if each.batch else ''}: {' '.join(each.reason.split())}"
        for each in result.absences
    ]
    return "\n".join(["Not measured:", "", *lines])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", "---", *["---:"] * (len(head) - 2)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _ratio(above: Series | None, below: Series | None) -> str:
    if above is None or below is None:
        return _NONE
    ratio = paired_ratio(above, below)
    if above is below:
        return "1"
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def _psnr(entry: Entry, result: BenchmarkResult) -> str:
    if entry == result.entries[0]:
        return "reference"
    return "equal" if entry.psnr_db is None else f"{entry.psnr_db:.0f}"


def _ms(seconds: float | None) -> str:
    return _NONE if seconds is None else _number(seconds * 1e3)


def _mb(series: Series | None) -> str:
    return _NONE if series is None else _number(median(series.samples) / 1e6)


def _times(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1f}"


def _number(value: float) -> str:
    """Three digits that count, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


_TABLES: dict[Measure, Callable[[BenchmarkResult], Iterable[str]]] = {
    "latency": _latency,
    "throughput": _throughput,
    "startup": _startup,
    "memory": _memory,
    "size": _size,
    "training": _training,
    "outputs": _outputs,
}
_TITLES: dict[Measure, str] = {
    "latency": "### Latency: from caption to pixels",
    "throughput": "### Throughput",
    "startup": "### Start-up",
    "memory": "### Memory",
    "size": "### Size",
    "training": "### Training",
    "outputs": "### What fetching costs",
}
