from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from onnx import external_data_helper, numpy_helper, parser

from dmgan_runtime import BackendError, BundleError, EngineError, Generator
from dmgan_runtime.backends import openvino
from dmgan_runtime.backends.base import EngineSettings
from dmgan_runtime.backends.openvino import OpenVinoBackend
from dmgan_runtime.backends.ort_cpu import OrtCpuBackend
from dmgan_runtime.bundle import Bundle
from tests.bundles import MAX_WORDS, SPEC, WORDS, build_bundle, build_graph, write_manifest
from tests.dmgan_runtime.backends.precisions import add_precision

CAPTIONS = ["a red heart", "a small blue square and a", "round"]
GRAPH = "onnx/generator_1.onnx"

_LSTM_ENCODER = """<ir_version: 10, opset_import: ["" : 20]>
text_encoder (int64[batch, 6] tokens, int64[batch] lengths)
=> (float[batch, 6, 6] word_features, float[batch, 6] sentence_feature) {
    embedded = Gather(embedding, tokens)
    steps = Transpose<perm = [1, 0, 2]>(embedded)
    counts = Cast<to = 6>(lengths)
    outputs, hidden, cell = LSTM<hidden_size = 3, direction = "bidirectional">(steps, w, r, b, counts)
    features = Transpose<perm = [2, 1, 3, 0]>(outputs)
    word_features = Reshape(features, words_shape)
    states = Transpose<perm = [1, 0, 2]>(hidden)
    sentence_feature = Reshape(states, sentence_shape)
}"""


@pytest.fixture(scope="module")
def lstm_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose text encoder is an LSTM over captions of their own lengths, as a trained one is."""
    folder = build_bundle(tmp_path_factory.mktemp("bundles") / "lstm")
    model = parser.parse_model(_LSTM_ENCODER)
    random = np.random.default_rng(0)
    for name, shape in (("embedding", (len(WORDS), 5)), ("w", (2, 12, 5)), ("r", (2, 12, 3)), ("b", (2, 24))):
        array = random.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for name, value in (("words_shape", [-1, 6, 6]), ("sentence_shape", [-1, 6])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    (folder / "onnx/text_encoder.onnx").write_bytes(model.SerializeToString())
    write_manifest(folder)
    return folder


@pytest.fixture(scope="module")
def vino(lstm_bundle: Path) -> Iterator[Generator]:
    with Generator.open(lstm_bundle, backend="openvino", threads=1) as generator:
        yield generator


def images(generator: Generator, batch_size: int = 3) -> np.ndarray:
    made = generator.generate(CAPTIONS, seed=3, batch_size=batch_size)
    return np.stack([np.asarray(each.image) for each in made])


def psnr(one: np.ndarray, other: np.ndarray, span: float) -> float:
    error = np.square(one.astype(np.float64) - other).mean()
    return float("inf") if error == 0 else 10 * np.log10(span**2 / error)


def load(path: Path, **changes: Any) -> OpenVinoBackend:
    with Bundle(path) as bundle:
        return OpenVinoBackend(bundle, EngineSettings(**changes))


_CLOSED_ELSEWHERE = """
import gc, os, signal, sys, threading
from dmgan_runtime import Generator

signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
generator = Generator.open(sys.argv[1], backend="openvino", threads=1)
generator.generate("round")
closer = threading.Thread(target=generator.close)
closer.start()
closer.join()
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_signal_after_another_thread_closed_it_is_handled(lstm_bundle: Path) -> None:
    command = [sys.executable, "-c", _CLOSED_ELSEWHERE, str(lstm_bundle)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "handled\n"), ended.stderr


def test_all_stages_at_once_are_the_stages_one_by_one(vino: Generator) -> None:
    (once,) = vino.generate(CAPTIONS[1], seed=3)
    *_, streamed = vino.stream(CAPTIONS[1], seed=3)
    attentive = vino.generate(CAPTIONS[1], seed=3, attention=True)[0]
    assert once.attention is None
    assert attentive.attention
    for resolution in vino.resolutions:
        for other in (streamed, attentive):
            np.testing.assert_array_equal(once.stages[resolution], other.stages[resolution])


