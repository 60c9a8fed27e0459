"""A run's settings: frozen, typed, with their ranges; read from a preset, a recipe, a file and flags."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
import yaml
from msgspec import inspect

from dmgan_runtime.errors import SettingsError, shortened
from dmgan_runtime.manifest import ModelSpec, PositiveInt
from dmgan_train.models.trunks import SMALLEST_SIDE, TrunkName
from dmgan_train.safe_yaml import LONGEST, parse_yaml
from dmgan_train.variation import COMPONENTS

Weight = Annotated[float, msgspec.Meta(ge=0)]
Temperature = Annotated[float, msgspec.Meta(gt=0)]
Rate = Annotated[float, msgspec.Meta(gt=0, le=1)]
Momentum = Annotated[float, msgspec.Meta(ge=0, lt=1)]
BatchSize = Annotated[int, msgspec.Meta(ge=2)]
Steps = Annotated[int, msgspec.Meta(ge=0)]
TrainingPrecision = Literal["auto", "fp32", "bf16", "fp16"]
Preset = Literal["birds", "coco", "emoji", "emoji-256", "tiny"]
Recipe = Literal["preset", "paper", "small-data", "contrastive"]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the settings: immutable, no unknown keys."""


class DataSettings(_Section, frozen=True):
    """What is read of a data set.

    Attributes:
        captions_per_image: The first so many captions of each image are used; None uses all.
        training_words: Words of a caption that training sees; of a longer caption a random subset, in order.
        serving_words: Words of a caption that the exported graphs take.
        augment: `crop_flip` resizes to 76/64 of the resolution, crops at random and mirrors; `flip` resizes and
            mirrors; `none` only resizes.
        broken_limit: Pictures and captions that cannot be used and are put up with before the run stops; None is 1% of
            the pictures, at least 10.
        held_out: Of data without a test split, the share of the pictures that is held out; see `hold_out`.
        cache: Keep the training images in memory, scaled (3 bytes a pixel: CUB takes 2.5 GB); no processes read ahead.
    """

    captions_per_image: PositiveInt | None = None
    training_words: PositiveInt = 18
    serving_words: Annotated[int, msgspec.Meta(ge=1, le=512)] = 25
    augment: Literal["crop_flip", "flip", "none"] = "crop_flip"
    broken_limit: Annotated[int, msgspec.Meta(ge=0)] | None = None
    held_out: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.0
    cache: bool = False


class DamsmSettings(_Section, frozen=True):
    """How text and image encoder are trained to match (AttnGAN's pretraining).

    Attributes:
        trunk: `inception_v3`, `efficientnet_lite0` or `small`.
        trunk_weights: `pretrained`, `random`, or the path of a state-dict file.
        trunk_resolution: Side in pixels that the trunk sees.
        freeze_trunk: Keep the trunk as it is, as the paper does.
        cache_trunk: Compute the frozen trunk's features of the training set once and keep them in memory (half
            precision); `augment` must be `none`.
        words: Words of a caption that this phase sees.
        epochs: Passes over the training set.
        steps: Stop after so many steps, if that is sooner.
        batch_size: Images a step; also the number of captions that each is compared with.
        mask_class: Captions of an image's own class do not count as wrong, as published. False, for data whose captions
            tell the pictures of a class apart: they count, in both phases, and this one draws its batches class by
            class, so that they meet (hard negatives: Faghri et al., VSE++, BMVC 2018).
        learning_rate: Learning rate at the start (Adam).
        beta1: Adam's first momentum.
        beta2: Adam's second momentum.
        learning_rate_decay: Factor an epoch; the rate never falls below a tenth of its start.
        gradient_clip: Largest norm of the text encoder's gradient.
        dropout: Of the word embeddings.
        gamma1: Sharpness of a word's attention over the regions.
        gamma2: How much the best-matching words count.
        gamma3: Sharpness of the softmax over the batch.
        contrastive_weight: Of `dmgan_train.losses.contrastive` between two captions of a picture; 0 takes one.
        contrastive_temperature: Of its softmax.
        precision: What the trunk is computed in, as `gan.precision`; `fp16` only if it is frozen. The rest is fp32.
        checkpoint_every: Steps between checkpoints.
    """

    trunk: TrunkName = "inception_v3"
    trunk_weights: str = "pretrained"
    trunk_resolution: PositiveInt = 299
    freeze_trunk: bool = True
    cache_trunk: bool = False
    words: PositiveInt = 18
    epochs: PositiveInt = 200
    steps: PositiveInt | None = None
    batch_size: BatchSize = 48
    mask_class: bool = True
    learning_rate: Rate = 2e-3
    beta1: Momentum = 0.5
    beta2: Momentum = 0.999
    learning_rate_decay: Rate = 0.98
    gradient_clip: Weight = 0.25
    dropout: Momentum = 0.5
    gamma1: Weight = 4.0
    gamma2: Weight = 5.0
    gamma3: Weight = 10.0
    contrastive_weight: Weight = 0.0
    contrastive_temperature: Temperature = 0.5
    precision: TrainingPrecision = "fp32"
    checkpoint_every: PositiveInt = 500

    def __post_init__(self) -> None:
        if self.cache_trunk and not self.freeze_trunk:
            raise ValueError("cache_trunk needs freeze_trunk: the features of a trunk that learns change")
        if self.precision == "fp16" and not self.freeze_trunk:
            raise ValueError("damsm.precision fp16 needs freeze_trunk: gradients of a trunk that learns would be lost")
        if self.trunk_resolution < (least := SMALLEST_SIDE[self.trunk]):
            raise ValueError(f"trunk_resolution is {self.trunk_resolution}, and {self.trunk} needs at least {least}")
        if self.trunk == "small" and self.freeze_trunk:
            raise ValueError("the small trunk has no pretrained weights; set freeze_trunk to false")


