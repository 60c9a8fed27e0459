"""Captions to tokens, by the rules of the published code: the only text rules in the project."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from dmgan_runtime.aliases import Aliases, parse_aliases
from dmgan_runtime.errors import BundleError, CaptionError, quoted, shortened

PAD = "<end>"
MAX_CAPTION_CHARACTERS = 10_000
_LONGEST_WORD = 30
_LEAST_ALIKE = 0.75  # of difflib's ratio: two letters of four in another order
_PLURALS = (("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"), ("ves", "fe"))
# Emoji and other pictures, which a caption should not lose in silence: in fixed blocks, because what Unicode calls an
# emoji changes from version to version. One is a flag's two letters, or what skin tones, selectors, tags and joiners
# make of several.
_PICTURE = "[\u2190-\u23ff\u25a0-\u2775\u2794-\u2bff\U0001f000-\U0001f0ff\U0001f10d-\U0001faff]"
_CHANGES = "[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]"
_WORD = re.compile(rf"\w+|[\U0001f1e6-\U0001f1ff]{{2}}|{_PICTURE}(?:{_CHANGES}|\u200d{_PICTURE})*")


def split_words(caption: str) -> list[str]:
    r"""Splits a caption into words: runs of `\w` of the lower-cased text, without their non-ASCII characters.

    Args:
        caption: Any text.

    Returns:
        The words in order; empty if the caption has none.
    """
    return [word for word, _ in _split(caption) if word]


def _split(caption: str) -> list[tuple[str, str]]:
    """The words as the model reads them, maybe empty, each as it was written in the caption; emoji are empty words."""
    return [(word.encode("ascii", "ignore").decode(), word) for word in _WORD.findall(caption.lower())]


class Encoding(NamedTuple):
    """A caption as the text encoder takes it, and what became of its words.

    Attributes:
        tokens: [max_words] int64, padded with 0.
        length: How many of the tokens are words, from 1 to max_words.
        used: The words that became tokens.
        unknown: The words that the vocabulary lacks, and the emoji that are none of its aliases, in order, as the
            caption has them but in lower case; they were left out.
        cut: The known words beyond max_words, in order; they were left out.
    """

    tokens: npt.NDArray[np.int64]
    length: int
    used: tuple[str, ...]
    unknown: tuple[str, ...]
    cut: tuple[str, ...]


class Tokens(NamedTuple):
    """N captions as the text encoder takes them.

    Attributes:
        tokens: [N, T] int64, indices of the vocabulary, padded with 0.
        lengths: [N] int64, from 1 to T: how many of a row's tokens count.
    """

    tokens: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]

    @classmethod
    def of(cls, encodings: Iterable[Encoding]) -> Tokens:
        """Captions that were encoded one by one, as a batch of at least one."""
        rows = list(encodings)
        return cls(np.stack([row.tokens for row in rows]), np.array([row.length for row in rows], dtype=np.int64))


class Tokenizer:
    """Words to the indices of a vocabulary and back. Index 0 is padding.

    Attributes:
        words: The vocabulary by index.
        aliases: Names by what captions may have in their place, such as emoji; all words of a name are known.
    """

    def __init__(self, words: Sequence[str], aliases: Mapping[str, str] = MappingProxyType({})) -> None:
        """Args:
        words: The vocabulary by index; the first must be the padding word `<end>`.
        aliases: As `Aliases` takes them; those whose names have an unknown word are left out.

        Raises:
            ValueError: if the first word is another, a word comes twice, or what is no alias is among the aliases.
        """
        if not words or words[0] != PAD:
            raise ValueError(f"a vocabulary starts with {PAD!r} (the padding); this one starts with {words[:1]!r}")
        self.words = tuple(words)
        self._index = {word: index for index, word in enumerate(self.words)}
        if len(self._index) != len(self.words):
            raise ValueError("a vocabulary holds each word once; this one has repeated words")
        self._aliases = Aliases({alias: name for alias, name in aliases.items() if self._reads(name)})
        self.aliases: Mapping[str, str] = self._aliases.names

    def _reads(self, name: str) -> bool:
        words = _split(name)
        return bool(words) and all(word and word in self._index for word, _ in words)

    @classmethod
    def from_captions(cls, captions: Iterable[str], aliases: Mapping[str, str] = MappingProxyType({})) -> Tokenizer:
        """Collects the vocabulary of some captions, in order of first appearance.

        Args:
            captions: The captions of the data set, every split (as the published code does).
            aliases: As the constructor takes them.
        """
        words = dict.fromkeys(word for caption in captions for word in split_words(caption))
        return cls([PAD, *words], aliases)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Reads a vocabulary from a JSON list of words.

        Raises:
            BundleError: if the file is missing or is not such a list.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{path}: cannot be read as a vocabulary ({error}); export the bundle again") from error
        return cls.from_json(content, str(path))

    @classmethod
    def from_json(cls, content: bytes, source: str) -> Tokenizer:
        """Reads a vocabulary from the text of a JSON list of words.

        Args:
            content: The JSON text.
            source: Where it came from, for messages.

        Raises:
            BundleError: if it is not such a list.
        """
        try:
            return cls(msgspec.json.decode(content, type=list[str]))
        except ValueError as error:
            raise BundleError(
                f"{source}: cannot be read as a vocabulary ({shortened(error)}); export the bundle again"
            ) from error

    def with_aliases(self, content: bytes, source: str) -> Tokenizer:
        """The same vocabulary, with the aliases of the text of a JSON object of names by aliases.

        Args:
            content: The JSON text.
            source: Where it came from, for messages.

        Raises:
            BundleError: if it is not such an object.
        """
        try:
            return Tokenizer(self.words, parse_aliases(content))
        except ValueError as error:
            raise BundleError(
                f"{source}: cannot be read as aliases ({shortened(error)}); export the bundle again"
            ) from error

    def to_json(self) -> bytes:
        """The vocabulary, without its aliases, as the JSON list that `load` reads."""
        return msgspec.json.format(msgspec.json.encode(self.words), indent=0)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._index

    def spell_out(self, caption: str) -> str:
        """The caption with the names of its aliases, between spaces, in their place.

        At each place the longest alias counts, and variation selectors do not. A sequence that is no alias as a whole,
        such as people with a rare combination of skin tones, is thereby read as its parts.
        """
        return "".join(part if name is None else f" {name} " for part, name in self._aliases.split(caption))

    def indices(self, caption: str) -> list[int]:
        """The indices of the caption's known words, in order; unknown words are left out."""
        return [self._index[word] for word in split_words(self.spell_out(caption)) if word in self._index]

    def takes(self, caption: str) -> bool:
        """Whether `encode` takes a caption. It answers at once, where `encode` looks for what may have been meant."""
        return len(caption) <= MAX_CAPTION_CHARACTERS and bool(self.indices(caption))

    def nearest(self, word: str, count: int = 3) -> list[str]:
        """Known words that are another's plural or singular, or spelled much like it, nearest first; often none.

        Only words with the same initial are looked at. Comparing with all 27,000 of COCO took 0.3 s, and a server
        must not spend that on every caption of a mischievous user.

        Args:
            word: Any text; only its first characters count, as many as the longest English words have.
            count: How many at most.
        """
        word = word[:_LONGEST_WORD]
        candidates = [known for known in self.words[1:] if known[:1] == word[:1]]
        alike = get_close_matches(word, candidates, count, _LEAST_ALIKE)
        numbers = [
            word.removesuffix(ending) + other
            for pair in _PLURALS
            for ending, other in (pair, pair[::-1])
            if word.endswith(ending)
        ]
        return list(dict.fromkeys([form for form in numbers if form in self._index] + alike))[:count]

    def encode(self, caption: str, max_words: int) -> Encoding:
        """Turns a caption into tokens, keeping its first `max_words` known words.

        Raises:
            CaptionError: if the caption is no text, longer than 10,000 characters, or has no known word.
        """
        if not isinstance(caption, str):
            raise CaptionError(f"a caption is a str, not {type(caption).__name__}; pass text")
        if len(caption) > MAX_CAPTION_CHARACTERS:
            raise CaptionError(
                f"a caption has {len(caption):,} characters, over {MAX_CAPTION_CHARACTERS:,}; shorten it"
                f" (the model reads its first {max_words} words)"
            )
        words = _split(self.spell_out(caption))
        if not any(word for word, _ in words):
            emoji = " and no emoji that the model knows" if self.aliases else ""
            raise CaptionError(
                f"the caption {quoted(caption[:80])} has no words{emoji}; describe the picture in English words"
            )
        known = [word for word, _ in words if word and word in self._index]
        unknown = tuple(written for word, written in words if not word or word not in self._index)
        if not known:
            near = [repr(neighbour) for word in unknown[:3] for neighbour in self.nearest(word)]
            advice = f"did you mean {' or '.join(near)}?" if near else "use words of its vocab.json"
            raise CaptionError(
                f"no word of the caption {quoted(caption[:80])} is in the model's vocabulary of {len(self) - 1:,}"
                f" words; {advice}"
            )
        used, cut = tuple(known[:max_words]), tuple(known[max_words:])
        tokens = np.zeros(max_words, dtype=np.int64)
        tokens[: len(used)] = [self._index[word] for word in used]
        return Encoding(tokens, len(used), used, unknown, cut)

    def encode_batch(self, captions: Iterable[str], max_words: int) -> Tokens:
        """Turns at least one caption into the arrays that the text encoder takes.

        Raises:
            CaptionError: as `encode`.
        """
        return Tokens.of(self.encode(caption, max_words) for caption in captions)
