"""docs/bundle.md says what the code does: its tables, its words about captions, and its algorithm of the noise."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from itertools import count, islice, product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from msgspec import NODEFAULT, Struct, inspect
from numpy.random import Generator, Philox

from dmgan_runtime.aliases import MAX_ALIAS_CHARACTERS, MAX_ALIASES, MAX_NAME_CHARACTERS
from dmgan_runtime.bundle import (
    MAX_FILE_BYTES,
    MAX_INFLATION,
    MAX_MANIFEST_BYTES,
    MAX_VOCABULARY_BYTES,
    packaged_bundle,
)
from dmgan_runtime.graphs import graph_interface
from dmgan_runtime.manifest import (
    SCHEMA_VERSION,
    FileEntry,
    GraphEntry,
    Manifest,
    ModelSpec,
    ParityEntry,
    Role,
    SelfTestEntry,
    TensorEntry,
    TokenizerEntry,
    parse_manifest,
)
from dmgan_runtime.noise import MAX_SEED, draw_noise
from dmgan_runtime.onnx_file import OPERATORS
from dmgan_runtime.results import to_levels
from dmgan_runtime.self_test import TOLERANCE
from dmgan_runtime.tokenizer import _CHANGES, _PICTURE, MAX_CAPTION_CHARACTERS, PAD, Tokenizer, split_words

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "bundle.md").read_text(encoding="utf-8")
STRUCTS: dict[str, type[Struct]] = {
    "manifest": Manifest,
    "model": ModelSpec,
    "tokenizer": TokenizerEntry,
    "graph": GraphEntry,
    "tensor": TensorEntry,
    "file": FileEntry,
    "parity": ParityEntry,
    "self_test": SelfTestEntry,
}


def table(header: str) -> list[list[str]]:
    """The cells of the table whose header begins so, without its header."""
    lines = iter(PAGE.splitlines())
    assert any(line.startswith(header) for line in lines), header
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def codes(cell: str) -> list[str]:
    return re.findall("`([^`]*)`", cell)


class TestManifest:
    def test_every_key_has_its_type_and_default(self) -> None:
        described = [
            (where, key, kind, missing)
            for objects, keys, kind, missing in table("| object | key |")
            for where in objects.split(", ")
            for key in codes(keys)
        ]
        expected = [
            (where, field.encode_name, kind_of(field.type), missing_of(field))
            for where, struct in STRUCTS.items()
            for field in fields_of(struct)
        ]
        assert sorted(described) == sorted(expected)

    def test_unknown_keys_are_refused_everywhere(self) -> None:
        assert all(struct.__struct_config__.forbid_unknown_fields for struct in STRUCTS.values())

    def test_the_operators_of_exported_graphs_are_named(self) -> None:
        listed = PAGE.partition("exported graph has: those are")[2].partition(", of ONNX's own domain")[0]
        assert set(re.findall(r"[A-Z]\w+", listed)) == OPERATORS

    def test_the_version_and_the_roles_are_named(self) -> None:
        assert f"This is version {SCHEMA_VERSION}" in PAGE
        first, *rest = get_args(Role)
        assert f"`{first}` or `{rest[0]}` to `{rest[-1]}`" in PAGE

    def test_dmgan_export_writes_every_key_and_the_up_blocks_that_the_page_says(self) -> None:
        content = (packaged_bundle() / "manifest.json").read_bytes()
        written = json.loads(content)
        assert set(written) == {field.encode_name for field in fields_of(Manifest)}
        assert set(written["model"]) == {field.encode_name for field in fields_of(ModelSpec)}
        assert set(written["self_test"]["thumbnails"]) == {"16", "32", "64", "128", "256"}
        for graph in parse_manifest(content, "packaged").graphs:
            assert (graph.up_blocks is None) == (graph.role == "text_encoder")

    def test_the_self_tests_tolerances(self) -> None:
        assert TOLERANCE == {"fp32": 2, "fp16": 8, "bf16": 8, "int8": 32}
        assert "2 levels of 255 in fp32, 8 in fp16 and bf16, 32 in int8" in " ".join(PAGE.split())


def fields_of(struct: type[Struct]) -> tuple[inspect.Field, ...]:
    kind = inspect.type_info(struct)
    assert isinstance(kind, inspect.StructType)
    return kind.fields


def kind_of(kind: inspect.Type) -> str:
    """A type in the page's words."""
    match kind:
        case inspect.StructType():
            return next(name for name, struct in STRUCTS.items() if struct is kind.cls)
        case inspect.VarTupleType():
            return f"list of {kind_of(kind.item_type)}"
        case inspect.UnionType():
            return " or ".join(map(kind_of, kind.types))
        case inspect.LiteralType() if set(kind.values) == set(get_args(Role)):
            return "role"
        case inspect.LiteralType():
            return ", ".join(f"`{value}`" for value in sorted(map(str, kind.values)))
        case inspect.IntType(ge=None, le=None):
            return "whole"
        case inspect.IntType(le=None):
            return f"whole, {kind.ge} or more"
        case inspect.IntType():
            return f"whole, {kind.ge} to {kind.le:,}"
        case inspect.StrType(pattern="^[0-9a-f]{64}$"):
            return "64 of 0-9 and a-f"
        case inspect.StrType(pattern=None):
            return "text"
        case inspect.FloatType():
            return "number"
        case inspect.NoneType():
            return "null"
        case inspect.DictType(value_type=inspect.BytesType()):
            assert kind.value_type == inspect.BytesType(min_length=192, max_length=192)
            return "object: resolution to base64 of 192 bytes"
        case inspect.DictType(value_type=inspect.FloatType()):
            return f"object: {kind_of(kind.key_type)} to number"
        case inspect.DictType(value_type=inspect.AnyType()):
            return "any object"
    raise AssertionError(kind)


