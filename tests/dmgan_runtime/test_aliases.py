"""Emoji in captions: read by their names, however they are presented, and never lost in silence."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmgan_runtime.aliases import (
    MAX_ALIAS_CHARACTERS,
    MAX_ALIASES,
    MAX_NAME_CHARACTERS,
    Aliases,
    aliases_to_json,
    parse_aliases,
)
from dmgan_runtime.errors import BundleError, CaptionError
from dmgan_runtime.tokenizer import MAX_CAPTION_CHARACTERS, Tokenizer

NAMES = {
    "❤": "red heart",
    "❤\u200d🔥": "heart on fire",
    "👍": "thumbs up",
    "👍🏿": "thumbs up, dark skin tone",
    "🏿": "dark skin tone",
    "👩": "woman",
    "👩\u200d🚀": "woman astronaut",
    "🚀": "rocket",
    "🏴": "black flag",
    "1\u20e3": "keycap 1",
    "\u2139": "information",
    "🦩": "a word that no caption has: flamingo",
    "🫥": "!",
}
READABLE = {alias: name for alias, name in NAMES.items() if alias not in "🦩🫥"}
TOKENIZER = Tokenizer.from_captions([*READABLE.values(), "a", "you"], NAMES)
ENGLAND = "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
PIECES = [*NAMES, "\ufe0e", "\ufe0f", "\u200d", "🏽", "🇩", ENGLAND, "a", "you", "ca", "é", " ", "1", "🔥", "\ud83c"]
CAPTIONS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text()


def read(caption: str) -> tuple[list[str], list[str]]:
    encoding = TOKENIZER.encode(caption, 40)
    assert encoding.tokens[: encoding.length].tolist() == TOKENIZER.indices(caption)
    return list(encoding.used), list(encoding.unknown)


@pytest.mark.parametrize(
    ("caption", "words", "unknown"),
    [
        ("❤", "red heart", []),
        ("a ❤️ and you", "a red heart you", ["and"]),
        ("a❤️you❤︎", "a red heart you red heart", []),
        ("❤️‍🔥 ❤‍🔥", "heart on fire heart on fire", []),
        ("👍👍🏿", "thumbs up thumbs up dark skin tone", []),
        ("👍🏽", "thumbs up", ["🏽"]),  # the longest that is known, and what is left
        ("👩🏿\u200d🚀", "woman dark skin tone rocket", []),  # no alias as a whole: its parts
        ("🦩 you", "you", ["🦩"]),  # its name has a word that the vocabulary lacks
        ("🫥 you", "you", ["🫥"]),  # its name has no word
        ("🧑🏽\u200d🚒 you", "you", ["🧑🏽\u200d🚒"]),
        ("🧑\u200d🚀", "rocket", ["🧑"]),
        ("🇩🇪🇫🇷 you 🇩", "you", ["🇩🇪", "🇫🇷", "🇩"]),
        (f"{ENGLAND} 🏴", "black flag", [ENGLAND]),
        ("1️⃣ 2️⃣", "keycap 1", ["2"]),
        ("\u2139\ufe0f", "information", []),
        ("★ a → you ©", "a you", ["★", "→"]),
        ("\U0001faff you", "you", ["\U0001faff"]),  # no emoji yet
    ],
)
def test_emoji_are_read_by_their_names(caption: str, words: str, unknown: list[str]) -> None:
    assert read(caption) == (words.split(), unknown)


def test_a_caption_of_unknown_emoji_alone_is_an_error_that_names_it() -> None:
    with pytest.raises(CaptionError, match="the caption '🦩' has no words and no emoji that the model knows; desc"):
        TOKENIZER.encode("🦩", 5)
    assert not TOKENIZER.takes("🦩")
    assert TOKENIZER.takes("❤️")


def test_what_cannot_be_read_is_left_out() -> None:
    assert TOKENIZER.aliases == READABLE
    assert Tokenizer(TOKENIZER.words).aliases == {}


@given(CAPTIONS)
def test_the_parts_of_a_caption_are_the_caption(caption: str) -> None:
    parts = list(Aliases(NAMES).split(caption))
    assert "".join(part for part, _ in parts) == caption
    assert all(re.sub("[\ufe0e\ufe0f]", "", part) in NAMES for part, name in parts if name is not None)


def by_the_page(caption: str, names: Mapping[str, str]) -> str:
    """What docs/bundle.md says, in regular expressions: far too slow for a reader of strangers' aliases."""
    spelled = {alias: "".join(f"{re.escape(character)}[\ufe0e\ufe0f]*+" for character in alias) for alias in names}
    longest = sorted(names, key=len, reverse=True)
    found = re.compile("|".join(rf"({spelled[alias]})(?![\U000e0020-\U000e007f])" for alias in longest))
    return found.sub(lambda match: f" {names[longest[match.lastindex - 1]]} ", caption)


