from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmgan_runtime.errors import BundleError
from dmgan_runtime.manifest import MANIFEST_NAME, SCHEMA_VERSION, FileEntry, parse_manifest, stays_inside
from tests.bundles import ROLES


@pytest.fixture(scope="module")
def content(bundle: Path) -> bytes:
    return (bundle / MANIFEST_NAME).read_bytes()


def test_a_manifest_survives_json(content: bytes) -> None:
    manifest = parse_manifest(content, "here")
    assert manifest.name == "tiny"
    assert manifest.to_json() == content


def test_a_graph_is_found_by_role_and_precision(content: bytes) -> None:
    manifest = parse_manifest(content, "here")
    graph = manifest.graph("generator_1", "fp32")
    assert graph is not None
    assert graph.file.path == "onnx/generator_1.onnx"
    assert manifest.graph("generator_1", "int8") is None


def test_a_file_entry_describes_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert FileEntry.of(tmp_path, "file") == FileEntry(path="file", bytes=3, sha256=hashlib.sha256(b"abc").hexdigest())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("schema_version", "1.1", "schema version 1.1, and this dmgan reads 2.1; upgrade dmgan or export"),
        ("schema_version", None, "Expected `str`"),
        ("name", 3, "Expected `str`, got `int` - at `\\$.name`"),
        ("surprise", 1, "unknown field `surprise`"),
        ("model", {"base_resolution": 48}, "power of two"),
        ("graphs", [{"role": "generator_9"}], "Invalid enum value 'generator_9'"),
    ],
)
def test_a_wrong_field_is_named(content: bytes, field: str, value: Any, message: str) -> None:
    changed = json.dumps(json.loads(content) | {field: value}).encode()
    with pytest.raises(BundleError, match=message) as caught:
        parse_manifest(changed, "there/manifest.json")
    assert str(caught.value).startswith("there/manifest.json: ")


def test_two_graphs_of_one_kind_are_refused(content: bytes) -> None:
    graphs = json.loads(content)["graphs"]
    changed = json.dumps(json.loads(content) | {"graphs": [*graphs, graphs[1]]}).encode()
    with pytest.raises(BundleError, match="there are 2 generator_0 graphs in fp32; a bundle has one of a kind"):
        parse_manifest(changed, "here")


def test_every_file_is_named(content: bytes) -> None:
    manifest = parse_manifest(content, "here")
    card = FileEntry(path="MODEL_CARD.md", bytes=1, sha256="0" * 64)
    names = [entry.path for entry in manifest.__replace__(files=(card,)).every_file]
    assert names == ["vocab.json", *(f"onnx/{role}.onnx" for role in ROLES), "MODEL_CARD.md"]


class TestNewerVersions:
    @pytest.fixture
    def newer(self, content: bytes) -> dict[str, Any]:
        changed: dict[str, Any] = json.loads(content) | {"schema_version": "2.99", "surprise": {"of": 1}}
        for part in (changed["model"], changed["tokenizer"]["file"], *changed["graphs"], changed["graphs"][0]["file"]):
            part["surprise"] = 10**30
        thumbnails = {str(side): b64encode(bytes(192)).decode() for side in (8, 16, 32)}
        changed["self_test"] = {"caption": "a", "seed": 1, "thumbnails": thumbnails, "surprise": []}
        changed["metrics"] = {"kept": {"surprise": 1}}
        return changed

    def test_of_a_higher_minor_version_what_is_known_is_read(self, newer: dict[str, Any], content: bytes) -> None:
        manifest = parse_manifest(json.dumps(newer).encode(), "here")
        ours = parse_manifest(content, "here")
        assert (manifest.model, manifest.graphs, manifest.tokenizer) == (ours.model, ours.graphs, ours.tokenizer)
        assert manifest.metrics == {"kept": {"surprise": 1}}
        assert manifest.self_test is not None
        assert set(manifest.self_test.thumbnails) == {8, 16, 32}

    @pytest.mark.parametrize("version", [SCHEMA_VERSION])
    def test_of_ours_and_lower_ones_every_key_must_be_known(self, newer: dict[str, Any], version: str) -> None:
        with pytest.raises(BundleError, match="unknown field `surprise`"):
            parse_manifest(json.dumps(newer | {"schema_version": version}).encode(), "here")

    @pytest.mark.parametrize(
        ("field", "value"), [("name", 3), ("graphs", [{"role": "generator_9"}]), ("model", {"base_resolution": 2048})]
    )
    def test_one_that_cannot_be_read_is_newer_and_not_invalid(
        self, newer: dict[str, Any], field: str, value: Any
    ) -> None:
        with pytest.raises(BundleError, match=r"^here: schema version 2\.99 is newer than .*; upgrade dmgan$"):
            parse_manifest(json.dumps(newer | {field: value}).encode(), "here")

    def test_one_of_no_text_is_a_message(self) -> None:
        with pytest.raises(BundleError, match=r"here: schema version 2\.99 is newer"):
            parse_manifest(b'{"schema_version": "2.99", "name": "\xff"}', "here")

    @pytest.mark.parametrize("version", ["2", "2.", "2.x", "2.0.1", "2.-1", "2.٣"])
    def test_what_is_no_version_is_refused(self, newer: dict[str, Any], version: str) -> None:
        with pytest.raises(BundleError, match=r"schema version .*, and this dmgan reads 2\."):
            parse_manifest(json.dumps(newer | {"schema_version": version}).encode(), "here")


@pytest.mark.parametrize("cut", [10, 100, -10])
def test_a_cut_manifest_is_to_be_copied_again(content: bytes, cut: int) -> None:
    with pytest.raises(BundleError, match=r"truncated\); copy the bundle again from where it came, or export"):
        parse_manifest(content[:cut], "here")


def test_a_missing_version_is_named() -> None:
    with pytest.raises(BundleError, match="schema version missing"):
        parse_manifest(b"{}", "here")


@given(st.data())
def test_a_cut_or_changed_manifest_never_leaks_another_error(content: bytes, data: st.DataObject) -> None:
    broken = bytearray(content)
    position = data.draw(st.integers(0, len(content) - 1))
    broken[position] = data.draw(st.integers(0, 255))
    for candidate in (bytes(broken), content[:position]):
        try:
            parse_manifest(candidate, "here")
        except BundleError as error:
            assert str(error).startswith("here: ")  # noqa: PT017 - most changes fail, a few are harmless


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff\xfe", b"{" * 10_000, b'{"a":' + b"[" * 100_000])
def test_what_is_no_manifest_is_a_bundle_error(content: bytes) -> None:
    with pytest.raises(BundleError, match="not a valid manifest"):
        parse_manifest(content, "here")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a\\b", "C:/x", "", ".", "a\0b"])
def test_a_path_that_leaves_the_bundle_is_refused(path: str) -> None:
    assert not stays_inside(path)
    entry = {"path": path, "bytes": 1, "sha256": "0" * 64}
    with pytest.raises(msgspec.ValidationError, match="leaves the bundle"):
        msgspec.convert(entry, FileEntry)


@given(st.lists(st.text("abc._- ", min_size=1).filter(lambda part: part != ".."), min_size=1))
def test_a_plain_relative_path_is_taken(parts: list[str]) -> None:
    path = "/".join(["onnx", *parts])
    assert stays_inside(path)
