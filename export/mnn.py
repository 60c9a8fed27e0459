"""A bundle's refinement stages to MNN's format, compared with ONNX Runtime before they are kept.

Needs neither PyTorch nor onnx. The converter is called as MNN's own command calls it, but not through that command,
which reports every conversion to its makers and installs a package to do so.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from dmgan_runtime.backends.base import check_threads
from dmgan_runtime.backends.mnn import MnnBackend, MnnModule, import_engine
from dmgan_runtime.backends.native_output import native_output
from dmgan_runtime.backends.onnxruntime import OnnxRuntimeBackend
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.engine_manifest import PLANNED_ROLES, SCHEMA_VERSION, EngineManifest
from dmgan_runtime.errors import BundleError, EngineError
from dmgan_runtime.interface import graph_interface
from dmgan_runtime.manifest import GENERATOR_ROLES, GraphEntry, Role
from dmgan_runtime.noise import draw_noise
from dmgan_runtime.pipeline import encode_text
from export.engine_folder import Blueprint, EngineFolder, Report, make_engine_folder
from export.quality import decibels, psnr

REQUIRED_PSNR = 60.0
"""Of each stage's image, given the same inputs: under it something is wrong, and not only rounded otherwise."""

_BATCHES = (1, 3)


class MnnBuilder:
    """Converts graphs with MNN's converter."""

    def build(self, graph: bytes, where: str) -> bytes:
        """One graph's plan.

        Args:
            graph: The ONNX file's content, with all weights inside.
            where: Names it in messages.

        Raises:
            EngineError: if MNN cannot convert it, with what it says.
        """
        with tempfile.TemporaryDirectory() as place, native_output() as said:
            import _tools  # MNN's converter: the other extension module in its wheel

            source, made = Path(place) / "graph.onnx", Path(place) / "graph.mnn"
            source.write_bytes(graph)
            command = ["mnnconvert", "-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(made)]
            _tools.mnnconvert([*command, "--bizCode", "dmgan"])
            if not made.is_file():
                raise EngineError(
                    f"{where}: mnn cannot convert it ({said()}); upgrade mnn, or export the bundle again with this"
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
        BundleError: if there is no such bundle, a graph is missing or is not the one that was exported, or another
            engine lies under the same name.
        EngineError: if MNN cannot convert a graph, or paints other images; nothing is left behind.
    """
    at_hand = MnnBackend.probe(0)
    import_engine()
    wanted = EngineManifest(
        schema_version=SCHEMA_VERSION,
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
        blueprint = Blueprint(
            wanted=wanted,
            graphs=_graphs(source),
            suffix="mnn",
            new_builder=MnnBuilder,
            read=lambda graph: source.read(graph.file),
            check=lambda manifest, folder: _check(source, manifest, folder, report),
        )
        return make_engine_folder(source, blueprint, output, report)


def _graphs(bundle: Bundle) -> list[GraphEntry]:
    graphs = [bundle.manifest.graph(role, "fp32") for role in PLANNED_ROLES["mnn"]]
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
                f"{bundle.path}: mnn {manifest.version} paints other images in {role} than onnxruntime does"
                f" ({decibels(quality)}, and {REQUIRED_PSNR:.0f} are required); use another version of mnn"
            )
        report(f"{role}: images {decibels(quality)} from onnxruntime's")


def measure_quality(bundle: Bundle, modules: Mapping[Role, MnnModule]) -> dict[Role, float]:
    """How near the images of MNN are to those of ONNX Runtime, given the same inputs: PSNR in dB, the least of all.

    Args:
        bundle: An open bundle.
        modules: Its refinement stages.
    """
    spec, max_words = bundle.manifest.model, bundle.manifest.tokenizer.max_words
    reference = OnnxRuntimeBackend(bundle, index=0, precision="fp32", threads=check_threads(None))
    random = np.random.default_rng(0)
    worst = dict.fromkeys(modules, math.inf)
    for rows in _BATCHES:
        lengths = random.integers(1, max_words + 1, rows)
        tokens = random.integers(1, len(bundle.tokenizer()), (rows, max_words))
        tokens *= np.arange(max_words) < lengths[:, None]
        noise, condition_noise = draw_noise(range(rows), spec.noise_features, spec.condition_features)
        text = encode_text(lambda: nullcontext(reference), tokens, lengths)
        feeds = {"sentence_feature": text.sentence_feature, "noise": noise, "condition_noise": condition_noise}
        for role in GENERATOR_ROLES:
            expected = reference.run(role, feeds, ("image", "features"))
            if role in modules:
                painted = modules[role].run(feeds, ("image",))["image"]
                worst[role] = min(worst[role], psnr(painted, expected["image"]))
            feeds = {
                "previous_features": expected["features"],
                "word_features": text.word_features,
                "lengths": lengths,
            }
    return worst
