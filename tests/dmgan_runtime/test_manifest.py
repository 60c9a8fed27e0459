from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmgan_runtime.errors import BundleError
from dmgan_runtime.manifest import MANIFEST_NAME, FileEntry, parse_manifest, stays_inside


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
        ("schema_version", "2.0", "schema version 2.0, and this dmgan reads 1.1"),
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
