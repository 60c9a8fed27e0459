"""Stands in for Triton's ONNX Runtime backend: runs `model.onnx`, and takes nothing but what config.pbtxt says."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.config = json.loads(args["model_config"])
        file = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        return [self.run(request) for request in requests]

    def run(self, request):
        inputs = {}
        for entry in self.config["input"]:
            array = pb_utils.get_input_tensor_by_name(request, entry["name"]).as_numpy()
            assert array.dtype == pb_utils.triton_string_to_numpy(entry["data_type"])
            inputs[entry["name"]] = array
        names = sorted(request.requested_output_names())
        outputs = self.session.run(names, inputs)
        tensors = [
            pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in zip(names, outputs, strict=True)
        ]
        return pb_utils.InferenceResponse(tensors)
