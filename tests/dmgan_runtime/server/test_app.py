from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from dmgan_runtime import Generator, SettingsError
from dmgan_runtime.manifest import MAX_STAGES
from dmgan_runtime.server import ServerSettings, create_app
from dmgan_runtime.server.errors import ApiError
from dmgan_runtime.server.schema import ImageGeneration, parse

GENERATIONS = "/v1/images/generations"


@pytest.fixture(scope="module")
def client(generator: Generator) -> Iterator[TestClient]:
    with TestClient(create_app(generator)) as opened:
        yield opened


def picture(item: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(item["b64_json"])))


def read_map(sent: dict[str, Any]) -> Any:
    with picture({"b64_json": sent["png"]}) as grey:
        return np.asarray(grey) / 255 * sent["largest"]


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


def test_images_are_those_of_the_generator(client: TestClient, generator: Generator) -> None:
    asked = {"prompt": "a red zebra heart and a green heart small", "n": 2, "seed": 7}
    answer = client.post(GENERATIONS, json=asked).json()
    expected = generator.generate(asked["prompt"], seed=7, images_per_caption=2, batch_size=1)
    assert (answer["size"], answer["output_format"], len(answer["data"])) == ("32x32", "png", 2)
    for item, generation in zip(answer["data"], expected, strict=True):
        assert np.array_equal(np.asarray(picture(item)), np.asarray(generation.image))
        facts = item["dmgan"]
        assert facts["seed"] == generation.seed
        assert tuple(facts["words"]) == generation.words
        assert (facts["unknown_words"], facts["cut_words"]) == (["zebra"], ["heart", "small"])
        assert facts["milliseconds"].keys() == {"8", "16", "32"}
        assert all(milliseconds > 0 for milliseconds in facts["milliseconds"].values())
    assert answer["usage"]["input_tokens"] == 6


def test_a_seed_is_drawn_and_told(client: TestClient) -> None:
    first, second = (client.post(GENERATIONS, json={"prompt": "heart"}).json()["data"][0] for _ in range(2))
    seed = first["dmgan"]["seed"]
    assert seed != second["dmgan"]["seed"]
    again = client.post(GENERATIONS, json={"prompt": "heart", "seed": seed}).json()["data"][0]
    assert again["b64_json"] == first["b64_json"]


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_formats_and_sizes(client: TestClient, output_format: str) -> None:
    asked = {"prompt": "heart", "size": "16x16", "output_format": output_format}
    answer = client.post(GENERATIONS, json=asked).json()
    with picture(answer["data"][0]) as found:
        assert (found.format, found.size) == (output_format.upper(), (16, 16))
    assert (answer["size"], answer["output_format"]) == ("16x16", output_format)


def test_caption_and_seed_lie_in_the_png_unless_an_operator_says_no(client: TestClient, generator: Generator) -> None:
    asked = {"prompt": "a heart of 愛", "seed": 3}
    with picture(client.post(GENERATIONS, json=asked).json()["data"][0]) as found:
        assert found.text == {"Description": "a heart of 愛", "Seed": "3"}
    silent = TestClient(create_app(generator, ServerSettings(metadata=False)))
    with picture(silent.post(GENERATIONS, json=asked).json()["data"][0]) as found:
        assert found.text == {}


@pytest.mark.parametrize(
    ("partial", "sides"), [(0, [32]), (1, [8, 32]), (2, [8, 16, 32]), (3, [8, 16, 32]), (5, [8, 16, 32])]
)
def test_stages_are_streamed(client: TestClient, generator: Generator, partial: int, sides: list[int]) -> None:
    asked = {"prompt": "red heart", "seed": 5, "n": 2, "stream": True, "partial_images": partial}
    with client.stream("POST", GENERATIONS, json=asked) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        sent = events(response.read().decode())
    names = [f"image_generation.{'partial_image' if side < 32 else 'completed'}" for side in sides] * 2
    assert [name for name, _ in sent] == names
    assert [event["type"] for _, event in sent] == names
    assert [picture(event).width for _, event in sent] == sides * 2
    assert [event["dmgan"]["seed"] for _, event in sent] == [5] * len(sides) + [6] * len(sides)
    assert [event["partial_image_index"] for name, event in sent if "partial" in name] == [*range(len(sides) - 1)] * 2
    last = [event for name, event in sent if "completed" in name]
    for event, generation in zip(last, generator.generate("red heart", seed=5, images_per_caption=2), strict=True):
        assert np.array_equal(np.asarray(picture(event)), np.asarray(generation.image))


