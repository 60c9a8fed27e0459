import contextlib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dmgan_runtime.errors import SettingsError
from dmgan_train.settings import PRESETS, RECIPES, Settings, differences, read_settings, resolve_settings


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_resolves_and_survives_a_file(preset, tmp_path) -> None:
    settings = resolve_settings(preset)
    assert settings.preset == preset
    (tmp_path / "settings.yaml").write_text(settings.to_yaml())
    assert read_settings(tmp_path / "settings.yaml") == settings


def test_the_default_is_the_paper() -> None:
    birds, coco = resolve_settings("birds"), resolve_settings("coco")
    assert birds.model == Settings().model
    assert birds.model.resolutions == (64, 128, 256)
    assert (birds.model.residual_blocks, birds.gan.damsm_weight, birds.gan.epochs) == (2, 5.0, 600)
    assert (birds.data.training_words, birds.data.serving_words, birds.data.captions_per_image) == (18, 25, 10)
    assert (coco.model.residual_blocks, coco.gan.damsm_weight, coco.gan.epochs) == (3, 50.0, 120)
    assert (coco.data.training_words, coco.damsm.words, coco.data.serving_words) == (12, 15, 20)
    assert (birds.gan.generator_learning_rate, birds.gan.beta1, birds.gan.beta2) == (2e-4, 0.5, 0.999)
    assert (birds.gan.batch_size, birds.gan.ema, birds.gan.augmentation) == (10, 0.999, False)


def test_flags_override_a_file_which_overrides_the_preset(tmp_path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("gan:\n  batch_size: 7\n  epochs: 9\n")
    settings = resolve_settings("tiny", file=file, overrides=["gan.batch_size=8", "seed=3"])
    assert (settings.gan.batch_size, settings.gan.epochs, settings.seed) == (8, 9, 3)
    assert settings.model == resolve_settings("tiny").model


def test_a_number_may_be_written_as_people_write_it() -> None:
    settings = resolve_settings("tiny", overrides=["gan.generator_learning_rate=1e-4", "gan.steps=null"])
    assert settings.gan.generator_learning_rate == 1e-4
    assert settings.gan.steps is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("gan.batch_sise=8", "did you mean 'batch_size'"),
        ("gam.batch_size=8", "did you mean 'gan'"),
        ("gan=8", "is a section"),
        ("gan.batch_size", "write section.key=value"),
        ("batch_size=8", r"did you mean damsm\.batch_size or gan\.batch_size\?"),
        ("base_resolution=8", r"did you mean model\.base_resolution\?"),
        ("gan.precision=fp8", r"Invalid enum value 'fp8'; at `gan\.precision`; choose from auto, bf16, fp16, fp32"),
        ("data.augment=crop", r"at `data\.augment`; choose from crop_flip, flip, none"),
        ("model.memory_writing=gate", r"choose from gated, none, words"),
        ("damsm.trunk=resnet", r"choose from efficientnet_lite0, inception_v3, small"),
        ("recipe=small", "choose it with --recipe"),
        ("data.held_out=1", r"<= 0\.5; at `data\.held_out`"),
        ("gan.batch_size=1", r">= 2.*gan\.batch_size"),
        ("gan.batch_size=many", r"Expected `int`.*gan\.batch_size"),
        ("gan.epochs=[", "not valid YAML"),
        ("model.base_resolution=48", "power of two"),
        ("model.memory_writing=none", "concatenation"),
        ("model.stages=0", r">= 1.*model\.stages"),
        ("model.stages=7", r"<= 6.*model\.stages"),
        ("gan.warm_up_steps=[0, 0]", r"2 entries and model\.stages is 3; give gan\.warm_up_steps 3 entries"),
        ("damsm.freeze_trunk=true", "small trunk"),
        ("gan.contrastive_temperature=0", r"> 0.*gan\.contrastive_temperature"),
        ("damsm.cache_trunk=true", "freeze_trunk"),
        ("damsm.trunk_resolution=15", "trunk_resolution is 15, and small needs at least 16"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(override, message) -> None:
    with pytest.raises(SettingsError, match=message):
        resolve_settings("tiny", overrides=[override])


def test_a_warm_up_has_as_many_entries_as_there_are_stages() -> None:
    warm = ("gan.reconstruction_weight=1", "gan.warm_up_steps=[1, 1, 1]")
    for stages in (1, 2, 5):
        assert resolve_settings("birds", overrides=[f"model.stages={stages}"]).gan.warm_up_steps == ()
        with pytest.raises(SettingsError, match=rf"has 3 entries and model\.stages is {stages}; give .* {stages} entr"):
            resolve_settings("birds", overrides=[f"model.stages={stages}", *warm])
    assert resolve_settings("birds", overrides=warm).gan.warm_up_steps == (1, 1, 1)
    assert resolve_settings("emoji", recipe="paper", overrides=["model.stages=5"]).model.stages == 5


def test_a_warm_up_of_no_steps_is_none() -> None:
    assert resolve_settings("birds", overrides=["gan.warm_up_steps=[0, 0, 0]"]) == resolve_settings("birds")


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match="did you mean 'birds'"):
        resolve_settings("bird")


@pytest.mark.parametrize("content", ["", "- a\n", "gan: [", "gan:\n  nothing: 1\n"])
def test_a_file_that_holds_no_settings_is_an_error(tmp_path, content) -> None:
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(SettingsError, match=r"x\.yaml"):
        resolve_settings("tiny", file=tmp_path / "x.yaml")


MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (MERGES, "no aliases .* and merge keys"),
        ("a: &a [x]\nb: [*a, *a]\n", "no aliases"),
        ("gan: " + "[" * 50_000, "nested more than 20 deep"),
        ("gan: " + "{a: " * 20_000, "nested more than 20 deep"),
        ("- " * 40_000, "nested more than 20 deep"),
        ("gan:\n" + "  epochs: 1\n" * 200_000, "over 100,000"),
        ("seed: " + "9" * 50_000, "integer string conversion"),
        ("seed: " + "1:" * 40_000 + "1", "Expected `int` <= 4294967295; at `seed`"),
        ("seed: 2001-99-99", "month must be in"),
        ("seed: !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("? [a, b]\n: 1", "unhashable key"),
        ("gan:\n  steps: .nan", "Expected"),
        ("\x00", "special characters are not allowed"),
        ('gan:\n  ? "' + "x" * 90_000 + '"\n  : 1', "there is no setting gan.xxx"),
    ],
)
def test_hostile_yaml_is_a_short_message(tmp_path, content, message) -> None:
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(SettingsError, match=message) as caught:
        resolve_settings("tiny", file=tmp_path / "x.yaml")
    assert len(str(caught.value)) < 1000
    with contextlib.suppress(SettingsError):
        resolve_settings("tiny", overrides=[f"gan.steps={content}"])


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xef\xbb\xbfseed: 3\r\n")
    assert resolve_settings("tiny", file=tmp_path / "x.yaml").seed == 3


