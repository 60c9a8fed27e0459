"""Microsoft's Fluent emoji as an image folder: drawings in two styles with captions, made from npm packages."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from zlib import crc32

import msgspec
import numpy as np
import resvg_py
from PIL import Image, ImageOps

from dmgan_runtime.aliases import aliases_to_json
from dmgan_runtime.errors import DataError
from dmgan_train.data.aliases import ALIASES
from dmgan_train.data.examples import SplitName
from dmgan_train.data.image_folder import METADATA
from dmgan_train.data.prepare.emoji_captions import captions_for
from dmgan_train.data.prepare.npm import Package, pack, read_package
from dmgan_train.data.transforms import on_white
from dmgan_train.staging import staging_folder

DRAWINGS = {"3d": ("@lobehub/fluent-emoji-3d", "1.1.0"), "flat": ("@lobehub/fluent-emoji-flat", "1.1.0")}
STYLES = tuple(DRAWINGS)
NAMES = ("emojibase-data", "17.0.0")

_LICENCE_NOTE = """The pictures and captions in this folder are made from npm packages under the MIT licence:

- pictures: {drawings}, by LobeHub, after Microsoft's Fluent Emoji (MIT, Copyright (c) Microsoft Corporation);
  put on a white ground, and where skin tones were exchanged, named right
