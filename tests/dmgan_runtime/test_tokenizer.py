from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmgan_runtime.errors import BundleError, CaptionError
from dmgan_runtime.tokenizer import MAX_CAPTION_CHARACTERS, PAD, Tokenizer, split_words

TOKENIZER = Tokenizer([PAD, "a", "red", "bird", "wing_2"])


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A small, RED bird.", ["a", "small", "red", "bird"]),
        ("it's blue-green", ["it", "s", "blue", "green"]),
        ("wing_2  \n\t bird", ["wing_2", "bird"]),
        ("café", ["caf"]),
        ("鳥 bird", ["bird"]),
        ("!?", []),
        ("", []),
    ],
)
def test_words_follow_the_published_rules(caption: str, words: list[str]) -> None:
    assert split_words(caption) == words


@given(st.text())
def test_words_are_lower_case_ascii_and_stable(caption: str) -> None:
    words = split_words(caption)
    assert all(word.isascii() and word == word.lower() for word in words)
    assert split_words(" ".join(words)) == words


@given(st.lists(st.sampled_from(["a", "red", "bird", "zebra", "piano"]), min_size=1), st.integers(1, 9))
def test_every_word_is_used_or_unknown_or_cut(words: list[str], max_words: int) -> None:
    caption = " ".join(words)
    known = [word for word in words if word in TOKENIZER]
    if not known:
        with pytest.raises(CaptionError, match="vocabulary of 4 words"):
            TOKENIZER.encode(caption, max_words)
        return
    encoding = TOKENIZER.encode(caption, max_words)
    assert [*encoding.used, *encoding.cut] == known
    assert list(encoding.unknown) == [word for word in words if word not in TOKENIZER]
    assert encoding.tokens.dtype == np.int64
    assert encoding.tokens.shape == (max_words,)
    assert encoding.length == len(encoding.used) == min(len(known), max_words)
    assert [TOKENIZER.words[token] for token in encoding.tokens[: encoding.length]] == list(encoding.used)
    assert not encoding.tokens[encoding.length :].any()
    assert TOKENIZER.indices(caption)[:max_words] == encoding.tokens[: encoding.length].tolist()


@pytest.mark.parametrize(
    ("caption", "used", "unknown"),
    [
        ("赤い red сердце bird", ("red", "bird"), ("赤い", "сердце")),
        ("red CAFÉ", ("red",), ("café",)),
        ("bírd red é", ("red",), ("bírd", "é")),
        ("red 🐦 bird", ("red", "bird"), ("🐦",)),
    ],
)
def test_words_that_are_not_ascii_are_reported(caption: str, used: tuple[str, ...], unknown: tuple[str, ...]) -> None:
    encoding = TOKENIZER.encode(caption, 5)
    assert (encoding.used, encoding.unknown) == (used, unknown)
    assert encoding.tokens[: encoding.length].tolist() == TOKENIZER.indices(caption)


def test_an_empty_word_of_a_vocabulary_is_never_read() -> None:
    assert Tokenizer([PAD, "", "red"]).encode("鳥 red", 5).used == ("red",)


@pytest.mark.parametrize(
    ("caption", "taken"), [("a zebra", True), ("zebra", False), ("", False), ("鳥", False), ("a " * 9000, False)]
)
def test_it_is_known_at_once_what_is_taken(caption: str, taken: bool) -> None:
    assert TOKENIZER.takes(caption) == taken


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("🐦", "has no words"),
        ("鳥", "has no words"),
        ("", "has no words"),
        ("... " * 2000, "has no words"),
        ("birt zebra wing", "did you mean 'bird' or 'wing_2'"),
        ("z" * 9000, "; use words of its vocab.json"),
        ("a" * (MAX_CAPTION_CHARACTERS + 1), "10,001 characters"),
        (b"a bird", "not bytes"),
        (None, "not NoneType"),
    ],
)
def test_a_caption_that_cannot_be_read_is_a_short_error(caption: str, message: str) -> None:
    with pytest.raises(CaptionError, match=message) as caught:
        TOKENIZER.encode(caption, 5)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("word", "near"), [("birb", ["bird"]), ("wing", ["wing_2"]), ("xylophone", []), ("", [])])
def test_known_words_near_another_are_found(word: str, near: list[str]) -> None:
    assert TOKENIZER.nearest(word) == near


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("hearts", "heart"),
        ("eye", "eyes"),
        ("foxes", "fox"),
        ("cherries", "cherry"),
        ("berry", "berries"),
        ("wolves", "wolf"),
        ("knives", "knife"),
        ("leaf", "leaves"),
        ("bleu", "blue"),
        ("yelow", "yellow"),
        ("bog", None),  # dog, box and big are other words
        ("red", None),
    ],
)
def test_plurals_and_slips_are_near_and_other_words_are_not(word: str, near: str | None) -> None:
    known = Tokenizer.from_captions(
        ["heart eyes fox cherry berries wolf knife leaves blue yellow dog box big rat road"]
    )
    assert known.nearest(word)[:1] == ([near] if near else [])


def test_padding_is_near_nothing() -> None:
    assert TOKENIZER.nearest("<end>") == []


def test_a_mischievous_caption_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparing spellings is what takes long: of three words, cut to a usual length, with those of their initial."""
    compared: list[tuple[str, list[str]]] = []
    monkeypatch.setattr("dmgan_runtime.tokenizer.get_close_matches", lambda *asked: compared.append(asked[:2]) or [])
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [
        f"{a}{b}{c}{d}{end}" for a in letters for b in letters for c in letters for d in "ab" for end in ("", "er")
    ]
    tokenizer = Tokenizer([PAD, *words[:27_000]])
    caption = " ".join(["a" * 50, "aaz", "aba"] * 150)
    with pytest.raises(CaptionError):
        tokenizer.encode(caption, 20)
    assert [word for word, _ in compared] == ["a" * 30, "aaz", "aba"]
    assert all({known[0] for known in candidates} == {"a"} for _, candidates in compared)


def test_the_vocabulary_is_in_order_of_first_appearance() -> None:
    tokenizer = Tokenizer.from_captions(["A red bird", "a blue bird"])
    assert tokenizer.words == (PAD, "a", "red", "bird", "blue")
    assert len(tokenizer) == 5


def test_a_vocabulary_survives_its_file(tmp_path: Path) -> None:
    file = tmp_path / "vocab.json"
    file.write_bytes(TOKENIZER.to_json())
    assert Tokenizer.load(file).words == TOKENIZER.words


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b"[]", b'["a"]', b'["<end>", "a", "a"]', b'["\xff"]', b"[" * 9999]
)
def test_a_broken_vocabulary_is_a_bundle_error(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "vocab.json"
    file.write_bytes(content)
    with pytest.raises(BundleError, match=r"vocab\.json: cannot be read as a vocabulary"):
        Tokenizer.load(file)


def test_a_missing_vocabulary_is_a_bundle_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="No such file"):
        Tokenizer.load(tmp_path / "vocab.json")
