"""The generator in JavaScript is Python's: pictures, stages, attention, walks, words and refusals."""

from __future__ import annotations

import json
import shutil
import threading
from base64 import b64decode
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dmgan_runtime import BackendError, BundleError, CaptionError, EngineError, Generator, SettingsError
from dmgan_runtime.bundle import packaged_bundle
from dmgan_runtime.manifest import MANIFEST_NAME
from dmgan_runtime.noise import MAX_SEED
from tests.bundles import SPEC, WORDS, build_bundle, write_manifest, zip_bundle
from tests.web.conftest import Node
from tests.web.test_vectors import levels

CAPTION = "a red heart and a small square"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def python(bundle: Path) -> Iterator[Generator]:
    with Generator.open(bundle, backend="onnxruntime", device="cpu") as generator:
        yield generator


@pytest.fixture(scope="module")
def js(node: Node, bundle: Path) -> int:
    return int(node("open", path=str(bundle))["id"])


def floats(text: str, *shape: int) -> npt.NDArray[np.float32]:
    return np.frombuffer(b64decode(text), np.float32).reshape(shape)


def assert_near(pixels: str, picture: Any) -> None:
    assert np.abs(levels(pixels) - np.asarray(picture).astype(int)).max() <= 1


class TestPictures:
    def test_they_are_pythons_with_words_and_attention(self, node: Node, js: int, python: Generator) -> None:
        caption = f"{CAPTION} zebra a a a"
        found = node("generate", id=js, caption=caption, options={"seed": 5, "attention": True})
        (expected,) = python.generate(caption, seed=5, attention=True)
        assert (found["seed"], found["side"]) == ("5", 32)
        assert found["words"] == list(expected.words)
        assert found["unknown_words"] == ["zebra"]
        assert found["cut_words"] == ["square", "a", "a", "a"] == list(expected.cut_words)
        for side, picture in expected.stages.items():
            assert_near(found["stages"][str(side)], picture)
        assert expected.attention is not None
        assert expected.gates is not None
        assert found["attention"].keys() == {"16", "32"}
        for side, maps in expected.attention.items():
            ours = np.stack([floats(each, side // 2, side // 2) for each in found["attention"][str(side)]])
            np.testing.assert_allclose(ours, maps, atol=1e-5)
            writing, response = found["gates"][str(side)]
            np.testing.assert_allclose(floats(writing, -1), expected.gates[side].writing, atol=1e-5)
            np.testing.assert_allclose(floats(response, side // 2, side // 2), expected.gates[side].response, atol=1e-5)

    @pytest.mark.parametrize("seed", [0, 2**53 + 1, MAX_SEED])
    def test_every_seed_is_pythons(self, node: Node, js: int, python: Generator, seed: int) -> None:
        found = node("generate", id=js, caption=CAPTION, options={"seed": str(seed), "truncation": 0.5})
        (expected,) = python.generate(CAPTION, seed=seed, truncation=0.5)
        assert found["seed"] == str(seed)
        assert found["attention"] is None
        assert_near(found["stages"]["32"], expected.image)

    def test_the_mean_condition_is_pythons(self, node: Node, js: int, python: Generator) -> None:
        found = node("generate", id=js, caption=CAPTION, options={"seed": "7", "condition": "mean"})
        (expected,) = python.generate(CAPTION, seed=7, condition="mean")
        (sampled,) = python.generate(CAPTION, seed=7)
        assert_near(found["stages"]["32"], expected.image)
        assert (np.asarray(expected.image) != np.asarray(sampled.image)).any()

    def test_a_smaller_one_is_a_stage_of_the_larger(self, node: Node, js: int) -> None:
        large = node("generate", id=js, caption=CAPTION, options={"seed": 1})
        small = node("generate", id=js, caption=CAPTION, options={"seed": 1, "resolution": 16})
        assert small["side"] == 16
        assert small["stages"] == {side: large["stages"][side] for side in ("8", "16")}

    def test_stages_come_one_by_one_and_stop_when_left(self, node: Node, js: int) -> None:
        stages = node("stream", id=js, caption=CAPTION, options={"seed": 1})
        assert [list(stage["stages"]) for stage in stages] == [["8"], ["8", "16"], ["8", "16", "32"]]
        assert node("stream", id=js, caption=CAPTION, options={"seed": 1}, stop=2) == stages[:2]

    def test_without_a_seed_each_is_another(self, node: Node, js: int) -> None:
        seeds = {node("generate", id=js, caption=CAPTION)["seed"] for _ in range(5)}
        assert len(seeds) == 5
        assert all(0 <= int(seed) < 2**32 for seed in seeds)

    def test_they_may_be_asked_for_at_once(self, node: Node, js: int) -> None:
        together = node("together", id=js, caption=CAPTION, seeds=[1, 2, 3])
        assert together == [
            node("generate", id=js, caption=CAPTION, options={"seed": seed}) for seed in (1, 2, 3)
        ]  # fmt: skip

    def test_the_packaged_models_are_pythons(self, node: Node) -> None:
        generator = node("open", path=str(packaged_bundle()))
        found = node("generate", id=generator["id"], caption="red heart", options={"seed": 7, "attention": True})
        with Generator.open(backend="onnxruntime", device="cpu") as python:
            (expected,) = python.generate("red heart", seed=7)
        assert_near(found["stages"]["256"], expected.image)


class TestWalks:
    @pytest.mark.parametrize(
        ("captions", "seeds"),
        [("a red heart", [1, 2]), (["a red heart", "small blue square and green"], 3), (["a", "a red"], [5, 6])],
    )
    def test_they_are_pythons(self, node: Node, js: int, python: Generator, captions: Any, seeds: Any) -> None:
        found = node("interpolate", id=js, captions=captions, options={"seeds": seeds, "steps": 5})
        as_tuple = [tuple(each) if isinstance(each, list) else each for each in (captions, seeds)]
        expected = python.interpolate(as_tuple[0], seeds=as_tuple[1], steps=5)
        assert len(found) == 5
        for pixels, picture in zip(found, expected, strict=True):
            assert_near(pixels, picture)

    @pytest.mark.parametrize(
        ("captions", "options", "error", "message"),
        [
            (["a"], {}, CaptionError, "pass one, or the first and the last"),
            (["a", "b", "c"], {}, CaptionError, "pass one, or the first and the last"),
            ("a", {"steps": 1}, SettingsError, "steps is 1; pass a whole number, at least 2"),
            ("a", {"seeds": [1, -2]}, SettingsError, "seed -2 is out of range"),
            ("a", {"seeds": [1]}, SettingsError, "seeds are 1; pass one seed, or the first and the last"),
            ("a", {"attention": True}, SettingsError, "there is no option attention; pass seeds, steps, resolution, t"),
            ("a", {"size": 64}, SettingsError, "there is no option size; pass seeds, steps, resolution, truncation or"),
            (["a", "zebra"], {}, CaptionError, "no word of the caption 'zebra'"),
        ],
    )
    def test_what_cannot_be_walked_is_refused(
        self, node: Node, js: int, captions: Any, options: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            node("interpolate", id=js, captions=captions, options=options)


class TestRefusals:
    @pytest.mark.parametrize(
        ("caption", "message"),
        [
            ("", "has no words; describe the picture in English words"),
            ("🐦", "has no words"),
            ("鳥", "has no words"),
            ("zebra", "no word of the caption 'zebra' is in the model's vocabulary of 9 words"),
            ("a" * 10_001, "a caption has 10,001 characters, over 10,000; shorten it"),
            ("🐦" * 10_001, "a caption has 10,001 characters"),
            (None, "pass a string"),
            (7, "a caption is text, not number"),
            ("\x1b]0;owned\x07", r"\\x1b\]0;owned\\x07"),
        ],
    )
    def test_captions(self, node: Node, js: int, python: Generator, caption: Any, message: str) -> None:
        with pytest.raises(CaptionError, match=message) as caught:
            node("generate", id=js, caption=caption)
        assert len(str(caught.value)) < 300
        with pytest.raises(CaptionError):
            python.generate([caption])

    def test_the_longest_caption_is_read(self, node: Node, js: int) -> None:
        assert node("encode", id=js, caption="a " + "🐦" * 9_998)["words"] == ["a"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"seed": -1}, f"seed -1 is out of range; pass a whole number from 0 to {MAX_SEED}"),
            ({"seed": str(2**64)}, "is out of range"),
            ({"seed": 1.5}, "seed is 1.5; pass a whole number"),
            ({"seed": 2**60}, "a BigInt above 9007199254740991"),
            ({"seed": "seven"}, "seed is seven"),
            ({"resolution": 64}, "resolution 64 is not one of this model's; pass one of 8, 16, 32"),
            ({"truncation": 0}, "truncation is 0; pass a number over 0 and at most 1"),
            ({"truncation": 1.1}, "truncation is 1.1"),
            ({"truncation": "1"}, "truncation is 1;"),
            ({"condition": "median"}, 'condition is median; pass "sampled" or "mean"'),
            ({"attention": 1}, "attention is 1; pass true or false"),
            ({"size": 64}, "there is no option size"),
        ],
    )
    def test_options(self, node: Node, js: int, options: Any, message: str) -> None:
        with pytest.raises(SettingsError, match=message):
            node("generate", id=js, caption=CAPTION, options=options)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"device": "cuda"}, SettingsError, 'device is cuda; pass "wasm" or "webgpu"'),
            ({"device": "webgpu"}, BackendError, 'WebGPU cannot be had here; use device "wasm"'),
            ({"threads": 0}, SettingsError, "threads is 0; pass a whole number from 1 to 1024"),
            ({"precision": "fp16"}, BackendError, "has no generator_0 in fp16; pass precision fp32"),
        ],
    )
    def test_what_cannot_be_opened(
        self, node: Node, bundle: Path, options: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            node("open", path=str(bundle), options=options)

    def test_a_graph_that_no_engine_loads(self, node: Node, tmp_path: Path) -> None:
        broken = build_bundle(tmp_path / "tiny")
        (broken / "onnx/generator_1.onnx").write_bytes(b"\x08\x0a")
        write_manifest(broken)
        with pytest.raises(EngineError, match=r"generator_1\.onnx: ONNX Runtime .* cannot load it on wasm"):
            node("open", path=str(broken))

    def test_a_graph_of_other_tensors_than_the_manifest_says(self, node: Node, tmp_path: Path) -> None:
        broken = build_bundle(tmp_path / "tiny")
        other = build_bundle(tmp_path / "other", spec=SPEC.__replace__(base_resolution=16))
        shutil.copyfile(other / "onnx/generator_1.onnx", broken / "onnx/generator_1.onnx")
        write_manifest(broken)
        with pytest.raises(BundleError, match=r"generator_1\.onnx, inputs: found .*, but expected previous_"):
            node("open", path=str(broken))

    def test_a_size_of_17_digits(self, node: Node, tmp_path: Path) -> None:
        broken = build_bundle(tmp_path / "tiny")
        manifest = json.loads((broken / MANIFEST_NAME).read_bytes())
        manifest["graphs"][0]["file"]["bytes"] = 10**16
        (broken / MANIFEST_NAME).write_text(json.dumps(manifest))
        with pytest.raises(BundleError, match=r"10,000,000,000,000,000 bytes, and at most"):
            node("open", path=str(broken))

    def test_an_error_of_the_one_who_is_told_the_progress_is_his_own(self, node: Node, bundle: Path) -> None:
        with pytest.raises(AssertionError, match="Error: the bar is gone"):
            node("open", path=str(bundle), telling="the bar is gone")

    def test_a_closed_generator(self, node: Node, bundle: Path) -> None:
        generator = node("open", path=str(bundle))["id"]
        node("close", id=generator)
        with pytest.raises(EngineError, match="it was closed"):
            node("generate", id=generator, caption=CAPTION)


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def site(bundle: Path) -> Iterator[str]:
    zip_bundle(bundle, bundle.parent / "tiny.zip")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(bundle.parent))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class TestHttp:
    @pytest.mark.parametrize("name", ["tiny", "tiny/", "tiny.zip"])
    def test_a_bundle_is_read(self, node: Node, site: str, python: Generator, name: str) -> None:
        generator = node("open", path=f"{site}/{name}")
        assert (generator["name"], generator["words"], generator["resolutions"]) == ("tiny", len(WORDS), [8, 16, 32])
        found = node("generate", id=generator["id"], caption=CAPTION, options={"seed": 5})
        assert_near(found["stages"]["32"], python.generate(CAPTION, seed=5)[0].image)

    def test_progress_is_told_to_the_last_byte(self, node: Node, site: str, bundle: Path) -> None:
        progress = node("open", path=f"{site}/tiny")["progress"]
        files = [bundle / "vocab.json", *bundle.glob("onnx/*")]
        assert progress[-1]["loaded"] == progress[-1]["total"] == sum(file.stat().st_size for file in files)
        assert {each["path"] for each in progress} == {file.relative_to(bundle).as_posix() for file in files}
        assert [each["loaded"] for each in progress] == sorted(each["loaded"] for each in progress)

    @pytest.mark.parametrize("name", ["nowhere", "nowhere.zip", "100%/nowhere", "n%F6rgends"])
    def test_what_is_not_there_is_missing(self, node: Node, site: str, name: str) -> None:
        with pytest.raises(BundleError, match=f"{site}/{name}.*: missing; pass a whole bundle"):
            node("open", path=f"{site}/{name}")

    def test_a_server_that_does_not_answer_is_named(self, node: Node) -> None:
        with pytest.raises(BundleError, match=r"manifest\.json: cannot be read \(fetch failed: .*check the address"):
            node("open", path="http://127.0.0.1:9/tiny")
