"""Damaged and hostile bundles: one table of cases, refused by Python and by JavaScript with the same class of error."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import zipfile
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dmgan_runtime.aliases import MAX_ALIASES, aliases_to_json
from dmgan_runtime.bundle import MAX_MANIFEST_BYTES, MAX_VOCABULARY_BYTES, Bundle
from dmgan_runtime.errors import BundleError, DmganError, EngineError
from dmgan_runtime.graphs import check_interfaces
from dmgan_runtime.manifest import MANIFEST_NAME, parse_manifest
from dmgan_runtime.onnx_file import check_onnx_file
from dmgan_runtime.tokenizer import PAD, Tokenizer
from tests.bundles import ROLES, build_bundle, build_graph, write_manifest, zip_bundle
from tests.dmgan_runtime import test_onnx_file as onnx_files
from tests.dmgan_runtime.test_bundle import add_to_zip
from tests.dmgan_runtime.test_trust import EVIL, places, replaced, vouch
from tests.web.conftest import Node

GRAPH = "onnx/generator_1.onnx"
pytestmark = pytest.mark.filterwarnings("ignore:Duplicate name")


class Case(NamedTuple):
    """A way to break a bundle's folder, and what both languages say of it.

    Attributes:
        make: Breaks the folder; returns what is to be opened.
        message: A pattern of both messages.
    """

    make: Callable[[Path], Path]
    message: str


def edited(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(edit((folder / name).read_bytes()))
        return folder

    return make


def with_manifest(*place: Any, value: Any) -> Callable[[Path], Path]:
    def edit(content: bytes) -> bytes:
        manifest = json.loads(content)
        part = manifest
        for key in place[:-1]:
            part = part[key]
        part[place[-1]] = value
        return json.dumps(manifest).encode()

    return edited(MANIFEST_NAME, edit)


def vouched(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        vouch(folder, name, content)
        return folder

    return make


def with_aliases(content: Any) -> Callable[[Path], Path]:
    """A bundle whose manifest vouches for these aliases."""

    def make(folder: Path) -> Path:
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / "aliases.json").write_bytes(text)
        write_manifest(folder)
        return folder

    return make


def zipped(change: Callable[[Path], object] = lambda _: None) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = zip_bundle(folder, folder.parent / "tiny.zip")
        change(path)
        return path

    return make


def without(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).unlink()
        return folder

    return make


def swapped(folder: Path) -> Path:
    one, other = folder / GRAPH, folder / "onnx/generator_0.onnx"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    return folder


def sparse(name: str, size: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        os.truncate(folder / name, size)
        return folder

    return make


def encrypted(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def packed_rarely(path: Path) -> None:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_LZMA) as archive:
        archive.writestr("more", b"x" * 100)


def bomb(folder: Path) -> Path:
    path = folder.parent / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / MANIFEST_NAME, MANIFEST_NAME)
        archive.writestr("vocab.json", bytes(2**25))
    return path


def lying_bomb(folder: Path) -> Path:
    path = folder.parent / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / MANIFEST_NAME, MANIFEST_NAME)
        archive.writestr("vocab.json", bytes(2**22))
    size = (folder / "vocab.json").stat().st_size
    path.write_bytes(path.read_bytes().replace((2**22).to_bytes(4, "little"), size.to_bytes(4, "little")))
    return path


def cut(keep: float) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, int(keep * path.stat().st_size))


def of_external_weights(folder: Path) -> Path:
    model = build_graph("generator_1")
    onnx_files.in_initializer(model)
    (folder / GRAPH).write_bytes(model.SerializeToString())
    write_manifest(folder)
    return folder


def of_the_engines_own_format(folder: Path) -> Path:
    (folder / GRAPH).write_bytes(b"\x0a\x06..ORTM")
    write_manifest(folder)
    return folder


def with_operator(operator: str, domain: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        model = build_graph("generator_1")
        model.graph.node[3].op_type = operator
        model.graph.node[3].domain = domain
        (folder / GRAPH).write_bytes(model.SerializeToString())
        write_manifest(folder)
        return folder

    return make


ALIASES = aliases_to_json({"🍕": "a", "👍🏿": "a, a", "👩\u200d🚀": "b", "1\u20e3": "é"})
DAMAGED = r"damaged or replaced: .*{}.*; copy the bundle again"
CASES = {
    "no bundle": Case(lambda folder: folder / "nowhere", "no such bundle|missing"),
    "no manifest": Case(without(MANIFEST_NAME), r"manifest\.json: missing"),
    "no graph": Case(without(GRAPH), f"{GRAPH}: missing"),
    "no vocabulary": Case(without("vocab.json"), "vocab.json: missing"),
    "cut graph": Case(edited(GRAPH, lambda c: c[:-1]), GRAPH + ": " + DAMAGED.format("bytes, the manifest says")),
    "longer graph": Case(edited(GRAPH, lambda c: c + b"\0"), DAMAGED.format("bytes, the manifest says")),
    "empty graph": Case(edited(GRAPH, lambda _: b""), "has 0 bytes"),
    "first bit": Case(edited(GRAPH, lambda c: bytes([c[0] ^ 1]) + c[1:]), DAMAGED.format("its SHA-256 is")),
    "last bit": Case(edited("vocab.json", lambda c: c[:-1] + bytes([c[-1] ^ 128])), DAMAGED.format("its SHA-256 is")),
    "two swapped": Case(swapped, "damaged or replaced"),
    "huge manifest": Case(sparse(MANIFEST_NAME, MAX_MANIFEST_BYTES + 1), "at most 16,777,216 are read"),
    "cut manifest": Case(edited(MANIFEST_NAME, lambda c: c[:-10]), "not a valid manifest .*copy the bundle again"),
    "no json": Case(edited(MANIFEST_NAME, lambda _: b"\xff\xfe"), "not a valid manifest"),
    "byte order mark": Case(edited(MANIFEST_NAME, lambda c: b"\xef\xbb\xbf" + c), "not a valid manifest"),
    "no object": Case(edited(MANIFEST_NAME, lambda _: b"[]"), "not a valid manifest"),
    "nothing in it": Case(edited(MANIFEST_NAME, lambda _: b"{}"), "schema version missing"),
    "version 1": Case(with_manifest("schema_version", value="1.1"), r"schema version 1\.1, and this dmgan reads 2\.1"),
    "version 3": Case(with_manifest("schema_version", value="3.0"), r"schema version 3\.0, and this dmgan reads 2\.1"),
    "no version": Case(with_manifest("schema_version", value="2.٣"), "and this dmgan reads"),
    "version as a number": Case(with_manifest("schema_version", value=2), "Expected `str`"),
    "version of many characters": Case(
        with_manifest("schema_version", value="9" * 10**6), "9 [.]{3} 9.*; upgrade dmgan"
    ),
    "unknown key": Case(with_manifest("surprise", value=1), "unknown field `surprise`"),
    "unknown key inside": Case(with_manifest("model", "surprise", value=1), r"unknown field `surprise`.*\$\.model"),
    "number for text": Case(with_manifest("name", value=3), r"Expected `str`, got `int` - at `\$\.name`"),
    "text for a number": Case(with_manifest("tokenizer", "max_words", value="6"), r"Expected `int`, got `str`"),
    "half a word": Case(with_manifest("tokenizer", "max_words", value=6.5), r"Expected `int`, got `float`"),
    "truth for a number": Case(with_manifest("tokenizer", "max_words", value=True), r"Expected `int`, got `bool`"),
    "no words": Case(with_manifest("tokenizer", "max_words", value=0), "Expected `int` >= 1"),
    "too many words": Case(with_manifest("tokenizer", "max_words", value=513), "Expected `int` <= 512"),
    "all memory": Case(with_manifest("model", "text_features", value=10**12), r"<= 65536 - at `\$\.model\.text_feat"),
    "beyond 64 bits": Case(with_manifest("model", "text_features", value=10**25), r"at `\$\.model\.text_features`"),
    "no power of two": Case(with_manifest("model", "base_resolution", value=48), "power of two"),
    "odd features": Case(with_manifest("model", "text_features", value=7), "even number"),
    "gate without memory": Case(with_manifest("model", "memory_writing", value="none"), "needs a memory"),
    "unknown memory": Case(with_manifest("model", "memory_writing", value="x"), "Invalid enum value 'x'"),
    "unknown role": Case(with_manifest("graphs", 0, "role", value="generator_9"), "Invalid enum value 'generator_9'"),
    "role beyond stages": Case(
        with_manifest("graphs", 1, "role", value="generator_4"), "there is a graph generator_4, and a model of 3 stages"
    ),
    "graph twice": Case(
        with_manifest("graphs", 1, "role", value="generator_1"), "there are 2 generator_1 graphs in fp32"
    ),
    "another interface": Case(
        with_manifest("graphs", 1, "inputs", value=[]), r"generator_0\.onnx, inputs: found none, but expected sentence"
    ),
    "another shape": Case(
        with_manifest("graphs", 0, "outputs", 0, "shape", value=["batch", 6]), r"word_features float32\[batch, 6\]"
    ),
    "another type": Case(with_manifest("graphs", 0, "inputs", 0, "dtype", value="int32"), "Invalid enum value 'int32'"),
    "unknown arithmetic": Case(with_manifest("image_psnr_db", value={"fp8": 1.0}), "Invalid enum value 'fp8'"),
    "size that is claimed": Case(
        with_manifest("graphs", 0, "file", "bytes", value=10**6), DAMAGED.format("bytes, the manifest says 1,000,000")
    ),
    "size of 17 digits": Case(with_manifest("tokenizer", "file", "bytes", value=10**16), "10,000,000,000,000,000"),
    "half a character": Case(with_manifest("name", value="\ud83c"), "not a valid manifest"),
    "half a character in a word": Case(
        vouched("vocab.json", b'["<end>", "\\ud83c"]'), "cannot be read as a vocabulary"
    ),
    "ONNX Runtime's own format": Case(of_the_engines_own_format, "it is not an ONNX file"),
    "negative size": Case(with_manifest("graphs", 0, "file", "bytes", value=-1), "Expected `int` >= 0"),
    "no hash": Case(with_manifest("graphs", 0, "file", "sha256", value="A" * 64), "Expected `str`.*sha256"),
    "seed of 65 bits": Case(
        with_manifest("self_test", value={"caption": "a", "seed": 2**64, "thumbnails": {}}),
        "seed|int",
    ),
    "no thumbnails": Case(
        with_manifest("self_test", value={"caption": "a", "seed": 2**64 - 1, "thumbnails": {}}),
        "self_test has thumbnails of .*, and the model generates",
    ),
    "short thumbnail": Case(
        with_manifest("self_test", value={"caption": "a", "seed": 0, "thumbnails": {"8": "AAAA"}}), "self_test"
    ),
    "newer but unreadable": Case(
        edited(
            MANIFEST_NAME,
            lambda c: json.dumps(json.loads(c) | {"schema_version": "2.99", "name": 3, "surprise": 1}).encode(),
        ),
        r"schema version 2\.99 is newer than .*; upgrade dmgan$",
    ),
    **{
        f"path {path!r}": Case(with_manifest("tokenizer", "file", "path", value=path), "leaves the bundle")
        for path in ("/etc/passwd", "../x", "onnx/../../x", "a\\b", "C:/x", "", ".", "a\0b", "a\nb", "a\x1fb")
    },
    "no vocabulary in it": Case(vouched("vocab.json", b"[1, 2]"), r"vocab\.json: cannot be read as a vocabulary"),
    "vocabulary of one word twice": Case(vouched("vocab.json", b'["<end>", "a", "a"]'), "each word once"),
    "vocabulary without padding": Case(vouched("vocab.json", b'["a"]'), "starts with"),
    "aliases that are a list": Case(with_aliases(["a"]), r"aliases\.json: cannot be read as aliases"),
    "alias of a number": Case(with_aliases({"é": 1}), r"aliases\.json: cannot be read as aliases"),
    "half a character in an alias": Case(
        with_aliases(b'{"\\ud83c": "a"}'), r"aliases\.json: cannot be read as aliases"
    ),
    "half a character in a name": Case(with_aliases(b'{"\\u00e9": "a\\udf55"}'), "cannot be read as aliases"),
    "plain text as an alias": Case(with_aliases({"é": "a", "red": "blue"}), "the alias 'red' is plain text"),
    "empty alias": Case(with_aliases({"": "a"}), "the alias '' is plain text"),
    "alias with its presentation": Case(with_aliases({"❤\ufe0f": "red heart"}), "has a variation selector"),
    "long alias": Case(with_aliases({"🦩" * 33: "a"}), "has over 32 characters"),
    "endless alias": Case(with_aliases({"🦩" * 10**6: "a"}), "has over 32 characters"),
    "long name of an alias": Case(with_aliases({"é": "🦩" * 129}), "has over 128 characters"),
    "too many aliases": Case(
        with_aliases({f"é{number}": "a" for number in range(MAX_ALIASES + 1)}),
        "there are 65,537 aliases, and at most 65,536 are read",
    ),
    "no file of aliases": Case(
        lambda folder: without("aliases.json")(with_aliases({"é": "a"})(folder)), "s.json: missing"
    ),
    "other aliases": Case(
        lambda folder: edited("aliases.json", lambda c: c.replace(b"a", b"b"))(with_aliases({"é": "a"})(folder)),
        DAMAGED.format("its SHA-256 is"),
    ),
    "huge aliases": Case(with_aliases(b"{}" + b" " * MAX_VOCABULARY_BYTES), "and at most 16,777,216 are read"),
    "path of aliases": Case(
        with_manifest("tokenizer", "aliases", value={"path": "../x", "bytes": 0, "sha256": "0" * 64}),
        "leaves the bundle",
    ),
    "huge vocabulary": Case(
        vouched("vocab.json", b'["<end>"]' + b" " * MAX_VOCABULARY_BYTES), "and at most 16,777,216 are read"
    ),
    **{
        f"zip with {name!r}": Case(
            zipped(lambda path, name=name: add_to_zip(path, name)), r"unsafe: its entry .* leaves the bundle"
        )
        for name in ("../evil", "/etc/evil", "onnx/../../evil", "a\\..\\..\\evil", "C:/evil")
    },
    "zip with a link": Case(
        zipped(lambda path: add_to_zip(path, "link", b"/etc/passwd", stat.S_IFLNK | 0o777)), "entry 'link' is a link"
    ),
    "zip with an entry twice": Case(zipped(lambda path: add_to_zip(path, "vocab.json", b"[]")), "comes twice"),
    "encrypted zip": Case(zipped(encrypted), "is encrypted"),
    "rare zip": Case(zipped(packed_rarely), "compressed in a rare way"),
    "bomb": Case(bomb, r"unsafe: \d+,\d+ bytes that claim to become 33,554,432, as in a decompression bomb"),
    "lying bomb": Case(lying_bomb, r"Bad CRC-32|SHA-256|cannot be read"),
    **{f"zip cut to {keep}": Case(zipped(cut(keep)), r"nor a readable \.zip") for keep in (0, 0.5, 0.99)},
    "no zip": Case(zipped(lambda path: path.write_bytes(b"not a zip" * 9)), r"nor a readable \.zip"),
    "zip without a manifest": Case(lambda folder: zipped()(without(MANIFEST_NAME)(folder)), r"manifest\.json: missing"),
    "zip without a graph": Case(lambda folder: zipped()(without(GRAPH)(folder)), f"{GRAPH}: missing"),
    "zip with two swapped": Case(lambda folder: zipped()(swapped(folder)), "damaged or replaced"),
    "zip with an entry in both spellings": Case(
        zipped(lambda path: add_to_zip(path, GRAPH.replace("/", "\\"))), r"generator_1.onnx' .*comes twice"
    ),
    **{
        f"pointer of Git LFS for {name}": Case(
            edited(name, lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64),
            f"{name}: a pointer of Git LFS .*; fetch it with: git lfs pull",
        )
        for name in (MANIFEST_NAME, "vocab.json", GRAPH)
    },
    **{
        f"operator {operator!r}": Case(
            with_operator(operator, ""), f"has the operator '{operator}', that no graph by dmgan-export has"
        )
        for operator in ("Loop", "If", "Expand", "Custom", "")
    },
    "operator of another domain": Case(
        with_operator("Add", "com.microsoft"), "has the domain 'com.microsoft', that no graph by dmgan-export has"
    ),
    "weights elsewhere": Case(of_external_weights, "keeps weights in another file; export the bundle again"),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def own(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def read_in_python(path: Path) -> None:
    with Bundle(path) as opened:
        opened.tokenizer()
        for graph in opened.manifest.graphs:
            check_onnx_file(opened.read(graph.file), graph.file.path)


@pytest.mark.parametrize("name", CASES)
def test_both_languages_refuse(node: Node, own: Path, name: str) -> None:
    path = CASES[name].make(own)
    with pytest.raises((BundleError, EngineError), match=CASES[name].message):
        read_in_python(path)
    with pytest.raises((BundleError, EngineError), match=CASES[name].message) as caught:
        node("read_everything", path=str(path))
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("prefix", [None, "", "tiny/", "tiny\\"])
def test_a_whole_bundle_is_read(node: Node, bundle: Path, tmp_path: Path, prefix: str | None) -> None:
    path = bundle if prefix is None else zip_bundle(bundle, tmp_path / "tiny.zip", prefix)
    if prefix == "tiny\\":  # as Windows PowerShell 5.1 writes it
        path.write_bytes(path.read_bytes().replace(b"onnx/", b"onnx\\"))
    manifest = node("read_everything", path=str(path))
    written = json.loads((bundle / MANIFEST_NAME).read_bytes())
    assert manifest == written


def test_of_a_newer_minor_version_what_is_known_is_read(node: Node, bundle: Path) -> None:
    written = json.loads((bundle / MANIFEST_NAME).read_bytes())
    newer = written | {"schema_version": "2.99", "surprise": {"of": 1}}
    newer["model"] = newer["model"] | {"surprise": 1}
    found = node("parse_manifest", content=b64encode(json.dumps(newer).encode()).decode())
    assert found == written | {"schema_version": "2.99"}


def test_a_seed_of_64_bits_is_kept(node: Node, bundle: Path) -> None:
    thumbnails = {str(side): b64encode(bytes(192)).decode() for side in (8, 16, 32)}
    test = {"caption": "12345678901234567890", "seed": 2**64 - 1, "thumbnails": thumbnails}
    manifest = json.loads((bundle / MANIFEST_NAME).read_bytes()) | {"self_test": test}
    found = node("parse_manifest", content=b64encode(json.dumps(manifest).encode()).decode())
    assert found["self_test"] == test | {"seed": str(2**64 - 1)}


def test_a_flipped_bit_anywhere_in_a_zip_is_refused_or_harmless(node: Node, bundle: Path, tmp_path: Path) -> None:
    path = zip_bundle(bundle, tmp_path / "tiny.zip")
    whole = path.read_bytes()
    expected = node("read_everything", path=str(path))
    refused = 0
    for position in range(0, len(whole), max(1, len(whole) // 150)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        try:
            assert node("read_everything", path=str(path)) == expected  # a flipped time stamp is harmless
        except BundleError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    "hide", [getattr(onnx_files, name) for name in dir(onnx_files) if name.startswith("in_")], ids=lambda f: f.__name__
)
def test_external_data_is_found_wherever_it_is(node: Node, hide: Callable[[Any], None]) -> None:
    model = build_graph("generator_1")
    hide(model)
    with pytest.raises(EngineError, match=r"^here: (keeps weights in another file|has .* that no graph by dmgan-exp)"):
        node("check_onnx", content=b64encode(model.SerializeToString()).decode())


@pytest.mark.parametrize("role", ROLES)
def test_a_whole_graph_is_taken(node: Node, role: Any) -> None:
    node("check_onnx", content=b64encode(build_graph(role).SerializeToString()).decode())


def read_manifest(content: bytes) -> None:
    check_interfaces(parse_manifest(content, "here"), "here")


def same_verdict(node: Node, operation: str, content: bytes, in_python: Callable[[bytes], object]) -> bool:
    """Whether both languages take a content, or both refuse it with a named error."""
    verdicts = []
    for read in (in_python, lambda content: node(operation, content=b64encode(content).decode())):
        try:
            read(content)
            verdicts.append(True)
        except DmganError:
            verdicts.append(False)
    return verdicts[0] == verdicts[1]


def test_changed_bytes_get_the_same_verdict(node: Node, bundle: Path) -> None:
    """Of a manifest, a vocabulary and a graph: a byte replaced or the rest cut, at 60 places each."""
    readers: dict[str, tuple[str, Callable[[bytes], object]]] = {
        MANIFEST_NAME: ("parse_manifest", read_manifest),
        "vocab.json": ("parse_vocabulary", lambda content: Tokenizer.from_json(content, "here")),
        "aliases.json": ("parse_aliases", lambda content: Tokenizer([PAD, "a"]).with_aliases(content, "here")),
        GRAPH: ("check_onnx", lambda content: check_onnx_file(content, "here")),
    }
    for name, (operation, in_python) in readers.items():
        content = ALIASES if name == "aliases.json" else (bundle / name).read_bytes()
        for step in range(60):
            place = len(content) * step // 60
            new = hashlib.sha256(bytes([step])).digest()[:1]
            for changed in (content[:place], content[:place] + new + content[place + 1 :]):
                assert same_verdict(node, operation, changed, in_python), (name, changed)


def test_any_value_in_any_place_gets_the_same_verdict(node: Node, bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST_NAME).read_bytes())
    manifest["parity"] = [
        {"role": "generator_0", "precision": "fp32", "output": "image", "max_abs_error": 0.5, "psnr_db": None,
         "tolerance": 1, "batches": [1, 3], "required_psnr_db": 50.5}
    ]  # fmt: skip
    manifest["image_psnr_db"] = {"fp32": 120.5, "bf16": 40}
    thumbnails = {str(side): b64encode(bytes(192)).decode() for side in (8, 16, 32)}
    manifest["self_test"] = {"caption": "a", "seed": 1, "thumbnails": thumbnails}
    taken = 0
    for place in places(manifest):
        for value in (None, True, -1, 0, 3, 2.5, 2**63, "", "2.0", "generator_1", [], ["batch", 1], {}, {"a": 1}):
            content = json.dumps(replaced(manifest, place, value)).encode()
            assert same_verdict(node, "parse_manifest", content, read_manifest), (place, value)
            taken += 1
    assert taken > 1000


def test_what_a_bundle_says_never_moves_a_cursor(node: Node, own: Path) -> None:
    with pytest.raises(BundleError) as caught:
        node("read_everything", path=str(with_manifest("schema_version", value=EVIL)(own)))
    assert "\\x1b]0;owned\\x07\\x1b[2J\\u202e\\x9b31m" in str(caught.value)
    for text in ("Größe 3,4\nfür 鳥", "👩🏽\u200d🚀 ❤️ \U0001fae9"):
        assert node("printable", text=text) == text