@given(CAPTIONS)
def test_the_longest_alias_counts_at_each_place(caption: str) -> None:
    assert TOKENIZER.spell_out(caption) == by_the_page(caption, READABLE)


@given(CAPTIONS, st.sampled_from("\ufe0e\ufe0f"))
def test_how_an_emoji_is_presented_changes_nothing(caption: str, selector: str) -> None:
    presented = re.sub("(?<=[❤👍🚀👩🏿])", selector, caption)
    assert TOKENIZER.indices(presented) == TOKENIZER.indices(caption)


@given(st.text(st.characters(max_codepoint=127)))
def test_plain_text_is_what_it_was(caption: str) -> None:
    assert TOKENIZER.spell_out(caption) == caption
    assert TOKENIZER.indices(caption) == Tokenizer(TOKENIZER.words).indices(caption)


def test_pictures_are_no_letters_nor_numbers() -> None:
    blocks = [(0x2190, 0x23FF), (0x25A0, 0x2775), (0x2794, 0x2BFF), (0x1F000, 0x1F0FF), (0x1F10D, 0x1FAFF)]
    pictures = [chr(code) for first, last in blocks for code in range(first, last + 1)]
    assert not [picture for picture in pictures if re.match(r"\w", picture)]
    assert all(read(f"a {picture}") == (["a"], [picture]) for picture in pictures if picture not in READABLE)


def test_a_mischievous_caption_takes_a_time_that_grows_with_its_length_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    class Counted(dict[str, str]):
        def __contains__(self, alias: object) -> bool:
            nonlocal asked
            asked += 1
            return super().__contains__(alias)

    aliases = Aliases({"é" * length + "x": "a" for length in range(1, MAX_ALIAS_CHARACTERS)})
    monkeypatch.setattr(aliases, "names", Counted(aliases.names))
    for caption in ("é" * MAX_CAPTION_CHARACTERS, "é\ufe0f" * (MAX_CAPTION_CHARACTERS // 2)):
        asked = 0
        assert [part for part, _ in aliases.split(caption)] == [caption]
        assert asked <= MAX_ALIAS_CHARACTERS * MAX_CAPTION_CHARACTERS


def test_aliases_survive_their_file() -> None:
    assert parse_aliases(aliases_to_json(NAMES)) == NAMES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated"),
        (b"[]", "Expected `object`"),
        (b'{"\xf0\x9f\x8d\x95": 1}', "Expected `str`"),
        (b'{"\xf0\x9f\x8d": "pizza"}', "utf-8"),
        (b'{"": "nothing"}', "plain text"),
        (b'{"red": "blue"}', "the alias 'red' is plain text"),
        (json.dumps({"❤️": "red heart"}).encode(), "has a variation selector"),
        (json.dumps({"é" * 33: "a"}).encode(), "has over 32 characters"),
        (json.dumps({"é": "a" * 129}).encode(), "has over 128 characters"),
        (json.dumps({f"é{number}": "a" for number in range(65_537)}).encode(), "65,537 aliases, and at most 65,536"),
    ],
)
def test_what_is_no_table_of_aliases_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=rf"(?s)there: cannot be read as aliases \(.*{message}.*\); export") as caught:
        TOKENIZER.with_aliases(content, "there")
    assert len(str(caught.value)) < 300


def test_the_largest_table_is_taken() -> None:
    names = {f"{'é' * 27}{number:05}": "a" * MAX_NAME_CHARACTERS for number in range(MAX_ALIASES)}
    assert len(parse_aliases(json.dumps(names).encode())) == MAX_ALIASES
