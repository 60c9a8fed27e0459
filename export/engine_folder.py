"""Makes an engine's folder, whole or not at all: a plan for each graph, and `engine.json`, which says what they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dmgan_runtime.backends.built_engines import (
    ENGINE_MANIFEST_NAME,
    ENGINES_FOLDER,
    EngineManifest,
    PlanEntry,
    parse_engine_manifest,
    record_built_here,
    was_built_here,
)
from dmgan_runtime.backends.registry import find_engine_row
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.errors import BundleError
from dmgan_runtime.manifest import FileEntry, GraphEntry, Manifest
from dmgan_train.staging import move_into_place, staging_folder

_REMEDY = "remove that folder to build it again"

Report = Callable[[str], None]
"""Told each step as it begins or ends."""


class Builder(Protocol):
    """Makes plans."""

    def build(self, graph: bytes, where: str) -> bytes | memoryview:
        """Makes one graph's plan.

        Args:
            graph: The ONNX file's content.
            where: Names it in messages.

        Raises:
            EngineError: if it cannot be built.
        """
        ...


@dataclass(frozen=True)
class EngineFolder:
    """A finished engine.

    Attributes:
        path: Its folder.
        manifest: Its engine.json.
        is_new: Whether it was built just now; else it was there, and every hash was right.
    """

    path: Path
    manifest: EngineManifest
    is_new: bool


@dataclass(frozen=True)
class EngineRecipe:
    """How an engine is made.

    Attributes:
        wanted: What to build, without its plans.
        graphs: What each plan is built from, in the order of the engine's `planned_roles`.
        suffix: Of the plans' files.
        new_builder: Starts the builder, if one is needed.
        read: Reads a graph in the form that the builder takes.
        check: Raises an `EngineError` unless the plans in a folder compute what the graphs do.
    """

    wanted: EngineManifest
    graphs: Sequence[GraphEntry]
    suffix: str
    new_builder: Callable[[], Builder]
    read: Callable[[GraphEntry], bytes]
    check: Callable[[EngineManifest, Path], None] | None = None


def make_engine_folder(source: Bundle, recipe: EngineRecipe, output: Path | None, report: Report) -> EngineFolder:
    """Builds an engine, or finds it.

    Args:
        source: An open bundle.
        recipe: What to build, and how.
        output: Where to put the engine's folder; None is `engines` in the bundle.
        report: See `Report`.

    Returns:
        The folder. If the same engine is there already, it is checked and kept.

    Raises:
        BundleError: if a graph is not the one that was exported, the bundle is a .zip and there is no `output`, or
            another engine lies under the same name.
        EngineError: if a graph cannot be built; nothing is left behind.
    """
    if output is None and not source.path.is_dir():
        raise BundleError(
            f"{source.path}: engines are put into a bundle's folder, and this is a .zip; unpack it, or pass --output"
        )
    wanted = recipe.wanted
    folder = (output or source.path / ENGINES_FOLDER) / wanted.folder
    if folder.exists():
        return _existing(folder, wanted, source.manifest, report)
    with staging_folder(folder) as unfinished:
        if folder.exists():  # another process built it before this one had the lock
            return _existing(folder, wanted, source.manifest, report)
        manifest = _fill(unfinished, source, recipe, report)
        if find_engine_row(wanted.engine).auto:
            try:
                record_built_here((unfinished / ENGINE_MANIFEST_NAME).read_bytes())
            except OSError as error:
                report(f"'auto' will not take it, because that it was built here cannot be recorded ({error})")
        move_into_place(unfinished, folder)
    return EngineFolder(folder, manifest, is_new=True)


def _fill(unfinished: Path, source: Bundle, recipe: EngineRecipe, report: Report) -> EngineManifest:
    # All are checked before the first is built: building takes minutes.
    contents = [recipe.read(graph) for graph in recipe.graphs]
    builder = recipe.new_builder()
    plans = []
    for graph, content in zip(recipe.graphs, contents, strict=True):
        report(f"building {graph.role} in {graph.precision} ...")
        begin = time.perf_counter()
        name = f"{graph.role}.{recipe.suffix}"
        plan = memoryview(builder.build(content, f"{source.path}/{graph.file.path}"))
        (unfinished / name).write_bytes(plan)
        report(f"{name}: {plan.nbytes / 1e6:,.1f} MB in {time.perf_counter() - begin:.1f} s")
        file = FileEntry.of(unfinished, name)
        plans.append(PlanEntry(role=graph.role, precision=graph.precision, file=file, onnx_sha256=graph.file.sha256))
    manifest = recipe.wanted.__replace__(plans=tuple(plans))
    if recipe.check is not None:
        recipe.check(manifest, unfinished)
    (unfinished / ENGINE_MANIFEST_NAME).write_bytes(manifest.to_json())
    return manifest


def _existing(folder: Path, wanted: EngineManifest, bundle: Manifest, report: Report) -> EngineFolder:
    """The engine that is there already, if it is what would be built; says if `auto` will not take it."""
    manifest = _check_existing(folder, wanted, bundle)
    if find_engine_row(wanted.engine).auto and not was_built_here((folder / ENGINE_MANIFEST_NAME).read_bytes()):
        report(f"'auto' will not take it, because it is not known to be built by you on this machine; {_REMEDY}")
    return EngineFolder(folder, manifest, is_new=False)


def _check_existing(folder: Path, wanted: EngineManifest, bundle: Manifest) -> EngineManifest:
    """Reads the manifest of an engine that is there already, if it is in every respect what would be built."""
    file = folder / ENGINE_MANIFEST_NAME
    if not file.is_file():
        raise BundleError(f"{folder}: exists and has no {ENGINE_MANIFEST_NAME}; {_REMEDY}")
    found = parse_engine_manifest(file.read_bytes(), str(file))
    if found.__replace__(plans=()) != wanted:
        raise BundleError(f"{folder}: exists and was built with other settings or for another device; {_REMEDY}")
    if not found.is_of(bundle):
        raise BundleError(f"{folder}: stale: not built from the ONNX files that the bundle has now; {_REMEDY}")
    if tuple(plan.role for plan in found.plans) != find_engine_row(wanted.engine).planned_roles(bundle.model):
        raise BundleError(f"{folder}: has not one plan for each graph; {_REMEDY}")
    for plan in found.plans:
        if not (folder / plan.file.path).is_file() or FileEntry.of(folder, plan.file.path) != plan.file:
            raise BundleError(f"{folder / plan.file.path}: missing, damaged or replaced; {_REMEDY}")
    return found
