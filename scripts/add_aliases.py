"""Gives a bundle whose training is not at hand the aliases of a data set: a new bundle with the same graphs.

    python -m scripts.add_aliases BUNDLE data/emoji/aliases.json -o NEW --notes NOTES

`dmgan-export` does so for a run, which keeps the aliases of its data.
"""

from __future__ import annotations

from pathlib import Path

import click

from dmgan_runtime.bundle import Bundle
from dmgan_runtime.cli.common import DmganCommand
from dmgan_runtime.errors import BundleError
from dmgan_runtime.manifest import MANIFEST_NAME, SCHEMA_VERSION, FileEntry
from dmgan_runtime.tokenizer import Tokenizer
from dmgan_train.staging import move_into_place, staging_folder
from export.bundle import CARD_NAME, SAMPLES_NAME, write_tokenizer
from export.card import model_card

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(cls=DmganCommand)
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.argument("aliases", type=_FILE)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="A new folder.")
@click.option("--notes", type=_FILE, required=True, help="What `dmgan-export --notes` took for the card.")
def main(bundle: Path, aliases: Path, output: Path, notes: Path) -> None:
    """Write BUNDLE again, with those of ALIASES whose names its vocabulary can read."""
    if output.exists():
        raise BundleError(f"{output}: exists already; choose another --output")
    with Bundle(bundle) as source, staging_folder(output) as unfinished:
        folder = unfinished / "bundle"
        for entry in source.manifest.every_file:
            file = folder / entry.path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(source.read(entry))
        tokenizer = source.tokenizer().with_aliases(aliases.read_bytes(), str(aliases))
        _rewrite(folder, source, tokenizer, notes.read_text(encoding="utf-8"))
        move_into_place(folder, output)
    click.echo(f"{output}: {len(tokenizer.aliases):,} aliases")


def _rewrite(folder: Path, source: Bundle, tokenizer: Tokenizer, notes: str) -> None:
    """Writes what tells of the aliases: vocabulary, card and manifest."""
    manifest = source.manifest.__replace__(
        schema_version=SCHEMA_VERSION,
        tokenizer=write_tokenizer(folder, tokenizer, source.manifest.tokenizer.max_words),
    )
    names = [entry.path for entry in manifest.files]
    known = {"words": len(tokenizer) - 1, "aliases": len(tokenizer.aliases)}
    card = model_card(manifest, **known, notes=notes, has_samples=SAMPLES_NAME in names)
    (folder / CARD_NAME).write_text(card, encoding="utf-8")
    manifest = manifest.__replace__(files=tuple(FileEntry.of(folder, name) for name in names))
    (folder / MANIFEST_NAME).write_bytes(manifest.to_json())


if __name__ == "__main__":
    main()
