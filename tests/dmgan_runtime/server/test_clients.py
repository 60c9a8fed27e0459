"""Clients that people use: the `openai` package and curl."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import shutil
import subprocess

import openai
import pytest
from PIL import Image

from tests.dmgan_runtime.server.conftest import ServerProcess


@pytest.fixture
def address(server: ServerProcess) -> dict[str, str]:
    return {"base_url": f"{server.url}/v1", "api_key": "none"}


def size(b64_json: str) -> tuple[int, int]:
    with Image.open(io.BytesIO(base64.b64decode(b64_json))) as found:
        return found.size


def test_openai(address: dict[str, str]) -> None:
    with openai.OpenAI(**address) as client:
        answer = client.images.generate(
            prompt="red heart zebra", n=2, size="16x16", model="tiny", user="me", extra_body={"seed": 5}
        )
        assert [size(item.b64_json) for item in answer.data] == [(16, 16)] * 2
        assert [item.dmgan["seed"] for item in answer.data] == [5, 6]
        assert answer.data[0].dmgan["unknown_words"] == ["zebra"]
        assert answer.usage.total_tokens == 2
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.models.retrieve("tiny").owned_by == "dmgan"


def test_openai_streams(address: dict[str, str]) -> None:
    with openai.OpenAI(**address) as client:
        events = list(client.images.generate(prompt="red heart", stream=True, partial_images=2))
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [size(event.b64_json)[0] for event in events] == [8, 16, 32]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert events[2].usage.input_tokens_details.text_tokens == 2
    assert {type(event).__name__ for event in events} == {"ImageGenPartialImageEvent", "ImageGenCompletedEvent"}


def test_openai_async(address: dict[str, str]) -> None:
    async def ask() -> tuple[int, list[str]]:
        async with openai.AsyncOpenAI(**address) as client:
            answers = await asyncio.gather(*(client.images.generate(prompt="heart") for _ in range(8)))
            stream = await client.images.generate(prompt="heart", stream=True, partial_images=1)
            return len(answers), [event.type async for event in stream]

    assert asyncio.run(ask()) == (8, ["image_generation.partial_image", "image_generation.completed"])


def test_openai_names_mistakes(address: dict[str, str]) -> None:
    with openai.OpenAI(**address) as client:
        with pytest.raises(openai.BadRequestError, match="no word of the caption") as mistake:
            client.images.generate(prompt="zebra")
        assert (mistake.value.param, mistake.value.code) == ("prompt", "invalid_prompt")
        with pytest.raises(openai.BadRequestError, match="style 'vivid' is not had here"):
            client.images.generate(prompt="heart", style="vivid")
        with pytest.raises(openai.NotFoundError, match="the model 'dall-e-2' is not here; there are tiny"):
            client.images.generate(prompt="heart", model="dall-e-2")
        with pytest.raises(openai.NotFoundError):
            client.images.edit(image=b"", prompt="heart")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(server: ServerProcess) -> None:
    def curl(*arguments: str) -> str:
        command = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "60", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    url = f"{server.url}/v1/images/generations"
    asked = ["--header", "Content-Type: application/json", "--data"]
    assert size(json.loads(curl(url, *asked, '{"prompt": "red heart"}'))["data"][0]["b64_json"]) == (32, 32)
    streamed = curl(url, *asked, '{"prompt": "red heart", "stream": true, "partial_images": 1}')
    assert streamed.count("event: image_generation.partial_image\n") == 1
    assert streamed.count("event: image_generation.completed\n") == 1