class GanSettings(_Section, frozen=True):
    """How generator and discriminators are trained.

    Attributes:
        epochs: Passes over the training set.
        steps: Stop after so many steps, if that is sooner.
        batch_size: Images a step.
        discriminator_channels: Base width of the discriminators (the paper's Nd).
        generator_learning_rate: Learning rate of the generator (Adam).
        discriminator_learning_rate: Learning rate of the discriminators (Adam).
        decay_steps: Over the last so many steps, both learning rates fall linearly to zero (Isola et al., pix2pix,
            CVPR 2017); the paper's stay.
        beta1: Adam's first momentum.
        beta2: Adam's second momentum.
        ema: How much of the averaged generator each step keeps.
        conditioning_weight: lambda1, of the conditioning augmentation's loss.
        damsm_weight: lambda2, of the DAMSM loss: 5 for CUB, 50 for COCO.
        contrastive_weight: Of `dmgan_train.losses.contrastive` between the images of two captions; the other losses
            then add up over both.
        contrastive_temperature: Of its softmax.
        reconstruction_weight: Of the L1 distance between every stage's image and the captioned one (Isola et al.,
            pix2pix, CVPR 2017), for data in which a caption names one picture; the paper has none.
        perceptual_weight: Of their distance in the image encoder's trunk (Zhang et al., LPIPS, CVPR 2018), likewise.
        warm_up_steps: Before discriminators and DAMSM join, train by reconstruction and conditioning loss alone
            (Ledig et al., SRGAN, CVPR 2017): so many steps the first stage, then the first two, and so on to all
            (Karras et al., Progressive Growing of GANs, ICLR 2018). One entry a stage, or none.
        warm_up_inherits: A stage begins its warm-up with the weights of the stage before it, which has the same shape,
            instead of random ones; the first two stages have no such stage.
        warm_up_perceptual_from: Side in pixels from which the images of the warm-up have a perceptual loss, each one
            of its own; None leaves it to what follows, where the largest has one.
        warm_up_learning_rate: Learning rate of the generator in these steps; None takes generator_learning_rate.
        warm_up_final_learning_rate: What that falls to from the second stage's first step to the last of these steps,
            each step by the same factor; None keeps it.
        noise_variation: The noise says which of the pictures that share a caption is reconstructed, and tilts, scales
            and recolours it a little (`dmgan_train.variation`), for drawings on a plain ground; the paper's noise says
            nothing of the picture.
        augmentation: Differentiable augmentation of what the discriminators see (Zhao et al., DiffAugment, NeurIPS
            2020), and of both images of the perceptual loss, for small data sets; the paper has none.
        r1_weight: gamma of the R1 penalty on the discriminators (Mescheder et al., ICML 2018); the paper has none.
        r1_every: Steps between two R1 penalties, each then so many times as heavy (lazy regularisation, Karras et al.,
            StyleGAN2, CVPR 2020).
        precision: `bf16` runs the networks under autocast; losses and weights stay fp32. `auto` does so where
            the processor has instructions for it, else fp32; a run keeps to what it began with. `fp16` is for
            GPUs without them: autocast, with losses scaled.
        compile: Compile the networks with `torch.compile`: same function, other rounding, a slow start.
        sample_every: Steps between pictures of fixed captions, and between measurements on held-out ones.
        checkpoint_every: Steps between checkpoints.
        snapshot_every: Steps between copies of the averaged generator that are kept; None keeps none.
    """

    epochs: PositiveInt = 600
    steps: PositiveInt | None = None
    batch_size: BatchSize = 10
    discriminator_channels: PositiveInt = 32
    generator_learning_rate: Rate = 2e-4
    discriminator_learning_rate: Rate = 2e-4
    decay_steps: Steps = 0
    beta1: Momentum = 0.5
    beta2: Momentum = 0.999
    ema: Momentum = 0.999
    conditioning_weight: Weight = 1.0
    damsm_weight: Weight = 5.0
    contrastive_weight: Weight = 0.0
    contrastive_temperature: Temperature = 0.5
    reconstruction_weight: Weight = 0.0
    perceptual_weight: Weight = 0.0
    warm_up_steps: tuple[Steps, ...] = ()
    warm_up_inherits: bool = False
    warm_up_perceptual_from: PositiveInt | None = None
    warm_up_learning_rate: Rate | None = None
    warm_up_final_learning_rate: Rate | None = None
    noise_variation: bool = False
    augmentation: bool = False
    r1_weight: Weight = 0.0
    r1_every: PositiveInt = 16
    precision: TrainingPrecision = "fp32"
    compile: bool = False
    sample_every: PositiveInt = 1000
    checkpoint_every: PositiveInt = 1000
    snapshot_every: PositiveInt | None = None

    def __post_init__(self) -> None:
        if any(self.warm_up_steps) and not self.reconstruction_weight:
            raise ValueError("warm_up_steps trains by reconstruction alone; set reconstruction_weight above 0")
        if self.warm_up_perceptual_from is not None and not self.perceptual_weight:
            raise ValueError("warm_up_perceptual_from is for the perceptual loss; set perceptual_weight above 0")
        if self.contrastive_weight and self.noise_variation:
            raise ValueError("contrastive_weight has one noise for two captions, noise_variation one each; unset one")
        if self.steps is not None and sum(self.warm_up_steps) + self.decay_steps > self.steps:
            raise ValueError(
                f"steps is {self.steps:,}, and warm_up_steps and decay_steps take"
                f" {sum(self.warm_up_steps) + self.decay_steps:,}; shorten them, or set more steps"
            )


