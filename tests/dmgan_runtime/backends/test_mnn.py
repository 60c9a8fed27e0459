"""MNN over the model that comes with the package: its convolutions are those that Winograd's algorithm is for."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmgan_runtime import BackendError, EngineError, Generator
from dmgan_runtime.backends import mnn
from dmgan_runtime.backends.base import EngineSettings
from dmgan_runtime.backends.mnn import MnnBackend
from dmgan_runtime.bundle import Bundle, packaged_bundle
from dmgan_runtime.manifest import FileEntry
from dmgan_runtime.quality import psnr
from export.mnn import build_mnn_engine
from tests.bundles import zip_bundle

CAPTIONS = ["red heart", "thumbs up, dark skin tone", "pizza", "cat"]
FORK = """
import os, sys
from dmgan_runtime import EngineError, Generator

generator = Generator.open(sys.argv[1], backend="mnn", threads=int(sys.argv[2]))
first = generator.generate("red heart", seed=1)[0].image.tobytes()
if not os.fork():
    try:
        print("same" if generator.generate("red heart", seed=1)[0].image.tobytes() == first else "another", flush=True)
    except EngineError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged bundle with an engine."""
    folder = tmp_path_factory.mktemp("mnn") / "emoji"
    shutil.copytree(packaged_bundle(), folder)
    build_mnn_engine(folder, None, lambda _: None)
    return folder


@pytest.fixture(scope="module")
def generator(emoji: Path) -> Iterator[Generator]:
    with Generator.open(emoji, backend="mnn", threads=2) as opened:
        yield opened


@pytest.fixture
def own(emoji: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(emoji, tmp_path / "own"))


def engine_of(bundle: Path) -> Path:
    (folder,) = (bundle / "engines").iterdir()
    return folder


def images(generator: Generator, **how: Any) -> np.ndarray:
    return np.stack([np.asarray(each.image) for each in generator.generate(CAPTIONS, seed=3, **how)])


def load(path: Path, **changes: Any) -> MnnBackend:
    with Bundle(path) as bundle:
        return MnnBackend(bundle, EngineSettings(named=True, **changes))


def test_it_is_for_those_who_name_it(generator: Generator, emoji: Path) -> None:
    with Generator.open(emoji) as served:
        assert "mnn" not in {each.backend for each in served.active.considered}
    active = generator.active
    assert (active.backend, active.device, active.precision, active.threads) == ("mnn", "cpu", "fp32", 2)
    assert f"with the engine engines/{engine_of(emoji).name}, and onnxruntime" in active.reason
    assert active.reason.count("for text_encoder and generator_0") == 1


def test_without_an_engine_it_says_how_to_get_one() -> None:
    with pytest.raises(BackendError, match=r"build one with: dmgan-export build-engine .*emoji-256 --engine mnn"):
        Generator.open(backend="mnn", threads=1)


def test_its_numbers_are_those_of_onnxruntime(generator: Generator, emoji: Path) -> None:
    spec, words = generator.manifest.model, generator.manifest.tokenizer.max_words
    rng = np.random.default_rng(1)
    lengths = np.array([1, words, 3])
    tokens = rng.integers(1, len(generator.tokenizer), (3, words)) * (np.arange(words) < lengths[:, None])
    noise = rng.standard_normal((3, spec.noise_features)).astype(np.float32)
    condition_noise = rng.standard_normal((3, spec.condition_features)).astype(np.float32)
    with Generator.open(emoji, backend="onnxruntime", device="cpu", threads=1) as reference:
        expected = reference.synthesize(tokens, lengths, noise, condition_noise, attention=True)
    actual = generator.synthesize(tokens, lengths, noise, condition_noise, attention=True)
    for side, image in expected.images.items():
        assert psnr(actual.images[side], image) > 60
    for side, attention in expected.attention.items():
        np.testing.assert_allclose(actual.attention[side], attention, atol=1e-3)
        np.testing.assert_allclose(actual.attention[side].sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_neighbours_change_no_image(generator: Generator, batch_size: int) -> None:
    difference = images(generator, batch_size=batch_size).astype(int) - images(generator, batch_size=4)
    assert np.abs(difference).max() <= 1


def test_the_number_of_threads_changes_a_level_at_most(emoji: Path, generator: Generator) -> None:
    with Generator.open(emoji, backend="mnn", threads=1) as alone:
        assert np.abs(images(alone).astype(int) - images(generator)).max() <= 1


def test_threads_get_what_one_gets(generator: Generator) -> None:
    expected = images(generator)
    with ThreadPoolExecutor(4) as pool:
        for made in pool.map(lambda _: images(generator), range(8)):
            np.testing.assert_array_equal(made, expected)


def test_a_zip_is_served_too(emoji: Path, tmp_path: Path, generator: Generator) -> None:
    with Generator.open(zip_bundle(emoji, tmp_path / "emoji.zip"), backend="mnn", threads=2) as zipped:
        np.testing.assert_array_equal(images(zipped), images(generator))


def test_nothing_of_mnn_is_on_the_standard_output(emoji: Path, tmp_path: Path) -> None:
    script = "import sys; from dmgan_runtime.cli.generate import main; main()"
    command = [sys.executable, "-c", script, "-b", str(emoji), "pizza", "--json", "-o", str(tmp_path / "pizza.png")]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(made.stdout)["caption"] == "pizza"
    assert (tmp_path / "pizza.png").is_file()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize(("threads", "answer"), [(2, "no engine for this forked process (backend 'mnn'"), (1, "same")])
def test_a_forked_process_is_told_and_never_hangs(emoji: Path, threads: int, answer: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(emoji), str(threads)]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert made.stdout.startswith(answer)
    if threads > 1:
        assert "pass threads=1, which needs none); start processes with spawn, not fork" in made.stdout


def test_another_version_is_no_engine(emoji: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnn, "version", lambda _: "3.7.0")
    with pytest.raises(
        BackendError, match=r"built by mnn 3\.\S+, and 3\.7\.0 is at hand.*build-engine .* --engine mnn"
    ):
        load(emoji)


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_other_precisions_are_refused(emoji: Path, precision: str) -> None:
    with pytest.raises(BackendError, match=f"mnn on the CPU does not compute in precision '{precision}'; pass .*fp32"):
        load(emoji, precision=precision)


def test_a_package_that_is_missing_names_the_pip_line(emoji: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "MNN", None)
    with pytest.raises(BackendError, match=r'mnn cannot be imported .*pip install "dmgan\[mnn\]"'):
        load(emoji)

    def gone(name: str) -> str:
        raise mnn.PackageNotFoundError(name)

    monkeypatch.setattr(mnn, "version", gone)
    with pytest.raises(BackendError, match=r'mnn is not installed; install it with: pip install "dmgan\[mnn\]"'):
        MnnBackend.probe(0)


@pytest.mark.parametrize("role", ["generator_1", "generator_2"])
def test_a_plan_that_was_tampered_with_never_reaches_the_engine(
    own: Path, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = engine_of(own) / f"{role}.mnn"
    content = bytearray(plan.read_bytes())
    content[len(content) // 2] ^= 1
    plan.write_bytes(content)
    seen = []
    monkeypatch.setattr(mnn, "MnnModule", lambda _, __, loaded, ___: seen.append(loaded))
    with pytest.raises(EngineError, match=rf"{role}.mnn: damaged or replaced.* remove engines/.*build it again"):
        load(own)
    assert role not in seen


def test_a_damaged_engine_is_an_error(own: Path) -> None:
    (engine_of(own) / "generator_2.mnn").write_bytes(b"damaged")
    with pytest.raises(EngineError, match=r"generator_2\.mnn: damaged or replaced"):
        Generator.open(own, backend="mnn")


def rewrite(bundle: Path, change: Callable[[Path, dict[str, Any]], None]) -> None:
    """Changes an engine as one who knows the format does: every hash is right afterwards."""
    folder = engine_of(bundle)
    manifest = json.loads((folder / "engine.json").read_bytes())
    change(folder, manifest)
    for plan in manifest["plans"]:
        entry = FileEntry.of(folder, plan["file"]["path"])
        plan["file"] = {"path": entry.path, "bytes": entry.bytes, "sha256": entry.sha256}
    (folder / "engine.json").write_text(json.dumps(manifest))


def swap(folder: Path, manifest: dict[str, Any]) -> None:
    first, second, *_ = manifest["plans"]
    first["file"], second["file"] = second["file"], first["file"]


def test_a_plan_of_another_stage_is_refused_when_it_is_opened(own: Path) -> None:
    rewrite(own, swap)
    message = r"generator_2\.mnn: it is another graph's: previous_features is \[1, 24, 32, 32\], and generator_1 takes"
    with pytest.raises(EngineError, match=message):
        Generator.open(own, backend="mnn", threads=1)


@pytest.mark.parametrize("trouble", ["missing", "full"])
def test_without_room_for_temporary_files_it_is_an_error(
    emoji: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if trouble == "missing":
        monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    else:
        monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(EngineError, match=r"room .*; make room( there)?, or set TMPDIR to another folder"):
        Generator.open(emoji, backend="mnn", threads=1)


def test_without_any_temporary_folder_it_is_an_error(emoji: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", none)
    with pytest.raises(EngineError, match="No usable temporary directory found"):
        Generator.open(emoji, backend="mnn", threads=1)


def test_a_plan_that_mnn_cannot_read_is_named(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmgan_runtime.backends.built_engines.FoundEngine.read", lambda *_: b"no plan")
    with pytest.raises(EngineError, match=r"generator_1.mnn: mnn cannot load it \(.+\); remove engines/"):
        load(own)


def test_a_plan_that_is_missing_is_named(own: Path) -> None:
    (engine_of(own) / "generator_2.mnn").unlink()
    with pytest.raises(EngineError, match=r"generator_2\.mnn: missing"):
        load(own)


def test_an_engine_that_lists_too_few_plans_is_passed_over(own: Path) -> None:
    rewrite(own, lambda _, manifest: manifest["plans"].pop())
    with pytest.raises(BackendError, match="not whole: it has no plan for generator_4"):
        load(own)


def test_wrong_arrays_are_refused_before_mnn_reads_beyond_them(emoji: Path) -> None:
    backend = load(emoji)
    with Bundle(emoji) as bundle:
        entries = bundle.manifest.graph("generator_1", "fp32").inputs
    feeds = {
        entry.name: np.ones([2 if side == "batch" else side for side in entry.shape], entry.dtype) for entry in entries
    }
    assert backend.run("generator_1", feeds, ["image"])["image"].shape[0] == 2
    name = "previous_features"
    with pytest.raises(EngineError, match=r"previous_features is float32\[2, 1, .*\], and generator_1 takes"):
        backend.run("generator_1", feeds | {name: feeds[name][:, :1]}, ["image"])
