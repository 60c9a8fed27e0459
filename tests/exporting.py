"""PyTorch's exporter takes seconds a graph; the same graph is exported once in all tests."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dmgan_runtime.atomic import replacing
from export import graph_files
from export.graphs import Graph
from export.onnx_file import quiet_exporter, write_onnx


@contextmanager
def exported_once(folder: Path) -> Iterator[None]:
    """While this lasts, bundles get a copy of a file in the folder if a graph equal to theirs was written there.

    Args:
        folder: To keep the files in.
    """
    quiet_exporter()

    def write(graph: Graph, path: Path) -> None:
        kept = folder / f"{_fingerprint(graph)}.onnx"
        if not kept.exists():
            write_onnx(graph, path)
            with replacing(kept) as scratch:  # the other worker may want the same one
                shutil.copyfile(path, scratch)
        shutil.copyfile(kept, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_files, "write_onnx", write)
        yield


def _fingerprint(graph: Graph) -> str:
    """Of its layers, weights, inputs and outputs."""
    digest = hashlib.sha256(repr((graph, graph.role, graph.inputs, graph.outputs)).encode())
    for name, tensor in graph.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