def test_a_bundle_that_changed_before_a_stage_was_needed_alone_is_named(lstm_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(lstm_bundle, tmp_path / "bundle"))
    with Generator.open(bundle, backend="openvino", threads=1) as generator:
        before = generator.generate(CAPTIONS[0], seed=1)[0].image
        (bundle / GRAPH).write_bytes((bundle / GRAPH).read_bytes()[:-1] + b"?")
        with pytest.raises(EngineError, match=r"generator_1.onnx: damaged.*must stay as it was while it is open"):
            list(generator.stream(CAPTIONS[0], seed=1))
        assert generator.generate(CAPTIONS[0], seed=1)[0].image == before


def test_what_was_warmed_up_for_streams_reads_no_file_again(lstm_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(lstm_bundle, tmp_path / "bundle"))
    with Generator.open(bundle, backend="openvino", threads=1) as generator:
        generator.warm_up([1], stream=True)
        shutil.rmtree(bundle)
        assert len(list(generator.stream(CAPTIONS[0], seed=1))) == len(generator.resolutions)


def test_it_says_what_it_is(vino: Generator) -> None:
    active = vino.active
    assert (active.backend, active.device, active.precision, active.threads) == ("openvino", "cpu", "fp32", 1)
    assert active.version.count(".") == 2
    assert active.version.replace(".", "").isdigit()


def test_its_images_are_those_of_onnxruntime(vino: Generator, lstm_bundle: Path) -> None:
    rng = np.random.default_rng(1)
    lengths = np.array([1, 3, MAX_WORDS, 2])
    tokens = rng.integers(1, len(WORDS), (4, MAX_WORDS)) * (np.arange(MAX_WORDS) < lengths[:, None])
    noise = rng.standard_normal((4, SPEC.noise_features)).astype(np.float32)
    condition_noise = rng.standard_normal((4, SPEC.condition_features)).astype(np.float32)
    with Generator.open(lstm_bundle, backend="onnxruntime", device="cpu", threads=1) as reference:
        expected = reference.synthesize(tokens, lengths, noise, condition_noise)
    actual = vino.synthesize(tokens, lengths, noise, condition_noise)
    for side, image in expected.images.items():
        assert psnr(actual.images[side], image, 2) > 60
        np.testing.assert_allclose(actual.images[side], image, atol=1e-4)


