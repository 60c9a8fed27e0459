"""docs/examples/ray_batch.py, on two nodes of which one is lost."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dmgan_runtime import Generator
from tests.bundles import build_bundle
from tests.ray_cluster import ENVIRONMENT, ROOT, RayCluster, running_cluster

JOB = ROOT / "docs" / "examples" / "ray_batch.py"
CAPTIONS = ("a red heart", "blue square", "zebra")
LINES, SHARD = 4000, 50

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed; `make test-hosts` does it"
)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle and captions of which some cannot be read."""
    folder = tmp_path_factory.mktemp("ray")
    build_bundle(folder / "bundle")
    lines = [json.dumps({"caption": CAPTIONS[n % 3], "seed": 2**64 - 1 - n}) for n in range(LINES)]
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def cluster() -> Iterator[RayCluster]:
    with running_cluster() as started:
        yield started


def start(job: Path, *arguments: str, address: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, str(JOB), *map(str, (job / "bundle", job / "captions.jsonl", job / "made"))]
    return subprocess.Popen(
        [*command, "--shard-size", str(SHARD), *arguments],
        env=ENVIRONMENT | {"RAY_ADDRESS": address},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def wait_for(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    while len(list(folder.glob("*.parquet"))) < count:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def test_every_caption_is_made_once_though_a_node_is_lost(cluster: RayCluster, job: Path) -> None:
    address, made = cluster.address, job / "made"
    with start(job, address=address) as first:  # killed when it has hardly begun
        wait_for(first, made, 1)
        first.kill()
    there = {file: file.stat().st_mtime_ns for file in made.glob("*.parquet")}
    with start(job, address=address) as second:
        assert second.stdout is not None
        nodes, said = set(), ""
        while len(nodes) < 2:  # both are at work
            said += (line := second.stdout.readline())
            assert line, said
            nodes |= set(re.findall(r"pictures, by node (\w+)", line))
        cluster.lose_node()
        assert len(list(made.glob("*.parquet"))) < LINES // SHARD
        said += second.communicate(timeout=180)[0]
    assert second.returncode == 0, said
    assert f"{LINES // SHARD} shards, " in said
    assert all(file.stat().st_mtime_ns == written for file, written in there.items())

    files = sorted(made.glob("*.parquet"))
    assert [file.name for file in files] == [f"{shard:06}.parquet" for shard in range(LINES // SHARD)]
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert [row["line"] for row in rows] == list(range(1, LINES + 1))
    assert [(row["caption"], row["seed"]) for row in rows] == [(CAPTIONS[n % 3], 2**64 - 1 - n) for n in range(LINES)]
    with Generator.open(job / "bundle", threads=1) as generator:
        for row in rows[::13]:
            if row["caption"] == "zebra":
                assert row["png"] is None
                assert "no word of the caption 'zebra'" in row["error"]
                continue
            (expected,) = generator.generate(row["caption"], seed=row["seed"])
            assert row["words"] == list(expected.words)
            with Image.open(io.BytesIO(row["png"])) as picture:
                assert (np.asarray(picture) == np.asarray(expected.image)).all()
    with start(job, address="127.0.0.1:1") as third:  # all is there: no cluster is asked
        said, _ = third.communicate(timeout=60)
    assert (third.returncode, said) == (0, "80 shards, 80 are there\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"caption": "heart"}', 'line 2 is not like {"caption"'),
        ('{"caption": "heart", "seed": -1}', "seeds go from 0 to 2**64 - 1"),
    ],
)
def test_a_line_that_is_none_is_named(job: Path, tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "bundle").symlink_to(job / "bundle")
    (tmp_path / "captions.jsonl").write_text('{"caption": "heart", "seed": 1}\n' + line + "\n")
    with start(tmp_path) as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert message in said
    assert "Traceback" not in said


def test_shards_of_two_jobs_are_not_mixed(job: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").symlink_to(job / "bundle")
    (tmp_path / "captions.jsonl").write_text('{"caption": "heart", "seed": 1}\n')
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "job.json").write_text('{"captions": "others"}')
    with start(tmp_path) as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "begun with other captions, another bundle or --shard-size" in said