def missing_of(field: inspect.Field) -> str:
    if field.required:
        return "required"
    value: Any = field.default if field.default_factory is NODEFAULT else field.default_factory()
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


class TestGraphs:
    @pytest.mark.parametrize("stages", [1, 3, 5])
    @pytest.mark.parametrize(
        ("writing", "response"),
        [pair for pair in product(("gated", "words", "none"), ("gated", "concatenation")) if pair != ("none", "gated")],
    )
    def test_the_table_is_the_contract(self, stages: int, writing: Any, response: Any) -> None:
        spec = ModelSpec(
            stages=stages,
            base_resolution=8,
            generator_channels=5,
            text_features=6,
            noise_features=7,
            condition_features=9,
            memory_writing=writing,
            memory_response=response,
        )
        for role in spec.roles:
            interface = graph_interface(role, spec, max_words=11)
            for where, entries in zip(("in", "out"), interface, strict=True):
                found = {(entry.name, entry.dtype, entry.shape) for entry in entries}
                assert found == set(described_tensors(role, where, spec, 11))

    def test_padding_of_the_words_is_0_and_ignored(self) -> None:
        # The real networks, because the page speaks of what they hold.
        model = parse_manifest((packaged_bundle() / "manifest.json").read_bytes(), "packaged").model
        tokens = np.zeros((1, 16), dtype=np.int64)
        tokens[0, :3] = 5, 6, 7
        lengths = np.array([3])
        text = run("text_encoder", tokens=tokens, lengths=lengths)
        tokens[0, 3:] = 9
        other = run("text_encoder", tokens=tokens, lengths=lengths)
        assert text["word_features"][..., :3].any()
        assert not text["word_features"][..., 3:].any()
        for name, value in text.items():
            np.testing.assert_array_equal(value, other[name])
        noise, condition_noise = draw_noise([0], model.noise_features, model.condition_features)
        sentence = text["sentence_feature"]
        features = run("generator_0", sentence_feature=sentence, noise=noise, condition_noise=condition_noise)
        known = {"previous_features": features["features"], "lengths": lengths}
        stage = run("generator_1", word_features=text["word_features"], **known)
        other["word_features"][..., 3:] = 1000
        for name, value in run("generator_1", word_features=other["word_features"], **known).items():
            np.testing.assert_array_equal(value, stage[name])
        assert not stage["attention"][:, 3:].any()
        assert not stage["writing_gate"][:, 3:].any()
        np.testing.assert_allclose(stage["attention"].sum(axis=1), 1, rtol=1e-5)

    def test_levels_are_rounded_as_the_page_says(self) -> None:
        values = np.array([-2, -1, 0, 1, 2], dtype=np.float32)
        assert to_levels(np.tile(values, (3, 1, 1)))[0, :, 0].tolist() == [0, 0, 128, 255, 255]
        assert "-1 is 0, 0 is 128 and 1 is 255" in PAGE


def described_tensors(
    role: Role, where: str, spec: ModelSpec, words: int
) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    stage = -1 if role == "text_encoder" else spec.generator_roles.index(role)
    resolution = spec.base_resolution * 2 ** max(stage, 0)
    sizes: dict[str, Any] = {
        "N": "batch",
        "T": words,
        "D": spec.text_features,
        "z": spec.noise_features,
        "c": spec.condition_features,
        "Ng": spec.generator_channels,
        "B": spec.base_resolution,
        "R": resolution,
        "r": resolution // 2,
        "1": 1,
        "3": 3,
    }
    there = {
        "always": True,
        "if it is not the last": stage < spec.stages - 1,
        "if `memory_writing` is `gated`": spec.memory_writing == "gated",
        "if `memory_response` is `gated`": spec.memory_response == "gated",
    }
    for graph, direction, name, shape, dtype, condition in table("| graph | |"):
        if codes(graph) == [role if stage < 1 else "generator_k"] and direction == where and there[condition]:
            yield name.strip("`"), dtype, tuple(sizes[size] for size in shape.strip("[]").split(", "))


