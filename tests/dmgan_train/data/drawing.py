"""Data sets that the tests draw for themselves, in the layouts of the real ones."""

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dmgan_train.data import Example, Split

BIRDS = {
    "train": ("001.Albatross/Albatross_0001_1", "001.Albatross/Albatross_0002_2", "002.Auklet/Auklet_0001_3"),
    "test": ("003.Bunting/Bunting_0001_4",),
}


def write_picture(path: Path, size: tuple[int, int] = (40, 30), seed: int = 0) -> Path:
    """Noise, so that any two crops of it differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_cub(root: Path, boxes: str | None = None) -> Path:
    """Four birds of three classes, the box of number n being n, 2n, 20, 10."""
    keys = [key for split in BIRDS.values() for key in split]
    cub = root / "CUB_200_2011"
    for number, key in enumerate(keys, start=1):
        write_picture(cub / "images" / f"{key}.jpg", seed=number)
        text = root / "text" / f"{key}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(f"\n  bird {number} is red  \n \nbird {number} is blue\nbird {number} is small\n")
    (cub / "images.txt").write_text("".join(f"{n} {key}.jpg\n" for n, key in enumerate(keys, start=1)))
    lines = boxes or "".join(f"{n} {n}.0 {2 * n}.0 20.0 10.0\n" for n, _ in enumerate(keys, start=1))
    (cub / "bounding_boxes.txt").write_text(lines)
    for split, names in BIRDS.items():
        (root / split).mkdir()
        (root / split / "filenames.pickle").write_bytes(pickle.dumps(list(names), protocol=0))
        classes = [np.int64(name[:3]) for name in names]
        (root / split / "class_info.pickle").write_bytes(pickle.dumps(classes))
    return root


def write_coco(root: Path, split: str = "val2014", pictures: int = 3) -> Path:
    images = [{"id": 10 + n, "file_name": f"COCO_{split}_{n}.jpg", "license": 1} for n in range(pictures)]
    annotations = [
        {"id": 100 * n + k, "image_id": 10 + n, "caption": f"photo {n} seen {k} times"}
        for k in range(5)
        for n in range(pictures)
    ]
    path = root / "annotations" / f"captions_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations}))
    for image in images:
        write_picture(root / "images" / split / image["file_name"])
    return root


def write_metadata(root: Path, lines: Sequence[Mapping[str, object] | str]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (root / "metadata.jsonl").write_text(text)
    return root


def noise_split(root: Path, count: int, captions: Sequence[str] = ("a red bird", "one small blue bird")) -> Split:
    examples = (
        Example(f"{n}", write_picture(root / f"{n}.png", seed=n), tuple(captions), class_id=n // 2)
        for n in range(count)
    )
    return Split("train", root, tuple(examples))
