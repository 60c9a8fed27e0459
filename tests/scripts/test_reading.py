from __future__ import annotations

import json

from click.testing import CliRunner

from scripts.reading import main


def test_files_and_memory_are_timed() -> None:
    result = CliRunner().invoke(main, ["--preset", "tiny", "--batches", "1", "--workers", "0"], catch_exceptions=False)
    report = json.loads(result.stdout)
    assert report["batch_size"] == 32
    assert set(report["images_per_second"]) == {"files", "memory"}
    assert min(report["images_per_second"].values()) > 0
