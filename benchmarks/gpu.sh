#!/usr/bin/env bash
# Every benchmark on an NVIDIA GPU. Needs Python 3.11 or later, PyTorch with CUDA, onnxruntime-gpu, and a C compiler for
# torch.compile; TensorRT takes part where it is installed. The small packages that are missing are installed with pip.
#
#   benchmarks/gpu.sh                            everything, about an hour
#   benchmarks/gpu.sh OUTPUT latency training    some of it, into another folder than benchmarks/results
#
# PYTHON is the interpreter (python3). An export is made once, under .cache/benchmarks, and found again.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
output=${1:-benchmarks/results}
(($#)) && shift
measures=("$@")
((${#measures[@]})) || measures=(latency throughput startup memory size training outputs)
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

"$python" - <<'PY'
import importlib.util
import subprocess
import sys

if sys.version_info < (3, 11):
    sys.exit(f"Python {sys.version.split()[0]} is too old; set PYTHON to one from 3.11 on")
for module, remedy in {"torch": "PyTorch with CUDA", "onnxruntime": "onnxruntime-gpu"}.items():
    if importlib.util.find_spec(module) is None:
        sys.exit(f"{module} is not installed; install {remedy} first")
# Named one by one and not as dmgan[benchmark]: that would bring the CPU's onnxruntime over the GPU's.
packages = {
    "numpy": "numpy>=1.26", "PIL": "pillow>=10.3", "click": "click>=8.1", "msgspec": "msgspec>=0.19",
    "yaml": "pyyaml>=6", "tqdm": "tqdm>=4.66", "filelock": "filelock>=3.12", "tensorboard": "tensorboard>=2.16",
    "onnx": "onnx>=1.18", "onnxscript": "onnxscript>=0.5", "rich": "rich>=13", "matplotlib": "matplotlib>=3.9",
    "packaging": "packaging>=23",
}  # fmt: skip
missing = [package for module, package in packages.items() if importlib.util.find_spec(module) is None]
if missing:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", *missing]
    if subprocess.run(pip, check=False).returncode:
        sys.exit(f"pip could not install {' '.join(missing)}; install them yourself and start again")
PY

run() { # MEASURE ARGUMENTS...
  local wanted
  for wanted in "${measures[@]}"; do
    if [[ $wanted == "$1" ]]; then
      echo "== $*"
      "$python" -m benchmarks "$@" --device cuda -o "$output/$1-cuda.json"
    fi
  done
}
run latency --batches 1,4,16,64 --seconds 60
run throughput --batches 1,64 --clients 1,2,4,8 --turn 2 --rounds 5
run startup --rounds 5
run memory --batches 1,16,64 --rounds 3
run size
run training --batch 16 --rounds 20
run outputs birds --batches 1,4,16