def test_attention_and_gates(client: TestClient, generator: Generator) -> None:
    answer = client.post(GENERATIONS, json={"prompt": "red heart", "seed": 1, "attention": True}).json()
    (expected,) = generator.generate("red heart", seed=1, attention=True)
    sent = answer["data"][0]["dmgan"]["attention"]
    assert expected.attention is not None
    assert expected.gates is not None
    assert sent.keys() == {"16", "32"}
    for resolution, stage in sent.items():
        weights = expected.attention[int(resolution)]
        assert np.abs(read_map(stage["attention"]).reshape(weights.shape) - weights).max() < 1 / 255
        assert stage["shares"] == pytest.approx(weights.mean(axis=(1, 2)).tolist(), abs=1e-4)
        gates = expected.gates[int(resolution)]
        assert stage["writing_gate"] == pytest.approx(gates.writing.tolist(), abs=1e-4)
        assert np.abs(read_map(stage["response_gate"]) - gates.response).max() < 1 / 255


def test_a_walk(client: TestClient, generator: Generator) -> None:
    asked = {"prompts": ["red heart", "blue square"], "seeds": [1, 2], "steps": 4, "size": "16x16"}
    answer = client.post("/v1/images/interpolations", json=asked).json()
    expected = generator.interpolate(("red heart", "blue square"), seeds=(1, 2), steps=4, resolution=16)
    assert [np.asarray(picture(item)).tolist() for item in answer["data"]] == [np.asarray(e).tolist() for e in expected]
    one = client.post("/v1/images/interpolations", json={"prompts": ["heart"], "seeds": [1, 2], "steps": 2}).json()
    assert len(one["data"]) == 2


def test_a_model_whose_name_has_a_slash(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "manifest", generator.manifest.__replace__(name="of/mine"))
    with TestClient(create_app(generator)) as client:
        assert client.get("/v1/models/of%2Fmine").json()["id"] == "of/mine"
        assert "heart" in client.get("/v1/models/of%2Fmine/vocabulary").json()["words"]
        assert client.get("/v1/models/of%2Fnobody").status_code == 404


def test_models(client: TestClient) -> None:
    listed = client.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["tiny"]
    assert client.get("/v1/models/tiny").json() == listed["data"][0]
    assert listed["data"][0]["dmgan"]["resolutions"] == [8, 16, 32]
    vocabulary = client.get("/v1/models/tiny/vocabulary").json()
    assert "heart" in vocabulary["words"]
    assert vocabulary["aliases"] == {}
    assert client.get("/v1/models/other").json()["error"]["code"] == "model_not_found"
    named = client.post(GENERATIONS, json={"prompt": "heart", "model": "other"})
    assert (named.status_code, named.json()["error"]["param"]) == (404, "model")


@pytest.mark.parametrize(
    ("asked", "param", "said"),
    [
        ({}, "prompt", "prompt is missing"),
        ({"prompt": "zebra"}, "prompt", "no word of the caption"),
        ({"prompt": ""}, "prompt", "has no words"),
        ({"prompt": "heart " * 1000}, "prompt", "6,000 characters, over 4,000"),
        ({"prompt": 5}, "prompt", "expected `str`, got `int`"),
        ({"prompt": "heart", "n": 0}, "n", ">= 1"),
        ({"prompt": "heart", "n": 11}, "n", "at most 10"),
        ({"prompt": "heart", "n": True}, "n", "got `bool`"),
        ({"prompt": "heart", "size": "64x64"}, "size", "ask for 8x8 or 16x16 or 32x32 or auto"),
        ({"prompt": "heart", "output_format": "gif"}, "output_format", "gif"),
        ({"prompt": "heart", "partial_images": -1}, "partial_images", ">= 0"),
        ({"prompt": "heart", "partial_images": MAX_STAGES}, "partial_images", f"<= {MAX_STAGES - 1}"),
        ({"prompt": "heart", "seed": -1}, None, "seed -1 is out of range"),
        ({"prompt": "heart", "seed": 2**64}, None, "is out of range"),
        ({"prompt": "heart", "truncation": 0}, None, "over 0 and at most 1"),
        ({"prompt": "heart", "quality": "hd"}, "quality", "quality 'hd' is not had here; leave it out, or send 'auto'"),
        ({"prompt": "heart", "style": "vivid"}, "style", "style 'vivid' is not had here; leave it out"),
        ({"prompt": "heart", "response_format": "url"}, "response_format", "send 'b64_json'"),
        ({"prompt": "heart", "colour": 1}, "colour", "the parameter 'colour' is unknown; there are model, size"),
        ([], None, "no JSON object"),
    ],
)
def test_a_mistake_is_refused_by_name(client: TestClient, asked: Any, param: str | None, said: str) -> None:
    answers = [client.post(GENERATIONS, json=asked)]
    if isinstance(asked, dict):
        answers.append(client.post(GENERATIONS, json={**asked, "stream": True}))
    for answer in answers:
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
        assert said in error["message"]


