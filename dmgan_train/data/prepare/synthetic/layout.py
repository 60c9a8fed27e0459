"""Writes painted birds to disk as CUB-200-2011 and the published captions and splits are laid out."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dmgan_runtime.cpus import usable_cpus
from dmgan_runtime.errors import DataError, SettingsError
from dmgan_train.data.prepare.synthetic.anatomy import bounding_box
from dmgan_train.data.prepare.synthetic.birds import Bird
from dmgan_train.data.prepare.synthetic.painter import paint
from dmgan_train.data.prepare.synthetic.species import MAX_SPECIES, Species, draw_species
from dmgan_train.staging import staging_folder

IMAGES_PER_SPECIES = 4
MIN_COUNT = 2 * IMAGES_PER_SPECIES  # one species to train with and one to test with
_SPECIES_STREAM, _IMAGE_STREAM = 0, 1


class _Entry(NamedTuple):
    """An image of the data set.

    Attributes:
        number: From 0; with the seed it decides everything about the image.
        key: `class/name`, the path of picture and captions without the ending.
        class_id: From 1.
        species: Of the bird in it.
    """

    number: int
    key: str
    class_id: int
    species: Species


def paint_dataset(
    root: Path,
    *,
    count: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> None:
    """Paints birds and writes them, with captions, boxes, classes and splits, in the layout of CUB-200-2011.

    Four images a species (more only beyond 4,000 images); of four species three are for training, and one, that
    training never sees, is for testing. Image i depends on the seed and i alone. The folder appears when it is
    complete, and not at all if the work fails.

    Args:
        root: Where to; a new or an empty folder.
        count: How many images, from 8. With 48 or more every colour of every part is in the training split.
        seed: From 0; the same arguments give the same files, byte for byte.
        progress: Called in this thread with the number of images done and `count`, after each image.
        workers: How many threads paint, from 1; as many as there are CPUs to use if None. Changes no file.

    Raises:
        SettingsError: if count, seed or workers is out of its range.
        DataError: if `root` holds anything already, or cannot be written.
    """
    workers = usable_cpus() if workers is None else workers
    for name, value, least in (("count", count, MIN_COUNT), ("seed", seed, 0), ("workers", workers, 1)):
        if value < least:
            raise SettingsError(f"{name}={value} is too small for painted birds; give {least} or more")
    entries = _plan(count, seed)
    try:
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise DataError(f"{root}: already there and not empty; delete it or name another folder")
        with staging_folder(root, DataError) as scratch:
            staged = scratch / "painted"
            _write(staged, entries, seed, progress, workers)
            staged.replace(root)
    except OSError as error:
        raise DataError(f"{root}: cannot be written ({error}); free the disk or name another folder") from error


def species_of(seed: int) -> Iterator[Species]:
    """The species of the data set that `paint_dataset` makes of a seed, in its order."""
    return draw_species(_generator(seed, _SPECIES_STREAM))


def _plan(count: int, seed: int) -> list[_Entry]:
    """Decides the species and the name of each image, ordered by class as CUB's lists are."""
    class_ids = [1 + index // IMAGES_PER_SPECIES % MAX_SPECIES for index in range(count)]
    species = list(islice(species_of(seed), max(class_ids)))
    entries = []
    for index, class_id in sorted(enumerate(class_ids), key=lambda pair: pair[1]):
        name = species[class_id - 1].name
        key = f"{class_id:03}.{name}/{name}_{index % IMAGES_PER_SPECIES + 1:04}_{index + 1}"
        entries.append(_Entry(index, key, class_id, species[class_id - 1]))
    return entries


def _write(
    root: Path, entries: list[_Entry], seed: int, progress: Callable[[int, int], None] | None, workers: int
) -> None:
    for folder in dict.fromkeys(Path(entry.key).parent for entry in entries):
        (root / "CUB_200_2011" / "images" / folder).mkdir(parents=True)
        (root / "text" / folder).mkdir(parents=True)
    boxes = []
    # Threads, for Pillow works without the interpreter's lock, and each process would load PyTorch first.
    pool = ThreadPoolExecutor(workers)
    try:
        for box in pool.map(lambda entry: _write_image(root, entry, seed), entries):
            boxes.append(box)
            if progress is not None:
                progress(len(boxes), len(entries))
    finally:
        pool.shutdown(cancel_futures=True)
    _write_lists(root / "CUB_200_2011", entries, boxes)
    for split, training in (("train", True), ("test", False)):
        _write_split(root / split, [entry for entry in entries if entry.species.training == training])


def _write_image(root: Path, entry: _Entry, seed: int) -> str:
    """Writes the picture and the captions of an image, and returns its box as CUB writes it."""
    rng = _generator(seed, _IMAGE_STREAM, entry.number)
    bird = Bird.draw(entry.species.plumage, rng)
    # At full chroma, for the bill is a few pixels wide.
    paint(bird, rng).save(root / "CUB_200_2011" / "images" / f"{entry.key}.jpg", quality=92, subsampling="4:4:4")
    _write_lines(root / "text" / f"{entry.key}.txt", bird.captions(rng))
    return " ".join(f"{value:.1f}" for value in bounding_box(bird))


def _write_lists(folder: Path, entries: list[_Entry], boxes: list[str]) -> None:
    """Writes CUB's own lists: of images by number from 1, and of classes."""
    columns: dict[str, Iterable[object]] = {
        "images": (f"{entry.key}.jpg" for entry in entries),
        "bounding_boxes": boxes,
        "image_class_labels": (entry.class_id for entry in entries),
        "train_test_split": (int(entry.species.training) for entry in entries),
        "classes": dict.fromkeys(entry.key.split("/")[0] for entry in entries),
    }
    for name, values in columns.items():
        _write_lines(folder / f"{name}.txt", (f"{number} {value}" for number, value in enumerate(values, start=1)))


def _write_split(folder: Path, entries: list[_Entry]) -> None:
    folder.mkdir()
    # Protocol 2 is the newest that every reader of the published pickles knows.
    (folder / "filenames.pickle").write_bytes(pickle.dumps([entry.key for entry in entries], protocol=2))
    (folder / "class_info.pickle").write_bytes(pickle.dumps([entry.class_id for entry in entries], protocol=2))


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _generator(seed: int, *stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=stream))
