import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmgan_train.data.prepare.emoji_captions import captions_for, spoken_name, with_article


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("red heart", "red heart"),
        ("man: red hair", "man with red hair"),
        ("woman: beard", "woman with a beard"),
        ("person: bald", "bald person"),
        ("keycap: #", "keycap hash"),
        ("keycap: 7", "keycap 7"),
        ("four o\N{RIGHT SINGLE QUOTATION MARK}clock", "clock showing four o'clock"),
        ("nine-thirty", "clock showing nine-thirty"),
        ("family: man, woman, girl, boy", "family of man, woman, girl and boy"),
        ("couple with heart: woman, man", "couple with heart, woman and man"),
        ("man\N{RIGHT SINGLE QUOTATION MARK}s shoe", "man's shoe"),
        ("pi\N{LATIN SMALL LETTER N WITH TILDE}ata", "pinata"),
        ("Japanese \N{LEFT DOUBLE QUOTATION MARK}here\N{RIGHT DOUBLE QUOTATION MARK} button", "Japanese here button"),
    ],
)
def test_labels_are_put_into_plain_english(label, name):
    assert spoken_name(label) == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("red heart", "a red heart"),
        ("owl", "an owl"),
        ("umbrella", "an umbrella"),
        ("unicorn", "a unicorn"),
        ("grapes", "grapes"),
        ("woman with bunny ears", "a woman with bunny ears"),
        ("woman lifting weights", "a woman lifting weights"),
        ("people hugging", "people hugging"),
        ("clapping hands", "clapping hands"),
        ("Japanese castle", "a Japanese castle"),
        ("one-piece swimsuit", "a one-piece swimsuit"),
        ("euro banknote", "a euro banknote"),
        ("x-ray", "an x-ray"),
        ("glass of milk", "a glass of milk"),
        ("octopus", "an octopus"),
        ("Statue of Liberty", "Statue of Liberty"),
        ("ATM sign", "an ATM sign"),
        ("UP! button", "an UP! button"),
        ("OK hand", "an OK hand"),
        ("cooked rice", "cooked rice"),
    ],
)
def test_articles_are_english(name, said):
    assert with_article(name) == said


def test_the_plain_name_comes_first_and_keywords_are_said_with_it():
    captions = captions_for("fire", ["af", "burn", "flame", "hot", "lit", "litaf", "tool"], None, has_tones=False)
    assert captions == [
        "fire",
        "an emoji of a fire",
        "a drawing of a fire",
        "a picture of a fire",
        "a fire on a white background",
        "fire, burn, flame, hot",
        "fire, tool",
    ]


def test_a_skin_tone_is_said_every_time():
    captions = captions_for("waving hand", ["hello"], "dark skin tone", has_tones=True)
    assert captions[0] == "waving hand, dark skin tone"
    assert "a drawing of a waving hand with dark skin tone" in captions
    assert "dark skin tone waving hand" in captions
    assert all("dark skin tone" in caption for caption in captions)


def test_the_drawing_without_a_tone_shows_yellow_skin():
    captions = captions_for("waving hand", [], None, has_tones=True)
    assert captions[:3] == ["waving hand", "an emoji of a waving hand", "a drawing of a waving hand with yellow skin"]
    assert not any("yellow" in caption for caption in captions_for("fire", [], None, has_tones=False))


def test_keywords_that_may_not_be_true_of_the_drawing_are_left_out():
    captions = captions_for("construction worker", ["man", "hard-hat", "worker", "143", "<3"], None, has_tones=True)
    assert captions[-1] == "construction worker with yellow skin, hard-hat"


def test_a_style_is_said_in_three_more_captions():
    plain = captions_for("waving hand", ["hello"], "dark skin tone", has_tones=True)
    styled = captions_for("waving hand", ["hello"], "dark skin tone", has_tones=True, style="flat")
    assert styled[: len(plain)] == plain
    assert styled[len(plain) :] == [
        "flat waving hand with dark skin tone",
        "waving hand with dark skin tone, flat style",
        "a flat drawing of a waving hand with dark skin tone",
    ]


@given(
    label=st.from_regex(r"[A-Za-z]{1,8}( [a-z]{1,8}){0,3}(: [a-z]{1,8}(, [a-z]{1,8}){0,2})?", fullmatch=True),
    tags=st.lists(st.text(max_size=8), max_size=12),
    tone=st.sampled_from([None, "light skin tone", "medium-dark skin tone"]),
)
def test_there_are_five_to_ten_different_captions(label, tags, tone):
    captions = captions_for(label, tags, tone, has_tones=tone is not None)
    assert 5 <= len(captions) <= 10
    assert len(set(captions)) == len(captions)
    assert captions == captions_for(label, tags, tone, has_tones=tone is not None)
