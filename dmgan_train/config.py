"""Settings from a preset, a recipe, a file and flags, checked once at the edge."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import yaml

from dmgan_runtime.errors import SettingsError
from dmgan_train.settings import Settings

PRESETS = ("birds", "coco", "emoji", "tiny")
RECIPES = ("preset", "paper", "small-data")


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
    sources = (("preset", preset, PRESETS, presets), ("recipe", recipe, RECIPES, presets.joinpath("recipes")))
    for kind, name, known, folder in sources:
        if name not in known:
            raise SettingsError(f"there is no {kind} {name!r}; {_nearest(name, known)}")
        text = folder.joinpath(f"{name}.yaml").read_text(encoding="utf-8")
        _merge(values, _parse_yaml(text), f"the {kind} {name}")
    if file is not None:
        _merge(values, _read_yaml(file), str(file))
    for override in overrides:
        _merge(values, _parse_override(override), f"--set {override}")
    for kind, name in (("preset", preset), ("recipe", recipe)):
        if values[kind] != name:
            raise SettingsError(
                f"the {kind} is {name!r}, and the settings say {values[kind]!r}; choose it with --{kind}"
            )
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


class _Loader(yaml.SafeLoader):
    """Reads 1e-4 as a number; YAML 1.1 takes it for a string, because it has no dot."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+$"), list("+-0123456789")
)


def _parse_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - it is a SafeLoader


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = _parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: cannot be read as YAML settings ({error})") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: holds no settings; write sections such as 'gan:' with keys under them")
    return values


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise SettingsError(f"--set {text}: write section.key=value, for example gan.batch_size=16")
    try:
        parsed: Any = _parse_yaml(value)
    except yaml.YAMLError as error:
        raise SettingsError(f"--set {text}: the value is not valid YAML ({error})") from error
    for part in reversed(key.split(".")):
        parsed = {part: parsed}
    return parsed


def _merge(base: dict[str, Any], changes: Mapping[str, Any], source: str) -> None:
    known = _defaults()
    for section, value in changes.items():
        if section not in known:
            raise SettingsError(f"{source}: there is no setting {section!r}; {_nearest(section, known)}")
        if not isinstance(known[section], dict):
            base[section] = value
            continue
        if not isinstance(value, dict):
            raise SettingsError(
                f"{source}: {section!r} is a section; set a key in it, such as {section}.{next(iter(known[section]))}"
            )
        for key, leaf in value.items():
            if key not in known[section]:
                raise SettingsError(f"{source}: there is no setting {section}.{key}; {_nearest(key, known[section])}")
            base.setdefault(section, {})[key] = leaf


def _convert(values: dict[str, Any], source: str) -> Settings:
    _merge({}, values, source)
    try:
        return msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        message = str(error).replace(" - at `$.", "; at `")
        raise SettingsError(f"{source}: {message}") from error


def _defaults() -> dict[str, Any]:
    return msgspec.to_builtins(Settings())


def _flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for section, value in values.items():
        if isinstance(value, dict):
            flat.update({f"{section}.{key}": leaf for key, leaf in value.items()})
        else:
            flat[section] = value
    return flat


def _nearest(word: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(str(word), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(names)}"
