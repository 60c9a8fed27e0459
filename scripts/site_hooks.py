"""What `make docs` does beyond MkDocs: links that lead out of docs/, the tables of settings, and llms.txt."""

from __future__ import annotations

import inspect
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
import msgspec
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page
from msgspec.inspect import Field, FloatType, IntType, LiteralType, StructType, Type, UnionType, VarTupleType, type_info

from dmgan_train.settings import PRESETS, Settings, resolve_settings

ROOT = Path(__file__).parent.parent
_LINK = re.compile(r"(?<=\]\()(?!https?:)[^)#\s]+")
_FILE_NAME = re.compile(r"^(```\w+) (\S+)$", re.MULTILINE)
_SETTINGS = "<!-- settings -->"


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds what pages link to outside of docs/, and what that links to, under its path in the repository."""
    known = {file.abs_src_path for file in files}
    waiting = [ROOT / line for line in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
    waiting += [target for file in files.documentation_pages() for target in _targets(file)]
    while waiting:
        path = waiting.pop()
        if str(path) in known or not path.is_file():
            continue
        known.add(str(path))
        file = File(str(path.relative_to(ROOT)), str(ROOT), config.site_dir, config.use_directory_urls)
        files.append(file)
        if file.is_documentation_page():
            waiting += _targets(file)


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> None:
    """Writes llms.txt (llmstxt.org): each page with its first sentence."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}"]
    for item in nav.items[1:]:
        lines += ["", f"## {item.title}", ""]
        pages = [item] if isinstance(item, Page) else [page for page in item.children or () if isinstance(page, Page)]
        lines += [f"- [{page.title}]({page.file.url}): {_first_sentence(page.file.content_string)}" for page in pages]
    files.append(File.generated(config, "llms.txt", content="\n".join([*lines, ""])))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Writes a page's links as the site's, file names of examples as their titles, and the settings' tables."""
    if page.is_homepage:
        page.meta["hide"] = ["navigation", "toc"]
    places = {file.abs_src_path: file.src_uri for file in files}
    folder = posixpath.dirname(page.file.src_uri)

    def in_site(link: re.Match[str]) -> str:
        place = places.get(str(_target(page.file, link[0])))
        return link[0] if place is None else posixpath.relpath(place, folder)

    markdown = _FILE_NAME.sub(r'\1 title="\2"', _LINK.sub(in_site, markdown))
    return markdown.replace(_SETTINGS, "\n".join(_settings_tables()))


def _targets(file: File) -> list[Path]:
    return [_target(file, link) for link in _LINK.findall(file.content_string)]


def _target(file: File, link: str) -> Path:
    return Path(os.path.normpath(Path(str(file.abs_src_path)).parent / link))


def _first_sentence(markdown: str) -> str:
    """Of the first paragraph of prose, as plain text."""
    paragraphs = re.sub(r"^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL).split("\n\n")
    prose = next(text for text in paragraphs if re.match(r"\n*[\w`\"*\[]", text))
    plain = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", " ".join(prose.split()))
    return re.split(r"(?<=[.:]) (?=[A-Z`])", plain)[0].rstrip(":")


def _settings_tables() -> Iterator[str]:
    presets = {preset: msgspec.to_builtins(resolve_settings(preset)) for preset in PRESETS}
    fields = _fields(Settings)
    of_birds = {"birds": presets["birds"]}
    yield from _table("", [field for field in fields if not isinstance(field.type, StructType)], Settings, of_birds)
    for field in fields:
        if isinstance(field.type, StructType):
            yield f"\n## {field.name}\n\n{_docstring(field.type.cls)[0]}\n"
            sections = {preset: values[field.name] for preset, values in presets.items()}
            yield from _table(f"{field.name}.", field.type.fields, field.type.cls, sections)


def _table(prefix: str, fields: Any, struct: type[msgspec.Struct], presets: dict[str, dict[str, Any]]) -> Iterator[str]:
    descriptions = _docstring(struct)[1]
    yield "\n| setting | meaning | values | default |\n|---|---|---|---|"
    for field in fields:
        default, *others = [(preset, f"`{_yaml(values[field.name])}`") for preset, values in presets.items()]
        defaults = ", ".join([default[1], *(f"{preset} {value}" for preset, value in others if value != default[1])])
        yield f"| `{prefix}{field.name}` | {descriptions[field.name]} | {_values(field.type)} | {defaults} |"


def _fields(struct: type[msgspec.Struct]) -> tuple[Field, ...]:
    described = type_info(struct)
    assert isinstance(described, StructType)
    return described.fields


def _docstring(struct: type) -> tuple[str, dict[str, str]]:
    """A struct's description, and its attributes' by name."""
    sections = griffe.Docstring(inspect.getdoc(struct) or "").parse("google", warnings=False)
    attributes = {
        attribute.name: " ".join(attribute.description.split())
        for section in sections
        if isinstance(section, griffe.DocstringSectionAttributes)
        for attribute in section.value
    }
    return str(sections[0].value), attributes


def _values(kind: Type) -> str:
    """What a setting may be, in words."""
    match kind:
        case UnionType():
            return " or ".join(map(_values, kind.types))
        case LiteralType():
            return ", ".join(f"`{value}`" for value in kind.values)
        case VarTupleType():
            return f"a list, each {_values(kind.item_type)}"
        case IntType() | FloatType():
            name = "whole number" if isinstance(kind, IntType) else "number"
            bounds = {"from": kind.ge, "over": kind.gt, "to": kind.le, "to under": kind.lt}
            return " ".join([name, *(f"{word} {bound:,}" for word, bound in bounds.items() if bound is not None)])
    return {"BoolType": "`true`, `false`", "StrType": "text", "NoneType": "`null`"}[type(kind).__name__]


def _yaml(value: Any) -> str:
    return msgspec.json.encode(value).decode().strip('"')
