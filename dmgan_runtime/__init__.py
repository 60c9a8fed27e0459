"""Serve DM-GAN: captions in, images out, with numpy, Pillow and one engine.

For example:

    from dmgan_runtime import Generator

    with Generator.open("birds.zip") as generator:
        generator.generate("a small red bird", seed=7)[0].save("bird.png")
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dmgan_runtime.errors import (
    BackendError,
    BundleError,
    CaptionError,
    CheckpointError,
    DataError,
    DmganError,
    EngineError,
    ExportError,
    SettingsError,
    TrainingError,
)

# ONNX Runtime (1.32) otherwise writes an identifier into the user's cache and calls home; it reads this when it is
# imported. Whoever wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from dmgan_runtime.generator import Generator
    from dmgan_runtime.manifest import ModelSpec
    from dmgan_runtime.results import Gates, Generation, Synthesis
    from dmgan_runtime.self_test import SelfTestResult, run_self_test
    from dmgan_runtime.tokenizer import Encoding, Tokenizer

    __version__: str

__all__ = [
    "BackendError",
    "BundleError",
    "CaptionError",
    "CheckpointError",
    "DataError",
    "DmganError",
    "Encoding",
    "EngineError",
    "ExportError",
    "Gates",
    "Generation",
    "Generator",
    "ModelSpec",
    "SelfTestResult",
    "SettingsError",
    "Synthesis",
    "Tokenizer",
    "TrainingError",
    "__version__",
    "run_self_test",
]

_MODULES = {
    "Encoding": "dmgan_runtime.tokenizer",
    "Gates": "dmgan_runtime.results",
    "Generation": "dmgan_runtime.results",
    "Generator": "dmgan_runtime.generator",
    "ModelSpec": "dmgan_runtime.manifest",
    "SelfTestResult": "dmgan_runtime.self_test",
    "Synthesis": "dmgan_runtime.results",
    "Tokenizer": "dmgan_runtime.tokenizer",
    "run_self_test": "dmgan_runtime.self_test",
}


def __getattr__(name: str) -> Any:
    # Lazy (PEP 562), because training imports the small shared parts alone, and those need no generator.
    if name in _MODULES:
        value = getattr(import_module(_MODULES[name]), name)
    elif name == "__version__":
        value = _version()
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("dmgan")
    except PackageNotFoundError:
        return "0+uninstalled"