def run(role: str, **inputs: npt.NDArray[Any]) -> dict[str, npt.NDArray[np.float32]]:
    path = packaged_bundle() / "onnx" / f"{role}.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def test_the_limits_are_the_codes() -> None:
    rows = table("| what | at most |")
    limits = {what: int(limit.split()[0].replace(",", "")) for names, limit in rows for what in names.split(", ")}
    assert limits == {
        "`manifest.json`": MAX_MANIFEST_BYTES,
        "`vocab.json`": MAX_VOCABULARY_BYTES,
        "`aliases.json`": MAX_VOCABULARY_BYTES,
        "any other file": MAX_FILE_BYTES,
        "an entry of a `.zip`": MAX_INFLATION,
        "a caption": MAX_CAPTION_CHARACTERS,
        "aliases": MAX_ALIASES,
        "an alias": MAX_ALIAS_CHARACTERS,
        "the name of an alias": MAX_NAME_CHARACTERS,
        "a seed": MAX_SEED,
    }


class TestCaptions:
    def test_the_examples(self) -> None:
        rows = table("| caption, in JSON |")
        assert len(rows) >= 5
        for caption, words in rows:
            assert split_words(json.loads(caption.strip("`"))) == codes(words)

    def test_a_word_is_of_letters_numbers_and_underscores(self) -> None:
        characters = map(chr, range(0x110000))
        wrong = [c for c in characters if bool(re.match(r"\w", c)) != (c == "_" or unicodedata.category(c)[0] in "LN")]
        assert not wrong

    def test_the_examples_with_aliases(self) -> None:
        (text,) = re.findall(r"^With the aliases `(.*)`$", PAGE, re.MULTILINE)
        aliases = json.loads(text)
        tokenizer = Tokenizer.from_captions([*aliases.values(), "i you"], aliases)
        assert tokenizer.aliases == aliases
        rows = table("| caption with aliases, in JSON |")
        assert len(rows) >= 5
        for caption, words, unknown in rows:
            encoding = tokenizer.encode(json.loads(caption.strip("`")), 20)
            assert (list(encoding.used), list(encoding.unknown)) == (codes(words), codes(unknown))

    def test_the_pictures_that_are_reported(self) -> None:
        said = PAGE.partition("step 2 takes these, too")[2].partition("These blocks")[0]
        named = [int(code, 16) for code in re.findall(r"U\+([0-9A-F]+)", said)]
        pattern = "".join(part for part in (_PICTURE, _CHANGES))
        used = [ord(character) for character in re.sub(r"[\[\]-]", "", pattern)]
        flags, blocks, changes = named[:2], named[2:12], named[12:-1]
        assert flags == [0x1F1E6, 0x1F1FF]
        assert blocks + changes == used
        assert named[-1] == 0x200D

    def test_the_padding_word(self) -> None:
        assert f"the first is `{PAD}`" in PAGE


# The noise, as the page describes it and in no other way.

MASK = 2**64 - 1
X = 3.6541528853610088
F32 = np.float32


def words_of_64_bits(seed: int) -> Iterator[int]:
    for number in count(1):
        c0, c1, c2, c3 = number, 0, 0, 0
        k0, k1 = seed, 0
        for _ in range(10):
            p, q = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
            c0, c1, c2, c3 = q >> 64 ^ c1 ^ k0, q & MASK, p >> 64 ^ c3 ^ k1, p & MASK
            k0, k1 = k0 + 0x9E3779B97F4A7C15 & MASK, k1 + 0xBB67AE8584CAA73B & MASK
        yield from (c0, c1, c2, c3)


def words_of_32_bits(seed: int) -> Iterator[int]:
    for word in words_of_64_bits(seed):
        yield from (word & 0xFFFFFFFF, word >> 32)


def make_tables() -> tuple[list[int], list[np.float32], list[np.float32]]:
    def f(x: float) -> float:
        return math.exp(-(x**2) / 2)

    area = X * f(X) + math.sqrt(math.pi / 2) * math.erfc(X / math.sqrt(2))
    x = [0.0] * 255 + [X]
    for i in range(254, 0, -1):
        x[i] = math.sqrt(-2 * math.log(area / x[i + 1] + f(x[i + 1])))
    q = area / f(X)
    k = [round(X / q * 2**23), *(round(x[i - 1] / x[i] * 2**23) for i in range(1, 256))]
    return k, [F32(each / 2**23) for each in (q, *x[1:])], [F32(f(each)) for each in x]


