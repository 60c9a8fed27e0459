"""The page in a real browser, over the real server and the packaged model."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.dmgan_runtime.server.conftest import ServerProcess, running_server

playwright = pytest.importorskip("playwright.sync_api")
REFUSAL = "the server responded with a status of 400"
PHONE = {"width": 375, "height": 700}


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of the packaged model, which asks for a key."""
    with running_server(tmp_path_factory.mktemp("emoji"), [], {"DMGAN_API_KEY": "secret"}) as started:
        yield started


@pytest.fixture
def page(browser: playwright.Browser, emoji: ServerProcess) -> Iterator[playwright.Page]:
    """The page with its key given; any error in it, and any request to elsewhere, fails the test."""
    context = browser.new_context(accept_downloads=True)
    opened = context.new_page()
    context.add_init_script("sessionStorage.setItem('key', 'secret')")
    troubles: list[str] = []
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.on("console", lambda said: said.type != "error" or REFUSAL in said.text or troubles.append(said.text))
    opened.on(
        "request", lambda asked: asked.url.startswith((emoji.url, "blob:", "data:")) or troubles.append(asked.url)
    )
    yield opened
    context.close()
    assert troubles == []


def visit(page: playwright.Page, emoji: ServerProcess, state: str = "") -> None:
    page.goto(f"{emoji.url}/#{state}")
    expect(page.locator("#model")).to_contain_text("emoji-256")


def expect(locator: playwright.Locator) -> playwright.LocatorAssertions:
    return playwright.expect(locator)


def shown(page: playwright.Page, selector: str) -> Image.Image:
    """What one element looks like."""
    return Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB")


def test_a_caption_becomes_its_stages(page: playwright.Page, emoji: ServerProcess) -> None:
    visit(page, emoji)
    expect(page.locator("#stages img")).to_have_count(5)
    assert page.locator("#stages span").all_inner_texts()[4].startswith("256 px\n")
    assert "ms" in page.locator("#stages span").first.inner_text()
    red, green, blue = shown(page, "#image").resize((1, 1), box=(150, 150, 230, 230)).getpixel((0, 0))
    assert red > 200 > max(green, blue)  # a red heart is what it begins with
    expect(page.locator("#made")).to_have_text("The picture is ready.")  # which is heard, and not seen
    page.locator("#caption").fill("green apple")
    page.keyboard.press("Enter")
    expect(page.locator("#image")).to_have_attribute("alt", "green apple, 256 pixels")
    assert "caption=green+apple&seed=1&view=picture" in page.url
    page.go_back()
    expect(page.locator("#image")).to_have_attribute("alt", "red heart, 256 pixels")
    page.locator("#stages button").first.click()
    expect(page.locator("#image")).to_have_attribute("alt", "red heart, 16 pixels")


def test_what_is_asked_for_again_takes_the_place_of_what_runs(page: playwright.Page, emoji: ServerProcess) -> None:
    visit(page, emoji)
    for caption in ("green apple", "cat face", "dragon"):
        page.locator("#caption").fill(caption)
        page.keyboard.press("Enter")
    expect(page.locator("#image")).to_have_attribute("alt", "dragon, 256 pixels")
    expect(page.locator("#download")).to_have_attribute("download", "dragon-seed1.png")
    expect(page.locator("#stages img")).to_have_count(5)
    page.go_back()
    expect(page.locator("#image")).to_have_attribute("alt", "cat face, 256 pixels")


def test_unknown_words_are_struck_through_while_typing(page: playwright.Page, emoji: ServerProcess) -> None:
    visit(page, emoji)
    page.locator("#caption").press_sequentially(" zebrafishes")
    expect(page.locator(".mirror s").first).to_have_text("zebrafishes")
    expect(page.locator("#note")).to_have_text("The model does not know “zebrafishes”.")
    page.locator("#caption").fill("red heart " * 9)
    expect(page.locator(".mirror .cut")).to_have_count(2)
    expect(page.locator("#note")).to_have_text("It reads 16 words, and 2 too many are left out.")


def test_emoji_are_read_by_their_names(page: playwright.Page, emoji: ServerProcess) -> None:
    visit(page, emoji)
    expect(page.locator("#caption")).to_have_attribute("placeholder", "Describe a picture, or type an emoji")
    page.locator("#caption").fill("👍🏿 and ❤️ 🇩🇪")
    expect(page.locator(".mirror s")).to_have_text(["🇩🇪"])
    expect(page.locator(".mirror").first).to_have_text("👍🏿 and ❤️ 🇩🇪")
    expect(page.locator("#note")).to_have_text("The model does not know “🇩🇪”.")
    page.keyboard.press("Enter")
    expect(page.locator("#words button")).to_have_text(["thumbs", "up", "dark", "skin", "tone", "and", "red", "heart"])
    page.locator("#caption").fill("❤️" * 9)
    expect(page.locator(".mirror .cut")).to_have_text(["❤️"])
    with page.expect_download() as waiting:
        page.locator("#download").click()
    assert waiting.value.suggested_filename == "thumbs-up-dark-skin-tone-and-red-heart-seed1.png"