- captions: {names}, Copyright (c) Miles Johnson; names and keywords, made into phrases. It has them from Unicode's
  CLDR (Unicode License v3, https://www.unicode.org/license.txt)

What the packages say of their licence is in the folder licenses/.
"""
_TONES = {
    1: "light skin tone",
    2: "medium-light skin tone",
    3: "medium skin tone",
    4: "medium-dark skin tone",
    5: "dark skin tone",
}
_LIGHT, _MEDIUM_LIGHT, _MEDIUM, *_, _DARK = _TONES
_BEFORE_THE_TONES = 0x1F3FA
_LICENCE_FILES = {"LICENSE", "README.md"}
_PICTURES = (".webp", ".svg")


class _Skin(msgspec.Struct, frozen=True):
    hexcode: str
    tone: int | list[int]


class _Emoji(msgspec.Struct, frozen=True):
    label: str
    hexcode: str
    tags: list[str] = []
    skins: list[_Skin] = []


class _Source(NamedTuple):
    path: str
    content: bytes


_Sources = Mapping[str, _Source]


class _Drawing(NamedTuple):
    hexcode: str
    tone: int | None
    image: Image.Image


class EmojiCounts(NamedTuple):
    """What a data set of emoji came to.

    Attributes:
        train: Pictures to train on.
        test: Pictures that are held out.
        concepts: Different emoji, skin tones joined.
    """

    train: int
    test: int
    concepts: int


def prepare_emoji(
    destination: Path,
    *,
    styles: Sequence[str] = STYLES,
    tarballs: Sequence[Path] | None = None,
    resolution: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> EmojiCounts:
    """Makes the emoji data set: pictures on white, five to twelve captions each, split into train and test.

    Beside them lies what a caption may have in place of a name: the characters of each emoji that is drawn.

    The class of a picture is its emoji; skin tones and styles are joined. For each emoji with skin tones the test
    split holds one of the five tones, so that each of its pictures is a combination that training never shows, of an
    emoji and a tone that training does show. With more than one style, three captions of a picture name its style;
    the other captions fit the emoji in every style.

    Args:
        destination: The folder to make. It is there whole or not at all.
        styles: Of `STYLES`, those to draw; the first decides which emoji there are.
        tarballs: The npm packages of the styles and of the names, in any order; None downloads them with npm.
        resolution: Side of the pictures in pixels.
        progress: Called with the emoji done and their number.

    Returns:
        How many pictures there are in each split, and of how many emoji.

    Raises:
        DataError: if the folder is in use, or the packages cannot be had or are others.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise DataError(f"{destination}: is already there; remove it, or choose another folder")
    with staging_folder(destination, DataError) as temporary:
        *drawings, names = _open_packages([*(DRAWINGS[style] for style in styles), NAMES], tarballs, temporary)
        folder = temporary / "emoji"
        counts = _write(folder, dict(zip(styles, drawings, strict=True)), names, resolution, progress)
        _write_licences(folder, drawings, names)
        if destination.exists():
            destination.rmdir()
        folder.rename(destination)
    return counts


def _open_packages(
    wanted: Sequence[tuple[str, str]], tarballs: Sequence[Path] | None, folder: Path
) -> tuple[Package, ...]:
    if tarballs is None:
        tarballs = [pack("@".join(one), folder) for one in wanted]
    packages = {package.name: package for package in (read_package(path, _is_wanted) for path in tarballs)}
    for name, version in wanted:
        if name not in packages:
            raise DataError(
                f"{' and '.join(map(str, tarballs))} hold {' and '.join(packages)}, so {name} is missing;"
                f" 'npm pack {name}@{version}' fetches it"
            )
    return tuple(packages[name] for name, _ in wanted)


def _is_wanted(path: str) -> bool:
    return path.endswith(_PICTURES) or path == "en/data.json" or path in _LICENCE_FILES


def _write(
    folder: Path,
    drawings: Mapping[str, Package],
    names: Package,
    resolution: int,
    progress: Callable[[int, int], None] | None,
) -> EmojiCounts:
    sources = {style: _sources(package) for style, package in drawings.items()}
    known = next(iter(sources.values()))
    emoji = [one for one in _read_names(names) if _normal(one.hexcode) in known and not _is_country(one)]
    if not emoji:
        package = next(iter(drawings.values()))
        raise DataError(f"{package.name} {package.version} has no drawing that {names.name} {names.version} names")
    pictures = Counter[str]()
    # A tone by itself is read where a tone is not drawn.
    aliases = {chr(_BEFORE_THE_TONES + tone): name for tone, name in _TONES.items()}
    for style in sources:
        (folder / "images" / style).mkdir(parents=True)
    with (folder / METADATA).open("wb") as metadata:
        for done, one in enumerate(emoji, start=1):
            for style, own in sources.items():
                named = style if len(sources) > 1 else None
                for drawing in _drawings(one, own, resolution):
                    file_name = f"images/{style}/{drawing.hexcode.lower()}.png"
                    drawing.image.save(folder / file_name)
                    split = _split(one, drawing.tone)
                    pictures[split] += 1
                    skin = None if drawing.tone is None else _TONES[drawing.tone]
                    captions = captions_for(one.label, one.tags, skin, has_tones=bool(one.skins), style=named)
                    aliases[_characters(drawing.hexcode)] = captions[0]
                    line = {"file_name": file_name, "captions": captions, "class": one.label, "split": split}
                    metadata.write(msgspec.json.encode(line) + b"\n")
            if progress:
                progress(done, len(emoji))
    (folder / ALIASES).write_bytes(aliases_to_json(aliases))
    return EmojiCounts(pictures["train"], pictures["test"], len(emoji))


def _sources(drawings: Package) -> _Sources:
    # A few drawings come twice under different spellings of their code points; either will do, always the same one.
    return {
        _normal(PurePosixPath(path).stem): _Source(path, content)
        for path, content in sorted(drawings.files.items())
        if path.endswith(_PICTURES)
    }


def _read_names(names: Package) -> list[_Emoji]:
    try:
        return msgspec.json.decode(names.files.get("en/data.json", b""), type=list[_Emoji])
    except (ValueError, RecursionError) as error:
        raise DataError(f"{names.name} {names.version}: en/data.json is not as expected ({error})") from error


def _is_country(one: _Emoji) -> bool:
    return one.label.startswith("flag: ")


def _normal(hexcode: str) -> str:
    """The code points alone: the packages disagree on case, leading zeros and the variation selector."""
    points = hexcode.lower().replace("_", "-").split("-")
    return "-".join(point.lstrip("0") for point in points if point != "fe0f")


def _characters(hexcode: str) -> str:
    return "".join(chr(int(point, 16)) for point in _normal(hexcode).split("-"))


def _drawings(one: _Emoji, sources: _Sources, resolution: int) -> Iterator[_Drawing]:
    """The emoji itself and in each skin tone that it is drawn in."""
    hexcodes: dict[int | None, str] = {None: one.hexcode}
    # Pairs of people may have two tones at once; those are not drawn.
    hexcodes |= {skin.tone: skin.hexcode for skin in one.skins if isinstance(skin.tone, int)}
    images = {
        tone: _open(sources[_normal(hexcode)], resolution)
        for tone, hexcode in hexcodes.items()
        if _normal(hexcode) in sources
    }
    _put_tones_right(images)
    for tone, image in images.items():
        yield _Drawing(hexcodes[tone], tone, image)


def _put_tones_right(images: dict[int | None, Image.Image]) -> None:
    """Exchanges drawings that stand under each other's skin tone, as both sets of version 1.1.0 have them."""
    tones = [tone for tone in _TONES if tone in images]
    if not {_LIGHT, _MEDIUM_LIGHT, _MEDIUM, _DARK} <= images.keys():
        return
    if _brightness(images[_LIGHT]) < _brightness(images[_DARK]):  # one emoji has all of its tones in disorder
        drawn = sorted((images[tone] for tone in tones), key=_brightness, reverse=True)
        images |= dict(zip(tones, drawn, strict=True))
    elif _brightness(images[_MEDIUM_LIGHT]) < _brightness(images[_MEDIUM]):  # and most have these two exchanged
        images[_MEDIUM_LIGHT], images[_MEDIUM] = images[_MEDIUM], images[_MEDIUM_LIGHT]


def _open(source: _Source, resolution: int) -> Image.Image:
    try:
        content = source.content
        if source.path.endswith(".svg"):
            content = bytes(resvg_py.svg_to_bytes(svg_string=content.decode(), width=resolution, height=resolution))
        with Image.open(io.BytesIO(content)) as image:
            drawing = on_white(image)
    except (OSError, ValueError) as error:
        raise DataError(f"{source.path} cannot be read as a picture ({error}); fetch the package again") from error
    side = max(drawing.size)  # a few drawings are not quite square
    square = ImageOps.pad(drawing, (side, side), color="white")
    return square.resize((resolution, resolution), Image.Resampling.LANCZOS)


def _brightness(image: Image.Image) -> float:
    return float(np.asarray(image).mean())


def _split(one: _Emoji, tone: int | None) -> SplitName:
    # The checksum of the emoji picks its tone, so that the choice looks random, never changes, and covers all tones.
    held_out = crc32(one.hexcode.encode()) % len(_TONES) + 1
    return "test" if tone == held_out else "train"


def _write_licences(folder: Path, drawings: Sequence[Package], names: Package) -> None:
    said = [f"{package.name} {package.version}" for package in (*drawings, names)]
    note = _LICENCE_NOTE.format(drawings=" and ".join(said[:-1]), names=said[-1])
    (folder / "LICENSE").write_text(note, encoding="utf-8")
    for package in (*drawings, names):
        kept = folder / "licenses" / package.name.removeprefix("@").replace("/", "-")
        kept.mkdir(parents=True)
        for path in _LICENCE_FILES & package.files.keys():
            (kept / path).write_bytes(package.files[path])
