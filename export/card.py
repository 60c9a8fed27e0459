"""Writes the model card of a bundle, from facts alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import yaml

from dmgan_runtime.manifest import Manifest, ParityEntry
from dmgan_train.evaluation.metrics.protocol import Evaluation, detail_rows

SAMPLES = (
    "*Eight captions that training saw and, where there are such, eight that it never saw, evenly spread over each:"
    " typical samples, none was picked.*"
)

USAGE = """To serve it, BUNDLE being its folder or .zip:

```sh
dmgan-generate -b BUNDLE "a caption" -o picture.png
```

```python
from dmgan_runtime import Generator

Generator.open("BUNDLE").generate("a caption", seed=1)[0].image.save("picture.png")
```"""
# The settings repeat the model, which has a table of its own, and what stands at the top of the provenance.
_SHOWN_ELSEWHERE = frozenset({"data_license", "settings.preset", "settings.seed"})


def model_card(manifest: Manifest, *, words: int, aliases: int, notes: str, has_samples: bool) -> str:
    """Writes Markdown: what the model is, what it was trained on and how, what was measured, and what was not.

    Args:
        manifest: The bundle's. The card states nothing that is not in it.
        words: How many words the vocabulary has, without the one that ends captions.
        aliases: How many emoji, or other characters, captions may have in place of words.
        notes: Markdown about use and limits; may be empty.
        has_samples: Whether `samples.png` lies beside the card.
    """
    spec = manifest.model
    name = _line(manifest.name)
    pyramid = ", ".join(f"{side}x{side}" for side in spec.resolutions)
    emoji = f" and, by their names, {aliases:,} emoji (`aliases.json`)" if aliases else ""
    sections = [
        f"# {name}",
        f"A DM-GAN (Zhu et al., CVPR 2019): a caption of up to {manifest.tokenizer.max_words} words to images of"
        f" {pyramid} pixels.",
        *(["![Captions and every stage's image](samples.png)", SAMPLES] if has_samples else []),
        USAGE,
        f"## Use and limits\n\nIt knows {words:,} words (`vocab.json`){emoji}; others have no effect, and words"
        f" after the {manifest.tokenizer.max_words}th are cut. `dmgan-generate` says which.",
        *([notes.strip()] if notes.strip() else []),
        f"## Licence\n\nCode: MIT. Weights: {_line(manifest.license)}. Training data:"
        f" {_line(str(manifest.provenance.get('data_license', 'not stated')))}.",
        "## Model\n\n" + _table(msgspec.to_builtins(spec)),
    ]
    provenance = {
        key: value
        for key, value in _flatten(manifest.provenance).items()
        if key not in _SHOWN_ELSEWHERE and not key.startswith("settings.model.")
    }
    if provenance:
        sections.append("## Provenance\n\n" + _table(provenance))
    sections.append("## Metrics\n\n" + _metrics(manifest.metrics))
    sections.append("## Parity with PyTorch at export\n\n" + _parity(manifest))
    return "\n\n".join(sections) + "\n"


def _metrics(metrics: dict[str, Any]) -> str:
    if not metrics:
        return "None were measured."
    parts = []
    for evaluation in (msgspec.convert(each, Evaluation) for each in metrics.values()):
        results = evaluation.results
        rows = [
            f"| {_cell(result.name)} | {_number(result.value)}{f' +- {_number(result.std)}' if result.std else ''} |"
            f" {result.better} | {_numbers(result.references)} | {_cell(result.definition)} |"
            for result in results.values()
        ]
        parts.append(
            "\n".join(["| metric | value | better | to compare with | what it is |", "|---|---|---|---|---|", *rows])
        )
        details = [row for result in results.values() for row in detail_rows(result.details)]
        if details:
            rows = [f"| {_cell(where)} | {_numbers(numbers)} |" for where, numbers in details]
            parts.append("\n".join(["| detail | numbers |", "|---|---|", *rows]))
        protocol = {"all": evaluation.protocol} | {name: result.protocol for name, result in results.items()}
        text = yaml.safe_dump(msgspec.to_builtins(protocol), sort_keys=False, allow_unicode=True, width=110)
        parts.append(f"The protocol:\n\n```yaml\n{text}```")
    return "\n\n".join(parts)


def _number(value: float) -> str:
    return f"{value:.4g}"


def _numbers(numbers: Mapping[str, float]) -> str:
    return _cell(", ".join(f"{name} {_number(value)}" for name, value in numbers.items())) or "-"


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _table(values: dict[str, Any]) -> str:
    rows = [f"| {_cell(key)} | {_cell(_words(value))} |" for key, value in values.items()]
    return "\n".join(["| setting | value |", "|---|---|", *rows])


def _words(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value)) or "none"
    return str(value)


def _line(text: str) -> str:
    """Removes line breaks, which would end a heading or begin one."""
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _line(text).replace("\\", "\\\\").replace("|", "\\|")


def likeness(entry: ParityEntry) -> str:
    """Says how like PyTorch's an output was."""
    if entry.max_abs_error == 0:
        return "equal"
    return "-" if entry.psnr_db is None else f"{entry.psnr_db:.0f} dB"


def allowed(entry: ParityEntry) -> str:
    """Says what parity allows."""
    if entry.tolerance is not None:
        return f"{entry.tolerance:.1e}"
    return "-" if entry.required_psnr_db is None else f"{entry.required_psnr_db:.0f} dB"


def _parity(manifest: Manifest) -> str:
    rows = [
        f"| {entry.role} | {entry.precision} | {entry.output} | {entry.max_abs_error:.1e} |"
        f" {likeness(entry)} | {allowed(entry)} |"
        for entry in manifest.parity
    ]
    head = "| graph | precision | output | largest difference | PSNR | allowed |"
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])