def test_a_picture_is_downloaded_with_its_caption_and_seed(
    page: playwright.Page, emoji: ServerProcess, tmp_path: Path
) -> None:
    visit(page, emoji, "caption=red+heart&seed=12")
    with page.expect_download() as waiting:
        page.locator("#download").click()
    waiting.value.save_as(tmp_path / "picture.png")
    assert waiting.value.suggested_filename == "red-heart-seed12.png"
    with Image.open(tmp_path / "picture.png") as found:
        assert (found.size, found.text) == ((256, 256), {"Description": "red heart", "Seed": "12"})


def test_words_show_where_they_were_read(page: playwright.Page, emoji: ServerProcess) -> None:
    visit(page, emoji, "caption=thumbs+up,+dark+skin+tone&seed=7")
    words = page.locator("#words button")
    expect(words).to_have_text(["thumbs", "up", "dark", "skin", "tone"])
    expect(page.locator("#overlay")).to_be_hidden()
    plain = shown(page, ".shown .frame")
    words.nth(2).hover()
    expect(page.locator("#overlay")).to_be_visible()
    assert shown(page, ".shown .frame").tobytes() != plain.tobytes()
    page.mouse.move(0, 0)
    expect(page.locator("#overlay")).to_be_hidden()
    page.locator("#dice").focus()
    words.first.focus()
    page.keyboard.press("Enter")
    expect(words.first).to_have_attribute("aria-pressed", "true")
    large = shown(page, ".shown .frame")
    page.locator("#memory-stages label").first.click()
    expect(words.first).to_have_attribute("aria-pressed", "true")
    assert shown(page, ".shown .frame").tobytes() != large.tobytes()
    words.first.focus()
    page.keyboard.press("Escape")
    expect(page.locator("#overlay")).to_be_hidden()
    page.locator("#response").click()
    expect(page.locator("#overlay")).to_be_visible()


def test_seeds(page: playwright.Page, emoji: ServerProcess) -> None:
    visit(page, emoji, "caption=pizza&seed=3&view=seeds")
    expect(page.locator("#seeds button")).to_have_count(9)
    assert page.locator("#seeds span").all_inner_texts() == [f"seed {seed}" for seed in range(3, 12)]
    page.locator("#seeds button").nth(4).click()
    expect(page.locator("#image")).to_be_visible()
    expect(page.locator("#seed")).to_have_value("7")
    expect(page.locator("#stages img")).to_have_count(5)
    expect(page.locator("[name=view][value=picture]")).to_be_focused()


def test_a_picture_that_comes_back_into_view_is_still_there(page: playwright.Page, emoji: ServerProcess) -> None:
    visit(page, emoji, "caption=pizza&seed=3")
    expect(page.locator("#download")).to_be_visible()
    page.locator("[name=view][value=seeds]").check()
    expect(page.locator("#seeds button")).to_have_count(9)
    page.locator("#seed").fill("none")
    page.locator("[name=view][value=picture]").check()
    expect(page.locator("#note.alarm")).to_be_visible()
    decode = "async (image) => { image.src = document.querySelector('#download').href; await image.decode(); }"
    page.evaluate(f"({decode})(new Image())")


def test_a_link_in_another_spelling_keeps_nobody(page: playwright.Page, emoji: ServerProcess) -> None:
    visit(page, emoji, "caption=green+apple&seed=1&view=picture")
    expect(page.locator("#image")).to_have_attribute("alt", "green apple, 256 pixels")
    page.evaluate("location.hash = 'caption=red%20heart&seed=12'")
    expect(page.locator("#image")).to_have_attribute("alt", "red heart, 256 pixels")
    page.go_back()
    expect(page.locator("#image")).to_have_attribute("alt", "green apple, 256 pixels")


def test_seeds_beyond_doubles_are_taken_whole(page: playwright.Page, emoji: ServerProcess) -> None:
    seed = 2**64 - 4
    visit(page, emoji, f"caption=pizza&seed={seed}&view=seeds")
    expect(page.locator("#seeds button")).to_have_count(4)  # there are no more seeds
    assert page.locator("#seeds span").all_inner_texts() == [f"seed {each}" for each in range(seed, 2**64)]
    page.locator("#seeds button").nth(1).click()
    expect(page.locator("#download")).to_have_attribute("download", f"pizza-seed{seed + 1}.png")
    with page.expect_request("**/interpolations") as asked:
        page.goto(f"{emoji.url}/#caption=pizza&seed={2**53 + 1}&view=walk&to=apple&to-seed={2**64 - 1}")
        page.reload()
    assert asked.value.post_data_json["seeds"] == [2**53 + 1, 2**64 - 1]


