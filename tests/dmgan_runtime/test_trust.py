"""Files and captions of unknown origin: whatever they hold, they are served, or refused with a named error."""

from __future__ import annotations

import hashlib
import json
import re
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmgan_runtime import BundleError, CaptionError, Generator
from dmgan_runtime.backends.built_engines import parse_engine_manifest
from dmgan_runtime.bundle import MAX_VOCABULARY_BYTES, Bundle
from dmgan_runtime.cli.doctor import main as doctor
from dmgan_runtime.errors import DmganError, printable, quoted, shortened
from dmgan_runtime.graphs import check_interfaces
from dmgan_runtime.manifest import MANIFEST_NAME, parse_manifest
from dmgan_runtime.tokenizer import MAX_CAPTION_CHARACTERS, PAD, Tokenizer
from tests.bundles import ROLES, WORDS, write_manifest, zip_bundle

fuzz = settings(derandomize=True, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
ANY_TEXT = st.text(st.characters(codec=None, categories=None))  # with lone surrogates and control characters
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
EMOJI = re.compile("[\u200d\U0001f000-\U0001faff]")  # which are printed whole, whatever Python's tables know
EVIL = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m"


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in a JSON document."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def vouch(folder: Path, name: str, content: bytes) -> None:
    """Puts a file in place, with a manifest that vouches for it."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / MANIFEST_NAME).read_bytes())
    entry = {"path": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["tokenizer"]["file"] = entry
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))


def read_everything(path: Path) -> None:
    with Bundle(path) as opened:
        opened.tokenizer()
        for graph in opened.manifest.graphs:
            opened.read(graph.file)


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Any:
    return json.loads((bundle / MANIFEST_NAME).read_bytes())


class TestManifests:
    @fuzz
    @given(st.data())
    def test_any_value_in_any_place_is_taken_or_refused(self, manifest: Any, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(list(places(manifest))))
        changed = json.dumps(replaced(manifest, place, data.draw(JSON_VALUES))).encode()
        try:
            check_interfaces(parse_manifest(changed, "here"), "here")
        except BundleError as error:
            assert str(error).startswith("here: ")  # noqa: PT017 - some changes are harmless

    @fuzz
    @given(st.binary() | ANY_TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")))
    def test_any_bytes_are_refused(self, content: bytes) -> None:
        with pytest.raises(BundleError):
            parse_manifest(content, "here")

    @pytest.mark.parametrize("version", ["1.1", "3.0", "0.9", "12.0", "", "one", "1 ", "-1.0"])
    def test_another_major_version_is_refused(self, manifest: Any, version: str) -> None:
        with pytest.raises(BundleError, match=r"schema version .*, and this dmgan reads 2\.\d+; upgrade"):
            parse_manifest(json.dumps(manifest | {"schema_version": version}).encode(), "here")

    @pytest.mark.parametrize("role", ROLES)
    @pytest.mark.parametrize("path", ["/etc/passwd", "../x", "onnx/../../x", "C:\\x", "", "a\0b"])
    def test_no_path_leaves_the_bundle(self, manifest: Any, role: str, path: str) -> None:
        graphs = [
            replaced(graph, ("file", "path"), path) if graph["role"] == role else graph for graph in manifest["graphs"]
        ]
        with pytest.raises(BundleError, match="leaves the bundle"):
            parse_manifest(json.dumps(manifest | {"graphs": graphs}).encode(), "here")

    @pytest.mark.parametrize("width", ["noise_features", "condition_features", "generator_channels", "text_features"])
    def test_no_width_asks_for_all_memory(self, manifest: Any, width: str) -> None:
        with pytest.raises(BundleError, match=f"<= 65536 - at `\\$.model.{width}`"):
            parse_manifest(json.dumps(replaced(manifest, ("model", width), 10**12)).encode(), "here")

    def test_a_path_too_long_for_the_system_is_refused(self, own_bundle: Path, manifest: Any) -> None:
        changed = replaced(manifest, ("tokenizer", "file", "path"), "a/" * 5000)
        (own_bundle / MANIFEST_NAME).write_text(json.dumps(changed))
        with pytest.raises(BundleError, match="cannot be read"):
            read_everything(own_bundle)


class TestDepth:
    @pytest.mark.parametrize("depth", [50, 900, 1100, 100_000])
    @pytest.mark.parametrize("version", ["2.0", "2.7"])
    @pytest.mark.parametrize("key", ["metrics", "provenance", "name", "surprise"])
    @pytest.mark.parametrize("brackets", ["[]", '{"a":}'], ids=["lists", "objects"])
    def test_json_of_any_depth_is_taken_or_refused(
        self, own_bundle: Path, manifest: Any, depth: int, version: str, key: str, brackets: str
    ) -> None:
        deep = brackets[:-1] * depth + "1" + brackets[-1] * depth
        text = json.dumps({**manifest, "schema_version": version, key: "HERE"}).replace('"HERE"', deep)
        (own_bundle / MANIFEST_NAME).write_text(text)
        try:
            with Bundle(own_bundle) as first, Bundle(own_bundle) as second:
                assert first.manifest == second.manifest
        except BundleError as error:
            assert str(own_bundle) in str(error)  # noqa: PT017
        with pytest.raises(BundleError):
            parse_engine_manifest(text.encode(), "engine.json")
        with pytest.raises(BundleError):
            Tokenizer.from_json(deep.encode(), "vocab.json")


class TestZips:
    @settings(fuzz, max_examples=250)
    @given(data=st.data())
    def test_any_damage_is_refused_or_harmless(self, bundle: Path, tmp_path: Path, data: st.DataObject) -> None:
        whole = zip_bundle(bundle, tmp_path / "whole.zip").read_bytes()
        directory = whole.index(b"PK\x01\x02")
        at = data.draw(st.integers(0, len(whole)) | st.integers(directory, len(whole)))
        new = data.draw(st.binary(max_size=12))
        (tmp_path / "damaged.zip").write_bytes(
            whole[:at] + new + whole[at + data.draw(st.sampled_from([0, len(new)])) :]
        )
        try:
            read_everything(tmp_path / "damaged.zip")
        except BundleError as error:
            assert "damaged.zip" in str(error)  # noqa: PT017

    @fuzz
    @given(st.binary(max_size=200))
    def test_any_bytes_are_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "any.zip").write_bytes(b"PK\x03\x04" + content)
        with pytest.raises(BundleError, match=r"any\.zip"):
            Bundle(tmp_path / "any.zip")

    def test_two_files_swapped_are_refused(self, own_bundle: Path, tmp_path: Path) -> None:
        one, other = (own_bundle / "onnx" / f"generator_{stage}.onnx" for stage in (0, 1))
        contents = one.read_bytes(), other.read_bytes()
        other.write_bytes(contents[0])
        one.write_bytes(contents[1])
        with pytest.raises(BundleError, match="damaged or replaced"):
            read_everything(zip_bundle(own_bundle, tmp_path / "swapped.zip"))

    def test_names_that_are_no_text_are_refused(self, bundle: Path, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "names.zip", "w") as archive:
            archive.writestr("é", b"")
        content = (tmp_path / "names.zip").read_bytes().replace("é".encode(), b"\xff\xff")
        (tmp_path / "names.zip").write_bytes(content)
        with pytest.raises(BundleError, match="codec can't decode"):
            Bundle(tmp_path / "names.zip")

    def test_a_bomb_is_refused_before_it_is_read(self, own_bundle: Path, tmp_path: Path) -> None:
        """Even if its manifest vouches for it."""
        vouch(own_bundle, "vocab.json", b'["<end>"]' + b" " * (MAX_VOCABULARY_BYTES - 9))
        bomb = zip_bundle(own_bundle, tmp_path / "bomb.zip")
        with Bundle(bomb) as opened:
            tracemalloc.start()
            with pytest.raises(
                BundleError, match=r"as in a decompression bomb; use a .zip from a source that you trust"
            ):
                opened.tokenizer()
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 2**20


class TestVocabularies:
    @fuzz
    @given(
        st.binary() | JSON_VALUES.map(json.dumps).map(str.encode) | st.lists(ANY_TEXT).map(json.dumps).map(str.encode)
    )
    def test_any_bytes_are_taken_or_refused(self, content: bytes) -> None:
        try:
            assert Tokenizer.from_json(content, "here").words[0] == PAD
        except BundleError as error:
            assert str(error).startswith("here: cannot be read as a vocabulary")  # noqa: PT017

    def test_one_that_is_too_large_is_refused(self, own_bundle: Path) -> None:
        vouch(own_bundle, "vocab.json", b'["<end>"]' + b" " * MAX_VOCABULARY_BYTES)
        with pytest.raises(BundleError, match="and at most 16,777,216 are read"):
            Generator.open(own_bundle)


class TestCaptions:
    @fuzz
    @given(ANY_TEXT | st.lists(st.sampled_from([*WORDS, EVIL, "\0", "\ud800"])).map("".join))
    def test_any_text_makes_an_image_or_is_refused(self, generator: Generator, caption: str) -> None:
        try:
            (generation,) = generator.generate(caption, seed=1, resolution=8)
        except CaptionError as error:
            assert EMOJI.sub("", str(error)).isprintable()  # noqa: PT017
        else:
            assert generation.caption == caption
            assert all(word in WORDS for word in generation.words)

    def test_its_length_is_bounded(self, generator: Generator) -> None:
        longest = "heart " * (MAX_CAPTION_CHARACTERS // 6)
        assert len(generator.generate(longest, seed=1, resolution=8)[0].cut_words) > 1000
        with pytest.raises(CaptionError, match="a caption has 10,006 characters, over 10,000; shorten it"):
            generator.generate("heart " * (MAX_CAPTION_CHARACTERS // 6) + "0123456789")

    @pytest.mark.parametrize("caption", [b"a heart", None, 7, ["a heart"]])
    def test_its_type_is_checked(self, generator: Generator, caption: Any) -> None:
        with pytest.raises(CaptionError, match=f"a caption is a str, not {type(caption).__name__}; pass text"):
            generator.generate([caption])


class TestMessages:
    @fuzz
    @given(ANY_TEXT)
    def test_any_text_becomes_printable(self, text: str) -> None:
        for line in printable(text).split("\n"):
            assert EMOJI.sub("", line).isprintable()
        str(DmganError(text)).encode()

    def test_visible_text_stays_as_it_is(self) -> None:
        for text in ("Größe 3,4\nfür 鳥", "👩🏽\u200d🚀 ❤️ \U0001fae9"):
            assert printable(text) == text

    @pytest.mark.parametrize("text", ["red heart", "it's", "a\nb\\", "\\u200d \\\\u200d", EVIL, "\ud83c"])
    def test_text_is_quoted_as_python_quotes_it_but_emoji_stay_whole(self, text: str) -> None:
        assert quoted(text) == repr(text)
        assert (
            quoted(f"{text} 👩🏽\u200d🚀\u200d\U0001fae9❤️")
            == f"{repr(text)[:-1]} 👩🏽\u200d🚀\u200d\U0001fae9❤️{repr(text)[-1]}"
        )

    @pytest.mark.parametrize(
        "evil", ["A" * 100_000, "A\n" * 50_000, "A\nAll is well.\n" * 9], ids=["long", "lines", "lie"]
    )
    def test_a_message_repeats_no_more_than_a_line_of_a_manifest(
        self, own_bundle: Path, manifest: Any, evil: str
    ) -> None:
        def values() -> Iterator[Any]:
            for place in places(manifest):
                for new in (evil, [evil], {evil: 1}):
                    yield replaced(manifest, place, new)
            for place in ((), ("model",), ("tokenizer",), ("graphs", 0), ("graphs", 0, "inputs", 0)):
                inner = manifest
                for key in place:
                    inner = inner[key]
                yield replaced(manifest, place, {**inner, evil: 1})

        refused = 0
        for changed in values():
            try:
                parsed = parse_manifest(json.dumps(changed).encode(), "here")
                check_interfaces(parsed, "here")
            except BundleError as error:
                refused += 1
                assert "\n" not in str(error)  # noqa: PT017
                assert len(str(error)) < 1600  # noqa: PT017
                assert str(error).count("A") < 700  # noqa: PT017
        assert refused > 200

    def test_a_name_of_any_length_is_a_line_of_the_doctor(self, own_bundle: Path) -> None:
        write_manifest(own_bundle, name="A\nAll is well.\n" * 5000)
        (own_bundle / "vocab.json").write_bytes(b"damaged")
        result = CliRunner().invoke(doctor, [str(own_bundle)])
        assert result.exit_code == 1
        lines = result.stdout.splitlines()
        assert "All is well." not in lines
        assert max(map(len, lines)) < 1600

    def test_an_error_is_bounded_whatever_it_quotes(self) -> None:
        message = str(DmganError("\n".join(["what " + "x" * 10**6 + " remedy"] * 50)))
        lines = message.split("\n")
        assert len(lines) == 21
        assert len(message) < 40_000
        assert lines[0].startswith("what xxx")
        assert lines[0].endswith("xxx remedy")

    def test_what_a_library_says_is_one_line(self) -> None:
        assert shortened("a\nb\r\nc  d") == "a b c  d"
        assert len(shortened("x" * 10**6)) < 310

    def test_escape_sequences_of_a_manifest_stay_in_it(self, own_bundle: Path, manifest: Any) -> None:
        for place in (
            ("schema_version",),
            ("graphs", 0, "role"),
            ("tokenizer", "file", "path"),
            ("graphs", 0, "inputs", 0, "name"),
        ):
            (own_bundle / MANIFEST_NAME).write_text(json.dumps(replaced(manifest, place, EVIL)))
            with pytest.raises(BundleError) as caught:
                read_everything(own_bundle)
            assert str(caught.value).isprintable()
