"""Converts a bundle's refinement stages to MNN's format, and compares them with ONNX Runtime before they are kept.

This needs neither PyTorch nor onnx. The converter is called as MNN's own command calls it, but not through that
command, which reports every conversion to its makers and installs a package to do so.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dmgan_runtime.backends.base import Array, EngineSettings, check_threads, read_graph
from dmgan_runtime.backends.built_engines import ENGINE_SCHEMA_VERSION, EngineManifest
from dmgan_runtime.backends.mnn import MnnBackend, MnnModule, import_engine
from dmgan_runtime.backends.native_output import native_output
from dmgan_runtime.backends.ort_cpu import OrtCpuBackend
from dmgan_runtime.backends.registry import find_engine_row
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.errors import BundleError, EngineError
from dmgan_runtime.graphs import IMAGE, graph_interface, graph_interfaces, run_graphs
from dmgan_runtime.manifest import GraphEntry, Role
from dmgan_runtime.noise import draw_noise
from dmgan_runtime.quality import decibels, lowest_psnr
from dmgan_runtime.request import Batch
from dmgan_runtime.tokenizer import Tokens
from export.engine_folder import EngineFolder, EngineRecipe, Report, make_engine_folder

REQUIRED_PSNR = 60.0
"""Of each stage's image, given the same inputs: under it something is wrong, and not only rounded otherwise."""

_BATCHES = (1, 3)


class MnnBuilder:
    """Converts graphs with MNN's converter."""

    def build(self, graph: bytes, where: str) -> bytes:
        """Makes one graph's plan.

        Args:
            graph: The ONNX file's content, with all weights inside.
            where: Names it in messages.

        Raises:
            EngineError: if MNN cannot convert it, with what it says.
        """
        with tempfile.TemporaryDirectory() as place, native_output() as printed:
            import _tools  # MNN's converter: the other extension module in its wheel

            source, made = Path(place) / "graph.onnx", Path(place) / "graph.mnn"
            source.write_bytes(graph)
            command = ["mnnconvert", "-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(made)]
            _tools.mnnconvert([*command, "--bizCode", "dmgan"])
            if not made.is_file():
                raise EngineError(
                    f"{where}: mnn cannot convert it ({printed()}); upgrade mnn, or export the bundle again with this"
                    " version of dmgan"
                )
            return made.read_bytes()


def build_mnn_engine(bundle: Path, output: Path | None, report: Report) -> EngineFolder:
    """Builds the engine of a bundle's fp32 graphs, for CPUs.

    Args:
        bundle: A folder; or a .zip if `output` is given.
        output: Where to put the engine's folder; None is `engines` in the bundle.
        report: Told each step as it begins or ends.

    Returns:
        The folder. If the same engine is there already, it is checked and kept.

    Raises:
        BackendError: if MNN or ONNX Runtime is not installed.
        BundleError: if there is no such bundle, its model has no refinement stage, a graph is missing or is not the
            one that was exported, or another engine lies under the same name.
        EngineError: if MNN cannot convert a graph, or generates other images; nothing is left behind.
    """
    at_hand = MnnBackend.probe(0)
    import_engine()
    wanted = EngineManifest(
        schema_version=ENGINE_SCHEMA_VERSION,
        engine="mnn",
        version=at_hand,
        compute_capabilities=(),
        device=None,
        precision="fp32",
        profile=None,
        version_compatible=False,
        hardware_compatibility="none",
        plans=(),
    )
    report(f"mnn {at_hand}, fp32")
    with Bundle(bundle) as source:
        recipe = EngineRecipe(
            wanted=wanted,
            graphs=_graphs(source),
            suffix="mnn",
            new_builder=MnnBuilder,
            read=lambda graph: read_graph(source, graph),
            check=lambda manifest, folder: _check(source, manifest, folder, report),
        )
        return make_engine_folder(source, recipe, output, report)


def _graphs(bundle: Bundle) -> list[GraphEntry]:
    roles = find_engine_row("mnn").planned_roles(bundle.manifest.model)
    if not roles:
        raise BundleError(
            f"{bundle.path}: its model has one stage, and mnn computes refinement stages alone, so there is nothing to"
            " build; ONNX Runtime and OpenVINO serve it as it is"
        )
    graphs = [bundle.manifest.graph(role, "fp32") for role in roles]
    found = [graph for graph in graphs if graph is not None]
    if len(found) < len(graphs):
        raise BundleError(f"{bundle.path}: has no generators in fp32, which mnn computes in; export the bundle again")
    return found


def _check(bundle: Bundle, manifest: EngineManifest, folder: Path, report: Report) -> None:
    spec, max_words = bundle.manifest.model, bundle.manifest.tokenizer.max_words
    modules = {}
    for plan in manifest.plans:
        content, interface = (folder / plan.file.path).read_bytes(), graph_interface(plan.role, spec, max_words)
        modules[plan.role] = MnnModule(content, interface, plan.role, check_threads(None))
    for role, quality in measure_quality(bundle, modules).items():
        if quality < REQUIRED_PSNR:
            raise EngineError(
                f"{bundle.path}: mnn {manifest.version} generates other images in {role} than onnxruntime does"
                f" ({decibels(quality)}, and {REQUIRED_PSNR:.0f} are required); use another version of mnn"
            )
        report(f"{role}: images {decibels(quality)} from onnxruntime's")


def measure_quality(bundle: Bundle, modules: Mapping[Role, MnnModule]) -> dict[Role, float]:
    """Measures how near MNN's images are to ONNX Runtime's, given the same inputs: the least PSNR of all, in dB.

    Args:
        bundle: An open bundle.
        modules: Its refinement stages.
    """
    spec, max_words = bundle.manifest.model, bundle.manifest.tokenizer.max_words
    reference = OrtCpuBackend(bundle, EngineSettings(precision="fp32", threads=check_threads(None)))
    random = np.random.default_rng(0)
    worst = dict.fromkeys(modules, math.inf)

    def run(role: Role, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Mapping[str, Array]:
        expected = reference.run(role, inputs, outputs)
        if role in modules:
            image = modules[role].run(inputs, ("image",))["image"]
            worst[role] = min(worst[role], lowest_psnr(image, expected["image"]))
        return expected

    for rows in _BATCHES:
        lengths = random.integers(1, max_words + 1, rows)
        tokens = random.integers(1, len(bundle.tokenizer()), (rows, max_words))
        tokens *= np.arange(max_words) < lengths[:, None]
        noise, condition_noise = draw_noise(range(rows), spec.noise_features, spec.condition_features)
        batch = Batch(Tokens(tokens, lengths), noise, condition_noise)
        for _ in run_graphs(run, graph_interfaces(spec, max_words), batch.inputs, IMAGE):
            pass
    return worst