@pytest.mark.parametrize("seed", ["18446744073709551616", "abc", "-1", "1.5", ""])
def test_what_is_no_seed_is_refused(page: playwright.Page, emoji: ServerProcess, seed: str) -> None:
    visit(page, emoji, f"caption=pizza&seed={seed}")
    said = f"“{seed}” is no seed; a seed is a whole number from 0 to 18446744073709551615."
    expect(page.locator("#note.alarm")).to_have_text(said)
    expect(page.locator("#stages img")).to_have_count(0)
    page.locator("#seed").fill("2")
    page.keyboard.press("Enter")
    expect(page.locator("#stages img")).to_have_count(5)
    expect(page.locator("#note")).to_have_text("")
    page.locator("#seed").fill(seed)
    page.locator("#make").click()
    expect(page.locator("#note.alarm")).to_have_text(said)


def test_near_words_are_offered(page: playwright.Page, emoji: ServerProcess) -> None:
    visit(page, emoji, "caption=red+hart")
    expect(page.locator("#note")).to_contain_text("The model does not know “hart”. Did you mean “heart” or “hat”")


def test_bars_and_the_response_gate_are_drawn_on_a_scale_of_one(page: playwright.Page, emoji: ServerProcess) -> None:
    visit(page, emoji, "caption=thumbs+up,+dark+skin+tone&seed=7")
    expect(page.locator("#words meter")).to_have_count(10)
    assert page.locator("#words meter").evaluate_all("bars => bars.map((bar) => bar.max)") == [1] * 10
    drawn = page.evaluate("""async () => {
        const { drawOverlay } = await import("/static/overlay.js");
        const canvas = new OffscreenCanvas(1, 1);
        const brightness = (most) => {
            drawOverlay(canvas, new OffscreenCanvas(4, 4), new Uint8Array(4).fill(255), 2, most);
            return canvas.getContext("2d").getImageData(9, 9, 1, 1).data.slice(0, 3).reduce((a, b) => a + b);
        };
        return [0.001, 0.5, 1].map(brightness);
    }""")
    assert drawn[0] < 10 < 200 < drawn[1] < drawn[2]
    page.locator("#response").click()
    most = float(page.locator("#largest-response").inner_text().rstrip("%")) / 100
    assert 0 < most < 1


def test_a_walk(page: playwright.Page, emoji: ServerProcess) -> None:
    visit(page, emoji, "caption=red+heart&seed=3&view=walk&to=green+apple&to-seed=5")
    expect(page.locator("#play")).to_have_attribute("aria-label", "Pause")
    page.locator("#play").click()
    page.locator("#position").focus()
    page.keyboard.press("Home")
    first = shown(page, "#step").tobytes()
    page.keyboard.press("End")
    expect(page.locator("#step")).to_have_attribute("alt", "Step 16 of 16")
    assert shown(page, "#step").tobytes() != first


def test_the_keyboard_is_enough(page: playwright.Page, emoji: ServerProcess) -> None:
    visit(page, emoji)
    expect(page.locator("#caption")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#seeds button")).to_have_count(9)
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(page.locator(":focus").get_attribute("id") or page.locator(":focus").get_attribute("title"))
    assert reached[:4] == ["seed", "dice", "make", "Look at this one"]


@pytest.mark.parametrize("view", ["picture", "seeds", "walk"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(page: playwright.Page, emoji: ServerProcess, view: str, scheme: str) -> None:
    page.set_viewport_size(PHONE)
    page.emulate_media(color_scheme=scheme)
    visit(page, emoji, f"caption=red+heart+{'zebra' * 20}&seed=4294967295&view={view}")
    expect(page.locator(f"#{view} img").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    light = shown(page, "h1").getpixel((0, 0))[0] > 128
    assert light == (scheme == "light")


@pytest.mark.parametrize("wrong", ["wrong", "secret\u200b"])  # the second as it may be pasted; no header can hold it
def test_a_key_is_asked_for_and_kept(browser: playwright.Browser, emoji: ServerProcess, wrong: str) -> None:
    page = browser.new_page()
    page.goto(emoji.url)
    expect(page.locator("#key")).to_be_focused()
    page.locator("#key").fill(wrong)
    page.keyboard.press("Enter")
    expect(page.locator("#note")).to_contain_text("That is not the server")
    page.locator("#key").fill("secret")
    page.keyboard.press("Enter")
    expect(page.locator("#stages img")).to_have_count(5)
    page.reload()
    expect(page.locator("#stages img")).to_have_count(5)
    page.close()


def test_a_mistake_is_said(page: playwright.Page, emoji: ServerProcess) -> None:
    visit(page, emoji)
    expect(page.locator("#stages img")).to_have_count(5)  # its first picture is answered too
    page.locator("#caption").fill("zebrafishes")
    with page.expect_response("**/generations") as answer:
        page.locator("#make").click()
    assert answer.value.status == 400
    expect(page.locator("#note.alarm")).to_contain_text("no word of the caption 'zebrafishes'")
    for mistaken in ("#image", "#download", "#link"):  # they would be another caption's
        expect(page.locator(mistaken)).to_be_hidden()
