"""What `dmgan-export triton` writes, served by a real tritonserver."""

from __future__ import annotations

import json
import queue
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tritonclient import grpc
from tritonclient.utils import triton_to_np_dtype

from dmgan_runtime import Generator
from dmgan_runtime.noise import draw_noise
from dmgan_runtime.results import to_levels
from export.triton.config import Placement
from export.triton.repository import write_onnx_repository, write_python_repository
from tests.bundles import SPEC
from tests.export.triton.conftest import Server, tritonserver

PAGE = Path(__file__).parents[3] / "docs" / "triton.md"
CPU = Placement("cpu", instances=1, max_batch=8, threads=1)
CAPTION = "a small red heart"
TYPES = {"caption": "BYTES", "seed": "UINT64", "resolution": "INT32", "truncation": "FP32", "stream": "BOOL"}


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves the bundle as a decoupled model, as a plain one with and without batches, and as an ensemble."""
    folder = tmp_path_factory.mktemp("triton")
    repositories = [folder / name for name in ("stages", "plain", "graphs", "batches")]
    write_python_repository(bundle, repositories[0], CPU, name="stages", backend="onnxruntime")
    write_python_repository(bundle, repositories[1], CPU, name="plain", backend="onnxruntime", stream=False)
    write_onnx_repository(bundle, repositories[2], CPU, name="graphs")
    for config in repositories[2].glob("graphs_*/config.pbtxt"):  # this Triton has no ONNX Runtime
        text = config.read_text()
        assert 'backend: "onnxruntime"' in text
        config.write_text(text.replace('backend: "onnxruntime"', 'backend: "python"'))
        shutil.copy(Path(__file__).with_name("onnx_model.py"), config.parent / "1" / "model.py")
    # What the exporter asks of GPUs; the delay makes sure that requests meet.
    write_python_repository(bundle, repositories[3], CPU, name="batches", backend="onnxruntime", stream=False)
    with (repositories[3] / "batches" / "config.pbtxt").open("a") as config:
        config.write("dynamic_batching { max_queue_delay_microseconds: 50000 }")
    with tritonserver(folder, *repositories) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[grpc.InferenceServerClient]:
    with grpc.InferenceServerClient(server.grpc) as client:
        yield client


@pytest.fixture(scope="module")
def generator(bundle: Path) -> Iterator[Generator]:
    with Generator.open(bundle, backend="onnxruntime", device="cpu", threads=1) as opened:
        yield opened


def post(url: str, body: dict[str, Any]) -> tuple[int, str]:
    request = urllib.request.Request(url, json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def generate(server: Server, **fields: Any) -> dict[str, Any]:
    status, text = post(f"{server.http}/v2/models/stages/generate", fields)
    assert status == 200, text
    answer: dict[str, Any] = json.loads(text)
    side = answer["resolution"]
    return answer | {"image": np.array(answer["image"], dtype=np.uint8).reshape(side, side, 3)}


def inputs(**rows: list[Any]) -> list[grpc.InferInput]:
    tensors = []
    for name, values in rows.items():
        array = np.array(values, dtype=triton_to_np_dtype(TYPES[name])).reshape(-1, 1)
        tensors.append(grpc.InferInput(name, list(array.shape), TYPES[name]))
        tensors[-1].set_data_from_numpy(array)
    return tensors


def stream(server: Server, count: int, **rows: list[Any]) -> list[grpc.InferResult]:
    """The responses to one request; the last must be marked as that."""
    answers: queue.Queue[Any] = queue.Queue()
    with grpc.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: answers.put(error or result))
        client.async_stream_infer("stages", inputs(**rows), enable_empty_final_response=True)
        results = [answers.get(timeout=30) for _ in range(count)]
        client.stop_stream()
    for result in results:
        if isinstance(result, Exception):
            raise result
    final = [result.get_response().parameters["triton_final_response"].bool_param for result in results]
    assert final == [False] * (count - 1) + [True]
    return results


def test_http_gives_the_runtimes_image_and_words(server: Server, generator: Generator) -> None:
    (expected,) = generator.generate(CAPTION, seed=2**64 - 1)
    answer = generate(server, caption=CAPTION, seed=2**64 - 1)
    assert (answer["image"] == np.asarray(expected.image)).all()
    assert (answer["seed"], answer["resolution"]) == (2**64 - 1, 32)
    answer = generate(server, caption="a 赤い zebra heart and a small blue square heart", resolution=16, seed=1)
    assert answer["image"].shape == (16, 16, 3)
    assert (answer["words"], answer["unknown_words"], answer["cut_words"]) == (
        "a heart and a small blue",
        "赤い zebra",
        "square heart",
    )


def test_truncation_and_a_drawn_seed(server: Server, generator: Generator) -> None:
    answer = generate(server, caption=CAPTION, truncation=0.7)
    (expected,) = generator.generate(CAPTION, seed=answer["seed"], truncation=0.7)
    assert (answer["image"] == np.asarray(expected.image)).all()


def test_http_streams_the_stages(server: Server, generator: Generator) -> None:
    body = {"caption": CAPTION, "seed": 7, "stream": True}
    status, text = post(f"{server.http}/v2/models/stages/generate_stream", body)
    assert status == 200
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]
    expected = list(generator.stream(CAPTION, seed=7))
    assert [event["resolution"] for event in events] == [8, 16, 32]
    for event, generation in zip(events, expected, strict=True):
        assert event["image"] == np.asarray(generation.image).ravel().tolist()


def test_grpc_streams_the_stages_of_several_images(server: Server, generator: Generator) -> None:
    captions, seeds = [CAPTION, "blue square", "heart"], [7, 8, 9]
    results = stream(server, 3, caption=captions, seed=seeds, stream=[True] * 3)
    expected = [generator.generate(caption, seed=seed)[0] for caption, seed in zip(captions, seeds, strict=True)]
    for result, side in zip(results, generator.resolutions, strict=True):
        assert (result.as_numpy("image") == [np.asarray(each.stages[side]) for each in expected]).all()
        assert result.as_numpy("resolution").tolist() == [[side]] * 3
        assert result.as_numpy("seed").tolist() == [[seed] for seed in seeds]
        assert result.as_numpy("words").tolist() == [[" ".join(each.words).encode()] for each in expected]
    (smallest,) = stream(server, 1, caption=[CAPTION], resolution=[8], stream=[True])
    assert smallest.as_numpy("image").shape == (1, 8, 8, 3)


def test_plain_infer(server: Server, client: grpc.InferenceServerClient, generator: Generator) -> None:
    (expected,) = generator.generate(CAPTION, seed=3)
    tensors = inputs(caption=[CAPTION], seed=[3])
    result = client.infer("plain", tensors, outputs=[grpc.InferRequestedOutput("image")])
    assert [output.name for output in result.get_response().outputs] == ["image"]
    assert (result.as_numpy("image")[0] == np.asarray(expected.image)).all()
    body = {"inputs": [{"name": "caption", "shape": [2, 1], "datatype": "BYTES", "data": [CAPTION, CAPTION]}]}
    body["inputs"].append({"name": "seed", "shape": [2, 1], "datatype": "UINT64", "data": [3, 4]})
    status, text = post(f"{server.http}/v2/models/plain/infer", body)
    assert status == 200, text
    image = next(output for output in json.loads(text)["outputs"] if output["name"] == "image")
    assert image["shape"] == [2, 32, 32, 3]
    assert (np.reshape(image["data"], image["shape"])[0] == np.asarray(expected.image)).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"caption": "zebra"}, "no word of the caption 'zebra' is in the model's vocabulary"),
        ({"caption": ""}, "the caption '' has no words"),
        ({"caption": CAPTION, "resolution": 5}, "resolution 5 is not one of this model's; pass one of 8, 16, 32"),
        ({"caption": CAPTION, "truncation": 2.0}, "truncation is 2.0; pass a number over 0 and at most 1"),
        ({"seed": 1}, "the input caption is missing"),
        ({"caption": CAPTION, "resolutoin": 16}, "no input is called 'resolutoin'"),
    ],
)
def test_wrong_input_is_refused_with_the_runtimes_message(server: Server, fields: dict[str, Any], message: str) -> None:
    status, text = post(f"{server.http}/v2/models/stages/generate", fields)
    assert status == 400
    assert message in json.loads(text)["error"]


def test_wrong_input_over_grpc(server: Server, client: grpc.InferenceServerClient) -> None:
    for rows, message in (
        ({"caption": [b"\xff heart"]}, "a caption is not UTF-8"),
        ({"caption": [CAPTION] * 2, "resolution": [8, 16]}, r"resolution is \[8, 16\] in one request"),
        ({"caption": [CAPTION, "zebra"]}, "no word of the caption 'zebra'"),
        ({"caption": [CAPTION] * 9}, "batch-size must be <= 8"),
    ):
        for ask in (lambda rows: client.infer("plain", inputs(**rows)), lambda rows: stream(server, 1, **rows)):
            with pytest.raises(grpc.InferenceServerException, match=message):
                ask(rows)


def test_many_at_once(server: Server, generator: Generator) -> None:
    expected = [np.asarray(each.image) for each in generator.generate(CAPTION, seed=0, images_per_caption=4)]

    def ask(number: int) -> bool:
        if number % 5 == 4:
            return post(f"{server.http}/v2/models/stages/generate", {"caption": "zebra"})[0] == 400
        if number % 2:
            return bool((generate(server, caption=CAPTION, seed=number % 4)["image"] == expected[number % 4]).all())
        results = stream(server, 3, caption=[CAPTION], seed=[number % 4], stream=[True])
        return bool((results[-1].as_numpy("image")[0] == expected[number % 4]).all())

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(ask, range(60)))


def test_requests_are_put_together(server: Server, client: grpc.InferenceServerClient, generator: Generator) -> None:
    def ask(number: int) -> bool:
        caption, side = ("blue square", "a red heart", "zebra")[number % 3], generator.resolutions[number % 2]
        try:
            tensors = inputs(caption=[caption], seed=[number], resolution=[side])
            image = client.infer("batches", tensors).as_numpy("image")
        except grpc.InferenceServerException as error:
            return caption == "zebra" and "no word of the caption 'zebra'" in str(error)
        (expected,) = generator.generate(caption, seed=number, resolution=side)
        return bool((image[0] == np.asarray(expected.image)).all())

    with ThreadPoolExecutor(24) as pool:
        assert all(pool.map(ask, range(24)))
    (statistics,) = client.get_inference_statistics("batches").model_stats
    assert statistics.execution_count <= statistics.inference_count / 2


def test_the_ensemble_gives_the_runtimes_image(
    server: Server, client: grpc.InferenceServerClient, generator: Generator
) -> None:
    captions, seeds = ["a red heart", "small blue square and heart"], [3, 4]
    text = generator.tokenizer.encode_batch(captions, generator.manifest.tokenizer.max_words)
    noise, condition_noise = draw_noise(seeds, SPEC.noise_features, SPEC.condition_features)
    arrays = {
        "tokens": text.tokens,
        "lengths": text.lengths[:, None],
        "noise": noise,
        "condition_noise": condition_noise,
    }
    tensors = []
    for name, array in arrays.items():
        tensors.append(grpc.InferInput(name, list(array.shape), "INT64" if array.dtype == np.int64 else "FP32"))
        tensors[-1].set_data_from_numpy(array)
    image = client.infer("graphs", tensors).as_numpy("image")
    (*_, expected) = generator.stream_batch(captions, seeds=seeds)
    assert (to_levels(image) == [np.asarray(each.image) for each in expected]).all()


@pytest.mark.parametrize(("number", "model", "pictures"), [(0, "stages", 3), (1, "graphs", 1)])
def test_what_the_page_shows_runs(
    server: Server,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    model: str,
    pictures: int,
    generator: Generator,
) -> None:
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(snippets) == 2
    code = snippets[number].replace("localhost:8001", server.grpc).replace('"emoji-256"', f'"{model}"')
    exec(code.replace("dmgan_runtime/models/emoji-256", str(bundle)), {})
    made = sorted(tmp_path.iterdir())
    assert len(made) == pictures
    (expected,) = generator.generate("red heart", seed=7)
    for file in made:
        with Image.open(file) as picture:
            assert picture.tobytes() == expected.stages[picture.width].tobytes()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda model: (model / "1/bundle/vocab.json").unlink(), "vocab.json: missing; pass a whole bundle"),
        (lambda model: replace(model, '"onnxruntime"', '"tensorrt"'), "tensorrt"),
    ],
)
def test_a_model_that_cannot_be_loaded_says_why(server: Server, bundle: Path, break_it: Any, message: str) -> None:
    name = f"broken-{len(list(server.later.iterdir()))}"
    made = server.later.with_name(name)
    write_python_repository(bundle, made, CPU, name=name, backend="onnxruntime")
    break_it(made / name)
    (made / name).rename(server.later / name)
    status, text = post(f"{server.http}/v2/repository/models/{name}/load", {})
    assert status == 400
    assert message in json.loads(text)["error"]
    assert "Traceback" not in text


def replace(model: Path, old: str, new: str) -> None:
    text = (model / "config.pbtxt").read_text()
    assert old in text
    (model / "config.pbtxt").write_text(text.replace(old, new))