@given(st.dictionaries(st.text(max_size=8), st.one_of(st.integers(), st.text(max_size=5), st.none()), max_size=4))
def test_any_mapping_is_settings_or_a_settings_error(values) -> None:
    overrides = [f"{key}={yaml.safe_dump(value)}" for key, value in values.items()]
    try:
        settings = resolve_settings("tiny", overrides=overrides)
    except SettingsError:
        return
    assert isinstance(settings, Settings)


def test_differences_name_the_keys() -> None:
    changed = resolve_settings("tiny", overrides=["gan.ema=0.5", "seed=1"])
    assert differences(resolve_settings("tiny"), changed) == {"seed": (0, 1), "gan.ema": (0.99, 0.5)}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("recipe", "cited"),
    [
        ("small-data", {"gan.augmentation"}),
        ("contrastive", {"damsm.contrastive_weight", "gan.contrastive_weight"}),
    ],
)
def test_a_recipe_differs_from_the_papers_in_what_it_cites_alone(preset, recipe, cited) -> None:
    paper, other = resolve_settings(preset, recipe="paper"), resolve_settings(preset, recipe=recipe)
    assert set(differences(paper, other)) == {"recipe", *cited}


def test_the_contrastive_recipe_has_the_weights_of_its_paper() -> None:
    settings = resolve_settings("birds", recipe="contrastive")
    assert (settings.damsm.contrastive_weight, settings.gan.contrastive_weight) == (1.0, 0.2)
    assert settings.damsm.contrastive_temperature == settings.gan.contrastive_temperature == 0.5


@pytest.mark.parametrize("preset", ["birds", "coco"])
def test_the_papers_presets_are_the_papers_recipe(preset: str) -> None:
    assert set(differences(resolve_settings(preset), resolve_settings(preset, recipe="paper"))) == {"recipe"}


def test_no_recipe_is_the_preset() -> None:
    for preset in PRESETS:
        assert resolve_settings(preset, recipe="preset") == resolve_settings(preset)
    assert resolve_settings("birds").gan == Settings().gan


def test_a_recipe_lies_over_the_preset_and_under_the_flags(tmp_path) -> None:
    settings = resolve_settings("birds", recipe="small-data", overrides=["gan.r1_weight=3"])
    assert (settings.recipe, settings.preset) == ("small-data", "birds")
    assert (settings.gan.augmentation, settings.gan.r1_weight) == (True, 3.0)
    (tmp_path / "settings.yaml").write_text(settings.to_yaml())
    assert read_settings(tmp_path / "settings.yaml") == settings


def test_an_unknown_recipe_names_the_nearest() -> None:
    assert set(RECIPES) == {"preset", "paper", "small-data", "contrastive"}
    with pytest.raises(SettingsError, match="no recipe 'small'; did you mean 'small-data'"):
        resolve_settings("birds", recipe="small")


def test_a_file_of_another_recipe_says_how_to_choose_it(tmp_path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("recipe: small-data\n")
    with pytest.raises(SettingsError, match="choose it with --recipe"):
        resolve_settings("birds", file=file)
