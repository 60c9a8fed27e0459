"""A batch on many machines: every caption of a file becomes a picture, in shards that appear whole.

    python ray_batch.py BUNDLE CAPTIONS.jsonl FOLDER [--shard-size 1000] [--cpus 1] [--gpus 0]

A line of CAPTIONS.jsonl is `{"caption": "red heart", "seed": 7}`. A shard is a Parquet file in FOLDER, one row a line:
line, caption, seed, words, unknown_words, cut_words, png, and an error where a caption cannot be read. Shards that are
there already are left out, so the same command goes on where it stopped. It needs `pip install "ray[data]"`, and
BUNDLE, CAPTIONS.jsonl and FOLDER on a file system that all machines share; RAY_ADDRESS names the cluster.
"""

import argparse
import hashlib
import json
import secrets
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from dmgan_runtime import CaptionError, DmganError, Generator
from dmgan_runtime.viz import encode

BATCH_SIZE = 8
EXAMPLE = 'like {"caption": "red heart", "seed": 7}'
SCHEMA = pa.schema(
    [
        ("line", pa.int64()),
        ("caption", pa.string()),
        ("seed", pa.uint64()),
        *((name, pa.list_(pa.string())) for name in ("words", "unknown_words", "cut_words")),
        ("png", pa.binary()),
        ("error", pa.string()),
    ]
)


class ShardMaker:
    """One actor: a generator that makes shards, and keeps no other state."""

    def __init__(self, bundle: Path, captions: Path, folder: Path, shard_size: int, threads: int) -> None:
        self.generator = Generator.open(bundle, threads=threads)
        self.captions, self.folder, self.shard_size = captions, folder, shard_size

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Makes a shard, and tells how many pictures it has and where it was made."""
        (shard,), (offset,) = batch["shard"].tolist(), batch["offset"].tolist()
        node = ray.get_runtime_context().get_node_id()
        return {"shard": [shard], "pictures": [self.make(shard, offset)], "node": [node]}

    def make(self, shard: int, offset: int) -> int:
        """Writes a shard, and returns how many pictures it has; made again after a machine was lost, it is the same."""
        with self.captions.open("rb") as file:
            file.seek(offset)
            lines = [json.loads(line) for line in islice(file, self.shard_size)]
        rows: list[dict[str, Any]] = [
            {"line": number, "caption": line["caption"], "seed": int(line["seed"])}
            for number, line in enumerate(lines, shard * self.shard_size + 1)
        ]
        readable = []
        for row in rows:
            try:
                self.generator.encode(row["caption"])
                readable.append(row)
            except CaptionError as error:
                row["error"] = str(error)
        size = min(BATCH_SIZE, self.generator.active.max_batch or BATCH_SIZE)
        for first in range(0, len(readable), size):
            part = readable[first : first + size]
            *_, last = self.generator.stream_batch(
                [row["caption"] for row in part], seeds=[row["seed"] for row in part]
            )
            for row, generation in zip(part, last, strict=True):
                row |= {name: getattr(generation, name) for name in ("words", "unknown_words", "cut_words")}
                row["png"] = encode(generation.image, "PNG", generation.metadata)
        # Under another name first: a shard is there whole, or not at all.
        scratch = self.folder / f".{secrets.token_hex(8)}"
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), scratch)
        scratch.rename(self.folder / name_of(shard))
        return len(readable)


def name_of(shard: int) -> str:
    """The file of a shard."""
    return f"{shard:06}.parquet"


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """A line of the captions, as the driver checks it."""

    caption: str
    seed: int

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise ValueError("seeds go from 0 to 2**64 - 1")


def find_shards(captions: Path, size: int) -> Iterator[dict[str, int]]:
    """Where each shard's lines begin; says which line is none, before anything is made."""
    with captions.open("rb") as file:
        offset = 0
        for number, line in enumerate(file):
            try:
                msgspec.json.decode(line, type=Line)
            except msgspec.MsgspecError as error:
                raise SystemExit(f"{captions}: line {number + 1} is not {EXAMPLE}: {error}") from error
            if number % size == 0:
                yield {"shard": number // size, "offset": offset}
            offset += len(line)


def check_job(folder: Path, generator: Generator, captions: Path, shard_size: int) -> None:
    """Makes the folder, or checks that it is of the same job: shards of two must not be mixed."""
    with captions.open("rb") as file:
        job = {"captions": hashlib.file_digest(file, "sha256").hexdigest(), "shard_size": shard_size}
    job["bundle"] = hashlib.sha256(generator.manifest.to_json()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "job.json"
    if not note.exists():
        (folder / ".job.json").write_text(json.dumps(job))
        (folder / ".job.json").rename(note)
    elif json.loads(note.read_text()) != job:
        raise SystemExit(f"{folder}: begun with other captions, another bundle or --shard-size; choose another folder")


def main() -> None:
    """Reads the command line, and makes what is missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("captions", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shard-size", type=int, default=1000)
    parser.add_argument("--cpus", type=int, default=1, help="of one actor")
    parser.add_argument("--gpus", type=float, default=0, help="of one actor")
    given = parser.parse_args()
    if given.shard_size < 1 or given.cpus < 1 or given.gpus < 0:
        parser.error("--shard-size and --cpus are at least 1, --gpus at least 0")
    bundle, captions, folder = (path.absolute() for path in (given.bundle, given.captions, given.folder))
    try:
        with Generator.open(bundle) as generator:  # before machines are asked
            shards = list(find_shards(captions, given.shard_size))
            check_job(folder, generator, captions, given.shard_size)
    except (DmganError, OSError) as error:
        raise SystemExit(f"cannot go on: {error}") from error
    missing = [shard for shard in shards if not (folder / name_of(shard["shard"])).exists()]
    print(f"{len(shards)} shards, {len(shards) - len(missing)} are there", flush=True)
    if not missing:
        return
    for scratch in folder.glob(".*"):  # of machines that were lost
        scratch.unlink()
    ray.init()
    there = ray.cluster_resources()
    actors = [there.get(kind, 0) // each for kind, each in (("CPU", given.cpus), ("GPU", given.gpus)) if each]
    if not (most := int(min(actors))):
        raise SystemExit(f"no actor of {given.cpus} CPUs and {given.gpus} GPUs fits the cluster; ask for less")
    work = ray.data.from_items(missing, override_num_blocks=len(missing)).map_batches(
        ShardMaker,
        fn_constructor_args=(bundle, captions, folder, given.shard_size, given.cpus),
        batch_size=1,
        num_cpus=given.cpus,
        num_gpus=given.gpus,
        compute=ray.data.ActorPoolStrategy(min_size=1, initial_size=most, max_size=most),
    )
    for done in work.iter_rows():
        print(f"{name_of(done['shard'])}: {done['pictures']} pictures, by node {done['node'][:8]}", flush=True)


if __name__ == "__main__":
    main()
