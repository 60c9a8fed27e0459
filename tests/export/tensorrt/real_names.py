"""Runs our builder over objects that have the names of the real TensorRT bindings, and no others.

A process of its own: the bindings import over stub shared objects, which cannot build anything, so every object that
TensorRT would make is an autospec of its class. A name that the class lacks is an AttributeError.
"""

import sys
from types import SimpleNamespace
from unittest.mock import create_autospec

import pytest
import tensorrt_bindings as real

from dmgan_runtime.backends.built_engines import ENGINE_SCHEMA_VERSION, BatchProfile, EngineManifest
from dmgan_runtime.errors import EngineError
from export.tensorrt.bindings import Bindings
from export.tensorrt.builder import PlanBuilder


def of(cls: type) -> SimpleNamespace:
    return create_autospec(cls, instance=True, spec_set=True)


tensor, network, config, builder, parser, cache = map(
    of,
    (real.ITensor, real.INetworkDefinition, real.IBuilderConfig, real.Builder, real.OnnxParser, real.ITimingCache),
)
tensor.name, tensor.shape = "noise", (-1, 100)
network.num_inputs = 1
network.get_input.return_value = tensor
config.add_optimization_profile.return_value = 0
config.create_timing_cache.return_value = cache
config.set_timing_cache.return_value = True
cache.serialize.return_value = b"times"
profile = of(real.IOptimizationProfile)
builder.create_network.return_value = network
builder.create_builder_config.return_value = config
builder.create_optimization_profile.return_value = profile
builder.build_serialized_network.return_value = b"plan"
parser.parse.return_value = True
parser.num_errors = 2
parser.get_error.side_effect = lambda index: of(real.ParserError)

module = SimpleNamespace(**vars(real))
module.Builder = create_autospec(real.Builder, return_value=builder)
module.OnnxParser = create_autospec(real.OnnxParser, return_value=parser)
engine = EngineManifest(
    schema_version=ENGINE_SCHEMA_VERSION,
    engine="tensorrt",
    version=real.__version__,
    compute_capabilities=(89,),
    device="NVIDIA L4",
    precision="fp32",
    profile=BatchProfile(min=1, opt=4, max=16),
    version_compatible=True,
    hardware_compatibility="ampere_plus",
    plans=(),
)

for level in ("ampere_plus", "same_compute_capability"):
    chosen = engine.__replace__(hardware_compatibility=level)
    plans = PlanBuilder(Bindings("tensorrt", module), chosen, b"")
    assert bytes(plans.build(b"onnx", "g")) == b"plan"
    assert plans.timing_cache() == b"times"
    assert config.hardware_compatibility_level == real.HardwareCompatibilityLevel.__members__[level.upper()]
config.set_flag.assert_called_with(real.BuilderFlag.VERSION_COMPATIBLE)
config.clear_flag.assert_called_with(real.BuilderFlag.TF32)
profile.set_shape.assert_called_with("noise", (1, 100), (4, 100), (16, 100))
builder.create_network.assert_called_with(0)

log = module.Builder.call_args.args[0]
log.log(real.ILogger.Severity.WARNING, "not kept")
log.log(real.ILogger.Severity.ERROR, "kept")
assert list(log.errors) == ["kept"]

# An older version takes the flag that the newer one has no need of.
module.__version__ = "10.16.1.11"
PlanBuilder(Bindings("tensorrt", module), engine).build(b"onnx", "g")
builder.create_network.assert_called_with(1 << int(real.NetworkDefinitionCreationFlag.STRONGLY_TYPED))

parser.parse.return_value = False
with pytest.raises(EngineError, match="cannot parse it"):
    plans.build(b"onnx", "g")
sys.stdout.write(real.__version__)