K, W, F = make_tables()


def normal_numbers(seed: int, visit: Callable[[str], None] = lambda _: None) -> Iterator[np.float32]:
    words = words_of_32_bits(seed)

    def uniform() -> np.float32:
        return F32(next(words) >> 8) * F32(2**-24)

    while True:
        w = next(words)
        i, m = w & 255, w >> 9
        x = F32(m) * W[i]
        x = -x if w & 256 else x
        if m < K[i]:
            yield x
        elif i > 0:
            accepted = float((F[i - 1] - F[i]) * uniform() + F[i]) < math.exp(-0.5 * float(x) * float(x))
            visit("accepted" if accepted else "rejected")
            if accepted:
                yield x
        else:
            visit("tail")
            while True:
                s = -F32(1 / X) * F32(math.log1p(-uniform()))
                t = -F32(math.log1p(-uniform()))
                if t + t > s * s:
                    break
                visit("tail again")
            yield -(F32(X) + s) if m & 256 else F32(X) + s


def numbers(seed: int, width: int, visit: Callable[[str], None] = lambda _: None) -> npt.NDArray[np.float32]:
    return np.array(list(islice(normal_numbers(seed, visit), width)), dtype=np.float32)


def assert_same(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> None:
    """The bits are the same, but for the last one of the tail's."""
    tail = np.abs(expected) > X
    np.testing.assert_array_equal(found[~tail], expected[~tail])
    np.testing.assert_array_max_ulp(found[tail], expected[tail], maxulp=1)


def from_bits(bits: str) -> npt.NDArray[np.float32]:
    return np.array([int(each, 16) for each in bits.split()], dtype=np.uint32).view(np.float32)


class TestNoise:
    @pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63 + 5, MAX_SEED])
    def test_the_words_are_numpys(self, seed: int) -> None:
        assert list(islice(words_of_64_bits(seed), 21)) == Philox(key=seed).random_raw(21).tolist()

    def test_the_numbers_are_numpys_down_every_path(self) -> None:
        visited: list[str] = []
        differ = 0
        for seed in (0, 1, MAX_SEED, *range(1000, 1097)):
            expected = Generator(Philox(key=seed)).standard_normal(1000, dtype=np.float32)
            found = numbers(seed, 1000, visited.append)
            assert_same(found, expected)
            differ += int((found != expected).sum())
        assert differ < visited.count("tail") / 5  # a wrong u would show in every tail
        assert min(map(visited.count, ("accepted", "rejected"))) > 100
        assert min(map(visited.count, ("tail", "tail again"))) > 0

    def test_the_numbers_to_check_the_tables(self) -> None:
        found = re.search(
            r"K begins (\d+), (\d+), (\d+) and ends (\d+); .* W\[0\] are `(\w+)`, of F\[255\] `(\w+)`", PAGE
        )
        assert found is not None
        assert [int(each) for each in found.groups()[:4]] == [*K[:3], K[255]]
        assert from_bits(f"{found[5]} {found[6]}").tolist() == [W[0], F[255]]

    def test_the_constants_are_those_that_this_file_computes_with(self) -> None:
        for constant in (0xD2E7470EE14C6C93, 0xCA5A826395121157, 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B):
            assert f"0x{constant:X}" in PAGE
        assert f"X = x[255] = {X:.16f}" in PAGE

    def test_the_pages_vectors(self) -> None:
        rows = table("| | seed 0 |")
        assert [row[0] for row in rows] == list("01234567")
        for column, seed in ((1, 0), (3, 1), (5, MAX_SEED)):
            drawn = np.hstack(draw_noise([seed], 5, 3))[0]
            np.testing.assert_array_equal(from_bits(" ".join(row[column].strip("`") for row in rows)), drawn)
            assert [row[column + 1] for row in rows] == [str(each) for each in drawn]

    def test_the_files_vectors(self) -> None:
        draws = json.loads((ROOT / "tests" / "golden" / "noise.json").read_bytes())["draws"]
        assert {int(draw["seed"]) for draw in draws} >= {0, 1, MAX_SEED}
        assert any(float(draw["truncation"]) < 1 for draw in draws)
        for draw in draws:
            seed, truncation = int(draw["seed"]), float(draw["truncation"])
            words = [int(word, 16) for word in draw["words"].split()]
            assert words == list(islice(words_of_64_bits(seed), len(words)))
            kept = from_bits(" ".join(draw["values"]))
            noise, condition_noise = draw_noise([seed], 24, 40, truncation)
            assert_same(np.concatenate([noise[0], condition_noise[0]]), kept)
            assert_same(numbers(seed, 64) * F32(truncation), kept)