class Settings(_Section, frozen=True):
    """All settings of a run.

    Attributes:
        preset: Where they started from.
        recipe: What was laid over the preset; `preset` is nothing.
        seed: Draws everything: weights, order, crops, noise.
        model: The networks' shape.
        data: What is read of the data set.
        damsm: The first phase.
        gan: The second phase.
    """

    preset: Preset = "birds"
    recipe: Recipe = "preset"
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 0
    model: ModelSpec = ModelSpec()
    data: DataSettings = DataSettings()
    damsm: DamsmSettings = DamsmSettings()
    gan: GanSettings = GanSettings()

    def __post_init__(self) -> None:
        warm_up, stages = self.gan.warm_up_steps, self.model.stages
        if warm_up and len(warm_up) != stages:
            raise ValueError(
                f"gan.warm_up_steps has {len(warm_up)} entries and model.stages is {stages};"
                f" give gan.warm_up_steps {stages} entries, or none: []"
            )
        if not any(warm_up):
            # Runs that are older than `model.stages` say [0, 0, 0] where they have no warm-up.
            msgspec.structs.force_setattr(self, "gan", msgspec.structs.replace(self.gan, warm_up_steps=()))
        if self.damsm.cache_trunk and self.data.augment != "none":
            raise ValueError("damsm.cache_trunk needs data.augment none: a cached image is always seen the same way")
        if self.gan.noise_variation and self.model.noise_features < COMPONENTS:
            raise ValueError(f"gan.noise_variation needs model.noise_features of at least {COMPONENTS}")

    def to_yaml(self) -> str:
        """The settings as YAML that `read_settings` takes."""
        return yaml.safe_dump(msgspec.to_builtins(self), sort_keys=False)


PRESETS: tuple[str, ...] = get_args(Preset)
RECIPES: tuple[str, ...] = get_args(Recipe)
_KNOWN: dict[str, Any] = msgspec.to_builtins(Settings())


def resolve_settings(
    preset: str, *, recipe: str = "preset", file: Path | None = None, overrides: Iterable[str] = ()
) -> Settings:
    """Settings from a preset, overridden by a recipe, a YAML file and `section.key=value` strings, in this order.

    Args:
        preset: One of `PRESETS`.
        recipe: One of `RECIPES`.
        file: A YAML file with the same structure as a preset; only the keys that differ.
        overrides: For example `["gan.batch_size=16", "model.residual_blocks=3"]`; values are YAML.

    Raises:
        SettingsError: for an unknown preset, recipe or key (naming the nearest), a wrong type or a value out of range.
    """
    values: dict[str, Any] = {}
    presets = resources.files("dmgan_train").joinpath("presets")
    sources = [("preset", preset, PRESETS, presets), ("recipe", recipe, RECIPES, presets.joinpath("recipes"))]
    if recipe not in ("preset", "paper"):  # the others are the paper's, and more
        sources.insert(1, ("recipe", "paper", RECIPES, presets.joinpath("recipes")))
    for kind, name, known, folder in sources:
        if name not in known:
            raise SettingsError(f"there is no {kind} {name!r}; {_nearest(name, known)}")
        text = folder.joinpath(f"{name}.yaml").read_text(encoding="utf-8")
        _merge(values, parse_yaml(text), f"the {kind} {name}")
    _merge_all(values, file, overrides)
    for kind, name in (("preset", preset), ("recipe", recipe)):
        if values[kind] != name:
            raise SettingsError(
                f"the {kind} is {name!r}, and the settings say {values[kind]!r}; choose it with --{kind}"
            )
    return _convert(values, "the settings")


