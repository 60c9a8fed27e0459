"""A batch: every line of a file becomes a picture, and can go on where it stopped.

    python batch.py BUNDLE CAPTIONS.txt FOLDER [--seed 0]

Memory does not grow with the file. What was made stands in FOLDER/made.jsonl.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from dmgan_runtime import CaptionError, DmganError, Generator


def readable(generator: Generator, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """The lines that the model can read; says which it cannot."""
    for number, caption in lines:
        try:
            generator.encode(caption)
        except CaptionError as error:
            print(f"line {number}: {error}", file=sys.stderr)
        else:
            yield number, caption


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("captions", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        generate(arguments.bundle, arguments.captions, arguments.folder, arguments.seed)
    except (DmganError, OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"cannot go on: {error}") from error


def generate(bundle: str, text: Path, folder: Path, seed: int) -> None:
    """Generates what is not there yet."""
    with ExitStack() as stack:
        generator = stack.enter_context(Generator.open(bundle))
        file = stack.enter_context(text.open(encoding="utf-8"))
        # Only now: a folder left behind by a mistake would look like a batch that was begun.
        folder.mkdir(parents=True, exist_ok=True)
        made = stack.enter_context((folder / "made.jsonl").open("a", encoding="utf-8"))
        lines = ((number, line.strip()) for number, line in enumerate(file, 1))
        missing = (line for line in lines if line[1] and not (folder / f"{line[0]:06}.png").exists())
        numbers: list[int] = []  # of the captions that were read and not yet generated from: a batch at most

        def captions() -> Iterator[str]:
            for number, caption in readable(generator, missing):
                numbers.append(number)
                yield caption

        for done, generation in enumerate(generator.generate_iter(captions(), seed=seed, batch_size=8), 1):
            name = f"{numbers.pop(0):06}.png"
            generation.save(folder / name)
            entry = {"file": name, "caption": generation.caption, "seed": generation.seed, "words": generation.words}
            print(json.dumps(entry), file=made, flush=True)
            if done % 100 == 0:
                print(f"{done} pictures", file=sys.stderr)


if __name__ == "__main__":
    main()
