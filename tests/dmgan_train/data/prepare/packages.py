"""npm packages in small: tarballs as `npm pack` writes them."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

TONES = ("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF")
SKINS = ((250, 220, 200), (220, 180, 150), (180, 140, 110), (140, 100, 70), (60, 40, 30))
YELLOW = (255, 200, 0)


def write_tarball(path: Path, files: Mapping[str, bytes], name: str = "a-package", version: str = "1.0.0") -> Path:
    manifest = json.dumps({"name": name, "version": version, "license": "MIT"}).encode()
    with tarfile.open(path, "w:gz") as archive:
        for inner, content in {"package.json": manifest, **files}.items():
            member = tarfile.TarInfo(f"package/{inner}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def drawing(color: tuple[int, int, int], size: tuple[int, int] = (32, 32)) -> bytes:
    """A square of one color in the middle of nothing."""
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    image.paste((*color, 255), (8, 8, 24, 24))
    content = io.BytesIO()
    image.save(content, "webp", lossless=True)
    return content.getvalue()


def vector(color: tuple[int, int, int]) -> bytes:
    """The same as an SVG: a square of one color in the middle of nothing."""
    fill = "#{:02x}{:02x}{:02x}".format(*color)
    path = f'<path d="M8 8H24V24H8Z" fill="{fill}"/>'
    return f'<svg width="32" height="32" viewBox="0 0 32 32" xmlns="http://www.w3.org/2000/svg">{path}</svg>'.encode()


def write_emoji_packages(folder: Path, people: int = 12) -> tuple[Path, Path, Path]:
    """Drawings, flat drawings and names: people in all skin tones, a heart, a sign and flags.

    Every second person has two tones exchanged, and the last one, not flat, all of them.
    """
    names = [
        {"label": "red heart", "hexcode": "2764", "tags": ["emotion", "love"], "order": 1},
        {"label": "copyright", "hexcode": "00A9", "tags": ["c"]},
        {"label": "chequered flag", "hexcode": "1F3C1", "tags": ["racing"]},
        {"label": "flag: Chad", "hexcode": "1F1F9-1F1E9", "tags": []},
        {"label": "not drawn", "hexcode": "1F999", "tags": []},
    ]
    drawings = {
        "2764-fe0f": drawing((255, 0, 0), (32, 40)),
        "a9-fe0f": drawing((0, 0, 0)),
        "00a9-fe0f": drawing((0, 0, 0)),
        "1f3c1": drawing((9, 9, 9)),
        "1f1f9-1f1e9": drawing((0, 0, 255)),
        "1f3f4-e0067_e0062_e007f": drawing((1, 1, 1)),
    }
    flat = {"2764-fe0f": vector((255, 0, 0))}
    for number in range(people):
        hexcode = f"1F{number:03X}"
        skins = [{"hexcode": f"{hexcode}-{tone}", "tone": index} for index, tone in enumerate(TONES, start=1)]
        pair = {"hexcode": f"{hexcode}-1F3FB-200D-1F3FF", "tone": [1, 5]}
        names.append({"label": f"person {number}", "hexcode": hexcode, "tags": ["adult"], "skins": [*skins, pair]})
        light, medium_light, medium, *dark = SKINS
        colors = (light, medium, medium_light, *dark) if number % 2 else SKINS
        drawings[hexcode.lower()] = drawing(YELLOW)
        if number == people - 1:
            drawings |= {s["hexcode"].lower(): drawing(color) for s, color in zip(skins, SKINS[::-1], strict=True)}
        else:
            drawings |= {s["hexcode"].lower(): drawing(color) for s, color in zip(skins, colors, strict=True)}
        flat[hexcode.lower()] = vector(YELLOW)
        flat |= {s["hexcode"].lower(): vector(color) for s, color in zip(skins, colors, strict=True)}
    return (
        write_tarball(
            folder / "drawings.tgz",
            {f"assets/{stem}.webp": content for stem, content in drawings.items()} | {"README.md": b"MIT, by A"},
            "@lobehub/fluent-emoji-3d",
            "1.1.0",
        ),
        write_tarball(
            folder / "flat.tgz",
            {f"assets/{stem}.svg": content for stem, content in flat.items()} | {"README.md": b"MIT, by A too"},
            "@lobehub/fluent-emoji-flat",
            "1.1.0",
        ),
        write_tarball(
            folder / "names.tgz",
            {"en/data.json": json.dumps(names).encode(), "de/data.json": b"[]", "LICENSE": b"MIT, by B"},
            "emojibase-data",
            "17.0.0",
        ),
    )