@pytest.mark.parametrize("length", range(1, MAX_WORDS + 1))
def test_a_caption_is_read_to_its_own_end(lstm_bundle: Path, length: int) -> None:
    """With a free batch axis OpenVINO 2026.4 reads the padding too."""
    with Bundle(lstm_bundle) as bundle:
        reference = OrtCpuBackend(bundle, EngineSettings())
    feeds = {"tokens": np.array([[3, 1, 4, 1, 5, 9], [2, 7, 1, 8, 2, 8]]), "lengths": np.array([length, MAX_WORDS])}
    names = ["word_features", "sentence_feature"]
    expected, actual = (each.run("text_encoder", feeds, names) for each in (reference, load(lstm_bundle)))
    for name in names:
        np.testing.assert_allclose(actual[name], expected[name], atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_neighbours_change_no_image(vino: Generator, batch_size: int) -> None:
    assert psnr(images(vino, batch_size), images(vino), 255) > 60


def test_the_number_of_threads_changes_no_image(vino: Generator, lstm_bundle: Path) -> None:
    with Generator.open(lstm_bundle, backend="openvino", threads=2) as other:
        assert psnr(images(other), images(vino), 255) > 60


def test_one_generator_serves_many_threads(vino: Generator) -> None:
    expected = images(vino)
    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(lambda _: images(vino), range(24)):
            np.testing.assert_array_equal(result, expected)


def test_a_run_that_fails_is_an_engine_error_and_passes(bundle: Path) -> None:
    backend = load(bundle)
    wrong = {"tokens": np.ones((1, MAX_WORDS + 1), np.int64), "lengths": np.ones(1, np.int64)}
    with pytest.raises(EngineError, match=r"openvino failed in text_encoder .*fewer images"):
        backend.run("text_encoder", wrong, ["sentence_feature"])
    right = wrong | {"tokens": np.ones((1, MAX_WORDS), np.int64)}
    assert backend.run("text_encoder", right, ["sentence_feature"])["sentence_feature"].shape == (1, SPEC.text_features)


def test_int8_graphs_are_taken_if_they_are_asked_for(own_bundle: Path) -> None:
    add_precision(own_bundle, "int8")
    assert load(own_bundle).active.precision == "fp32"
    assert load(own_bundle, precision="int8").active.precision == "int8"


def claim(monkeypatch: pytest.MonkeyPatch, capabilities: list[str]) -> None:
    """Lets OpenVINO find these in the CPU."""
    get_property = ov.Core.get_property

    def answer(core: ov.Core, *asked: str) -> object:
        return capabilities if asked[-1] == "OPTIMIZATION_CAPABILITIES" else get_property(core, *asked)

    monkeypatch.setattr(ov.Core, "get_property", answer)


class TestBf16:
    def test_it_is_refused_where_the_cpu_has_none(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        claim(monkeypatch, ["FP32", "INT8"])
        with pytest.raises(BackendError, match=r"CPU does not compute in precision 'bf16' .*FP32, INT8.*AMX"):
            load(bundle, precision="bf16")

    def test_where_the_cpu_has_it_only_the_text_encoder_stays_in_fp32(
        self, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        claim(monkeypatch, ["FP32", "BF16"])
        assert load(bundle, precision="bf16").active.precision == "bf16"
        hints = [
            openvino.compile_options(role, "bf16", EngineSettings())["INFERENCE_PRECISION_HINT"]
            for role in ("text_encoder", "generator_0")
        ]
        assert hints == ["f32", "bf16"]

    def test_it_is_never_taken_by_itself(self, bundle: Path) -> None:
        assert openvino.compile_options("generator_2", "fp32", EngineSettings())["INFERENCE_PRECISION_HINT"] == "f32"
        assert load(bundle).active.precision == "fp32"


class TestWhatCannotBeLoaded:
    def test_a_missing_engine_is_named_with_its_remedy(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "openvino", None)
        with pytest.raises(BackendError, match=r'openvino cannot be imported .* pip install "dmgan\[openvino\]"'):
            Generator.open(bundle, backend="openvino")

    @pytest.mark.parametrize("content", [b"", b"garbage", build_graph("generator_1").SerializeToString()[:-200]])
    def test_a_graph_that_is_none_is_an_engine_error(self, own_bundle: Path, content: bytes) -> None:
        (own_bundle / GRAPH).write_bytes(content)
        write_manifest(own_bundle)
        with pytest.raises(EngineError, match=f"{GRAPH}: .*cannot .*export the bundle again"):
            load(own_bundle)

    def test_another_graph_in_its_place_is_refused(self, own_bundle: Path) -> None:
        (own_bundle / GRAPH).write_bytes(build_graph("generator_2").SerializeToString())
        write_manifest(own_bundle)
        with pytest.raises(BundleError, match=f"{GRAPH}, inputs: found .*, but expected"):
            load(own_bundle)

    @pytest.mark.parametrize("beside", ["the working directory", "the graph"])
    def test_weights_outside_the_graph_are_refused(
        self, own_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: str
    ) -> None:
        model = build_graph("generator_1")
        external_data_helper.convert_model_to_external_data(model, location="weights", size_threshold=100)
        folder = tmp_path / "cwd" if beside == "the working directory" else own_bundle / "onnx"
        folder.mkdir(exist_ok=True)
        external_data_helper.write_external_data_tensors(model, str(folder))
        monkeypatch.chdir(folder)
        (own_bundle / GRAPH).write_bytes(model.SerializeToString())
        write_manifest(own_bundle)
        with pytest.raises(EngineError, match=f"{GRAPH}: keeps weights in another file; export the bundle"):
            load(own_bundle)
