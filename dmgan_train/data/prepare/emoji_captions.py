"""Several captions for an emoji, out of its name and its keywords."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from dmgan_runtime.tokenizer import split_words

_TAGS_IN_A_CAPTION = 3
_TAG_CAPTIONS = 3

# A keyword tells nothing true about the drawing if it is chat slang, or a gender or an age that the name leaves open.
_CHAT_SLANG = (
    "awk ass bae bff brb brr bruh bs cmon cya doo fml fosho gotcha gotta gtg here hrs idk ily jel jew know later legit"
    " lit litaf lol me not omg omw outtie pick rewindershins roflcopter smh sucks tbt thx tmi ttfn whatever who why"
    " wtv xoxo you"
)
_PEOPLE = (
    "boy boys child couple dad daughter family father girl girls kid lady man men mom mother person son woman women"
)
_LEFT_OUT = frozenset(f"{_CHAT_SLANG} {_PEOPLE}".split())

_NAMES = {
    "keycap: #": "keycap hash",
    "keycap: *": "keycap asterisk",
    "man: bald": "bald man",
    "woman: bald": "bald woman",
    "person: bald": "bald person",
    "ZZZ": "zzz letters",
}
_DETAIL = re.compile(r"(?P<what>[^:]+): (?P<detail>.+)")
_CLOCK = re.compile(r"\w+( o'clock|-thirty)")
_KEYWORD = re.compile(r"[a-z][a-z-]+[a-z]")

_AFTER_THE_NOUN = re.compile(r" (?:with|of|in|on|at|for|and|without|from|behind|over|\w+ing)\b")
_PLURAL = re.compile(r"(?<![sui])s$")
_OPEN_SOUND = re.compile(r"(?!ewe|eu|one|uni)[aeio]|u[mnp](?!i)|x-")
_SPELLED_OPEN = frozenset({"ATM", "NG", "SOS"})
_PLURALS = frozenset({"children", "men", "people", "women"})
_PROPER_NAMES = (
    "Santa Mrs. Mx Statue Aries Taurus Gemini Cancer Leo Virgo Libra Scorpio Sagittarius Capricorn Aquarius Pisces"
    " Ophiuchus"
)
_MASSES_AND_PAIRS = (
    "bacon beer bread broccoli butter cash coral curry garlic ginger honey ice information jeans lipstick litter lotion"
    " luggage money music pants pong rice sake salad salt sand scissors shorts skis soap spaghetti sushi thread toast"
    " tofu water wood yarn"
)
_PROPER, _WITHOUT_ARTICLE = (frozenset(words.split()) for words in (_PROPER_NAMES, _MASSES_AND_PAIRS))


def spoken_name(label: str) -> str:
    """An emoji's label in plain English and ASCII: `man: red hair` becomes `man with red hair`."""
    name = _NAMES.get(label, label)
    name = unicodedata.normalize("NFKD", name.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    name = name.encode("ascii", "ignore").decode()
    if _CLOCK.fullmatch(name):
        return f"clock showing {name}"
    detailed = _DETAIL.fullmatch(name)
    if not detailed:
        return name
    what, detail = detailed["what"], detailed["detail"]
    if "hair" in detail or "beard" in detail:
        return f"{what} with {detail.replace('beard', 'a beard')}"
    if what == "keycap":
        return f"{what} {detail}"
    listed = " and ".join(detail.rsplit(", ", 1))
    return f"{what}, {listed}" if " with " in what else f"{what} of {listed}"


def with_article(name: str) -> str:
    """The name with `a` or `an` before it, where English wants one (by rules of thumb that fit the emoji)."""
    noun = _AFTER_THE_NOUN.split(name)[0].split()
    first, last = noun[0], noun[-1]
    if first in _PROPER | _PLURALS or last in _WITHOUT_ARTICLE or _PLURAL.search(last):
        return name
    return f"an {name}" if first in _SPELLED_OPEN or _OPEN_SOUND.match(name.lower()) else f"a {name}"


def captions_for(
    label: str, tags: Sequence[str], tone: str | None, *, has_tones: bool, style: str | None = None
) -> list[str]:
    """Five to twelve different captions of one drawing, always the same ones, the plain name first.

    Args:
        label: The emoji's name without its skin tone.
        tags: Keywords.
        tone: The drawing's skin tone, such as `medium-light skin tone`; None for the yellow drawing.
        has_tones: Whether the emoji comes in skin tones, so that the drawing without one shows yellow skin.
        style: The drawing's style, such as `flat`, which three more captions name; None where there is only one.
    """
    name = spoken_name(label)
    skin = tone or ("yellow skin" if has_tones else None)
    whole = _with_skin(name, skin)
    captions = [
        name if tone is None else f"{name}, {tone}",
        f"an emoji of {with_article(name if tone is None else whole)}",
        f"a drawing of {with_article(whole)}",
        f"a picture of {with_article(whole)}",
        f"{with_article(whole)} on a white background",
    ]
    if skin:
        captions.append(f"{skin} {name}")
    captions.extend(f"{whole}, {', '.join(group)}" for group in _tag_groups(name, tags))
    if style:
        captions += [f"{style} {whole}", f"{whole}, {style} style", f"a {style} drawing of {with_article(whole)}"]
    return list(dict.fromkeys(captions))


def _with_skin(name: str, skin: str | None) -> str:
    if skin is None:
        return name
    return f"{name}, {skin}" if " with " in name else f"{name} with {skin}"


def _tag_groups(name: str, tags: Sequence[str]) -> Iterator[list[str]]:
    said = _LEFT_OUT.union(split_words(name))
    telling = [tag for tag in tags if _KEYWORD.fullmatch(tag) and not said.issuperset(split_words(tag))]
    for first in range(0, min(len(telling), _TAGS_IN_A_CAPTION * _TAG_CAPTIONS), _TAGS_IN_A_CAPTION):
        yield telling[first : first + _TAGS_IN_A_CAPTION]