def test_what_the_protocol_lets_a_server_ignore_is_ignored(client: TestClient) -> None:
    asked = {
        "prompt": "heart",
        "user": "someone",
        "safety_identifier": "abc",
        "quality": "auto",
        "background": None,
        "style": None,
        "response_format": "b64_json",
        "moderation": "auto",
    }
    assert client.post(GENERATIONS, json=asked).status_code == 200


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"prompt": "\xff"}', "application/json", 400),
        (b"[" * 60_000, "application/json", 400),
        (b'{"prompt": "heart"}', "text/plain", 415),
        (b'{"prompt": "heart"}', "application/json; charset=utf-8", 200),
        (b'{"prompt": "' + b"a" * 70_000 + b'"}', "application/json", 413),
    ],
)
def test_bodies(client: TestClient, content: bytes, kind: str, status: int) -> None:
    answer = client.post(GENERATIONS, content=content, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert status == 200 or answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("encoding", "status"), [("gzip", 415), ("identity, br", 415), ("nonsense", 415), ("Identity", 200), ("", 200)]
)
def test_bodies_come_as_they_are(client: TestClient, encoding: str, status: int) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    answer = client.post(GENERATIONS, content=b'{"prompt": "heart"}', headers=headers)
    assert answer.status_code == status
    assert status == 200 or "without that header" in answer.json()["error"]["message"]


def test_words_near_to_unknown_ones(client: TestClient) -> None:
    asked = {"prompt": "red hearts zebra", "seed": 1, "n": 2, "stream": True, "partial_images": 1}
    with client.stream("POST", GENERATIONS, json=asked) as response:
        sent = [event["dmgan"] for _, event in events(response.read().decode())]
    near = {"hearts": ["heart"], "zebra": []}
    assert [facts.get("near_words") for facts in sent] == [None, near, None, near]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_NAMES = [*ImageGeneration.__struct_fields__, "quality", "user", "style", "response_format"]


@given(st.dictionaries(st.sampled_from(_NAMES) | st.text(max_size=8), _JSON, max_size=5))
def test_any_body_is_read_or_refused_as_a_mistake(fields: dict[str, Any]) -> None:
    try:
        found: Any = parse(msgspec.json.encode(fields), ImageGeneration)
    except ApiError as error:
        found = error
    assert isinstance(found, ImageGeneration) or (found.status == 400 and found.message)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/../app.py", 404), ("DELETE", GENERATIONS, 405), ("GET", GENERATIONS, 405)],
)
def test_other_paths_have_the_same_shape(client: TestClient, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_it_can_be_mounted_in_an_application(generator: Generator) -> None:
    inner = create_app(generator, ServerSettings(api_key="secret"))
    with TestClient(Starlette(routes=[Mount("/pictures", inner)])) as client:
        assert client.post("/pictures/v1/images/generations", json={"prompt": "heart"}).status_code == 401
        headers = {"Authorization": "Bearer secret"}
        answer = client.post("/pictures/v1/images/generations", json={"prompt": "heart"}, headers=headers)
        assert answer.status_code == 200
        end = time.monotonic() + 60
        while client.get("/pictures/health/ready").status_code != 200:
            assert time.monotonic() < end, "without a lifespan the self-test never ended"
            time.sleep(0.01)


def test_two_bundles_need_two_names(generator: Generator) -> None:
    with pytest.raises(SettingsError, match=f"two bundles have the name '{generator.manifest.name}'"):
        create_app([generator, generator])
    with pytest.raises(SettingsError, match="no generator to serve"):
        create_app([])