def override_settings(settings: Settings, *, file: Path | None = None, overrides: Iterable[str] = ()) -> Settings:
    """Settings overridden by a YAML file and `section.key=value` strings, see `resolve_settings`.

    Raises:
        SettingsError: for an unknown key (naming the nearest), a wrong type or a value out of range.
    """
    values = msgspec.to_builtins(settings)
    _merge_all(values, file, overrides)
    return _convert(values, "the settings")


def read_settings(path: Path) -> Settings:
    """Reads the resolved settings of a run folder.

    Raises:
        SettingsError: if the file is missing or does not hold settings.
    """
    return _convert(_read_yaml(path), str(path))


def differences(old: Settings, new: Settings) -> dict[str, tuple[Any, Any]]:
    """The keys (`section.key`) whose values differ, with both values."""
    before, after = _flatten(msgspec.to_builtins(old)), _flatten(msgspec.to_builtins(new))
    return {key: (before[key], after[key]) for key in after if before[key] != after[key]}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8-sig") as stream:
            values = parse_yaml(stream.read(LONGEST + 1))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: cannot be read as YAML settings ({shortened(error)})") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: holds no settings; write sections such as 'gan:' with keys under them")
    return values


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise SettingsError(f"--set {shortened(text)}: write section.key=value, for example gan.batch_size=16")
    try:
        parsed: Any = parse_yaml(value)
    except ValueError as error:
        raise SettingsError(f"--set {shortened(text)}: the value is not valid YAML ({shortened(error)})") from error
    for part in reversed(key.split(".")):
        parsed = {part: parsed}
    return parsed


def _merge_all(base: dict[str, Any], file: Path | None, overrides: Iterable[str]) -> None:
    if file is not None:
        _merge(base, _read_yaml(file), str(file))
    for override in overrides:
        _merge(base, _parse_override(override), f"--set {shortened(override)}")


def _merge(base: dict[str, Any], changes: Mapping[str, Any], source: str) -> None:
    for section, value in changes.items():
        if section not in _KNOWN:
            raise SettingsError(f"{source}: there is no setting {shortened(section)!r}; {_nearest_section(section)}")
        if not isinstance(_KNOWN[section], dict):
            base[section] = value
            continue
        if not isinstance(value, dict):
            raise SettingsError(
                f"{source}: {section!r} is a section; set a key in it, such as {section}.{next(iter(_KNOWN[section]))}"
            )
        for key, leaf in value.items():
            if key not in _KNOWN[section]:
                raise SettingsError(
                    f"{source}: there is no setting {section}.{shortened(key)}; {_nearest(key, _KNOWN[section])}"
                )
            base.setdefault(section, {})[key] = leaf


def _convert(values: dict[str, Any], source: str) -> Settings:
    _merge({}, values, source)
    try:
        return msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$.")
        place = place.rstrip("`")
        choices = _choices(place)
        remedy = f"; choose from {', '.join(choices)}" if choices else ""
        at = f"; at `{place}`" if place else ""
        raise SettingsError(f"{source}: {shortened(message)}{at}{remedy}") from error


def _flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for section, value in values.items():
        if isinstance(value, dict):
            flat.update({f"{section}.{key}": leaf for key, leaf in value.items()})
        else:
            flat[section] = value
    return flat


def _choices(place: str) -> tuple[str, ...]:
    """The values that a setting has, where they are a few names."""
    kind: inspect.Type = inspect.type_info(Settings)
    for name in place.split("."):
        fields = kind.fields if isinstance(kind, inspect.StructType) else ()
        kind = next((field.type for field in fields if field.name == name), inspect.NoneType())
    return tuple(map(str, kind.values)) if isinstance(kind, inspect.LiteralType) else ()


def _nearest_section(word: str) -> str:
    """What a key may have meant that is no section: a setting of that name, or a section that is spelled alike."""
    settings = [f"{section}.{word}" for section, keys in _KNOWN.items() if isinstance(keys, dict) and word in keys]
    return f"did you mean {' or '.join(settings)}?" if settings else _nearest(word, _KNOWN)


def _nearest(word: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(str(word)[:100], names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(names)}"
