"""Turns a trained DM-GAN into a bundle that `dmgan_runtime` serves."""

from importlib.util import find_spec

from dmgan_runtime.errors import BackendError

if find_spec("onnxruntime") is None:
    raise BackendError('exporting checks every graph in ONNX Runtime, which is not installed; pip install "dmgan[cpu]"')
