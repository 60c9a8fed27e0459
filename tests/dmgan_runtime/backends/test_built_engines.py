import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmgan_runtime.backends.built_engines import (
    ENGINE_SCHEMA_VERSION,
    BatchProfile,
    EngineManifest,
    PlanEntry,
    parse_engine_manifest,
)
from dmgan_runtime.errors import BundleError
from dmgan_runtime.manifest import FileEntry, parse_manifest
from tests.bundles import ROLES

SHA = "0" * 64
MNN = {"engine": "mnn", "version": "3.6.1", "precision": "fp32", "compute_capabilities": (), "profile": None}


def engine(**changes) -> EngineManifest:
    fields = {
        "schema_version": ENGINE_SCHEMA_VERSION,
        "engine": "tensorrt",
        "version": "11.4.0.106",
        "compute_capabilities": (89,),
        "device": "NVIDIA L4",
        "precision": "fp16",
        "profile": BatchProfile(min=1, opt=4, max=16),
        "version_compatible": False,
        "hardware_compatibility": "none",
        "plans": (
            PlanEntry(
                role="text_encoder",
                precision="fp32",
                file=FileEntry(path="text_encoder.plan", bytes=1, sha256=SHA),
                onnx_sha256=SHA,
            ),
        ),
    }
    return EngineManifest(**(fields | changes))


def test_what_is_written_is_read_again() -> None:
    assert parse_engine_manifest(engine().to_json(), "engine.json") == engine()


def test_a_plan_is_found_by_its_graph() -> None:
    assert engine().plan("text_encoder") == engine().plans[0]
    assert engine().plan("generator_0") is None


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "sm89-tensorrt11.4.0.106-fp16-b1-4-16"),
        ({"version_compatible": True}, "sm89-tensorrt11.4.0.106vc-fp16-b1-4-16"),
        ({"hardware_compatibility": "ampere_plus"}, "sm89plus-tensorrt11.4.0.106-fp16-b1-4-16"),
        ({"hardware_compatibility": "same_compute_capability"}, "sm89same-tensorrt11.4.0.106-fp16-b1-4-16"),
        ({"engine": "tensorrt_rtx", "compute_capabilities": (86, 120)}, "sm86_120-tensorrt_rtx11.4.0.106-fp16-b1-4-16"),
        (MNN, "cpu-mnn3.6.1-fp32"),
    ],
)
def test_a_folder_name_tells_engines_apart(changes, name) -> None:
    assert engine(**changes).folder == name


@pytest.mark.parametrize(
    ("changes", "asked", "reason"),
    [
        ({}, ("tensorrt", "11.4.0.106", 89), None),
        ({}, ("tensorrt_rtx", "11.4.0.106", 89), "built by tensorrt, and tensorrt_rtx is at hand"),
        ({}, ("tensorrt", "11.5.0.1", 89), "built by tensorrt 11.4.0.106, and 11.5.0.1 is at hand"),
        ({}, ("tensorrt", "11.4.0.106", 90), "built for sm_89, and this GPU is sm_90"),
        (MNN, ("mnn", "3.6.1", None), None),
        (MNN, ("mnn", "3.7.0", None), "built by mnn 3.6.1, and 3.7.0 is at hand"),
        (MNN, ("tensorrt", "3.6.1", 89), "built by mnn, and tensorrt is at hand"),
        ({"version_compatible": True}, ("tensorrt", "11.5.0.1", 89), None),
        ({"version_compatible": True}, ("tensorrt", "11.3.0.1", 89), "11.3.0.1 is at hand"),
        ({"version_compatible": True}, ("tensorrt", "12.0.0.1", 89), "12.0.0.1 is at hand"),
        ({"version": "11.4.0.106", "version_compatible": True}, ("tensorrt", "11.10.0.1.post1", 89), None),
        ({"hardware_compatibility": "ampere_plus"}, ("tensorrt", "11.4.0.106", 120), None),
        ({"hardware_compatibility": "ampere_plus"}, ("tensorrt", "11.4.0.106", 75), "this GPU is sm_75"),
        ({"hardware_compatibility": "same_compute_capability"}, ("tensorrt", "11.4.0.106", 90), "this GPU is sm_90"),
    ],
)
def test_what_cannot_be_loaded_is_known_beforehand(changes, asked, reason) -> None:
    obstacle = engine(**changes).obstacle(*asked)
    assert obstacle is None if reason is None else reason in str(obstacle)


def test_an_engine_of_other_onnx_files_is_stale(bundle) -> None:
    manifest = parse_manifest((bundle / "manifest.json").read_bytes(), "manifest.json")

    def plans(*shas: str) -> tuple[PlanEntry, ...]:
        template = engine().plans[0]
        return tuple(template.__replace__(role=role, onnx_sha256=sha) for role, sha in zip(ROLES, shas, strict=True))

    def is_of(*plans: PlanEntry) -> bool:
        return engine(precision="fp32", plans=plans).is_of(manifest)

    right = [graph.file.sha256 for role in ROLES for graph in manifest.graphs if graph.role == role]
    assert is_of(*plans(*right))
    assert not is_of(*plans(*right[:-1], SHA))
    assert not is_of(plans(*right)[0].__replace__(precision="int8"))
    assert not engine(precision="fp16", plans=plans(*right)).is_of(manifest)


@given(st.tuples(*[st.integers(1, 2**16)] * 3))
def test_batches_are_in_order_or_refused(batches) -> None:
    smallest, best, largest = batches
    if sorted(batches) == list(batches):
        assert str(BatchProfile(min=smallest, opt=best, max=largest)) == f"b{smallest}-{best}-{largest}"
    else:
        with pytest.raises(ValueError, match="min <= opt <= max"):
            BatchProfile(min=smallest, opt=best, max=largest)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("engine", "openvino"),
        ("version", "latest"),
        ("version", f"{'1' * 5000}.0.0"),
        ("version", "11.4/../../x"),
        ("compute_capabilities", []),
        ("compute_capabilities", [8.9]),
        ("precision", "fp8"),
        ("engine", "mnn"),
        ("profile", None),
        ("profile", {"min": 4, "opt": 2, "max": 1}),
        ("profile", {"min": 0, "opt": 2, "max": 4}),
        ("hardware_compatibility", "all"),
        ("surprise", 1),
        ("plans", [{"role": "text_encoder"}]),
        ("schema_version", "1.1"),
        ("schema_version", None),
    ],
)
def test_what_breaks_the_schema_is_refused(key, value) -> None:
    content = msgspec.json.decode(engine().to_json()) | {key: value}
    with pytest.raises(BundleError, match=r"here/engine.json: .* build the engine again"):
        parse_engine_manifest(msgspec.json.encode(content), "here/engine.json")


def test_of_a_higher_minor_version_what_is_known_is_read() -> None:
    content = msgspec.json.decode(engine().to_json()) | {"schema_version": "2.7", "surprise": 1}
    content["plans"][0]["surprise"] = 1
    assert parse_engine_manifest(msgspec.json.encode(content), "here") == engine(schema_version="2.7")


@given(st.binary(max_size=60))
def test_any_bytes_are_an_engine_or_a_bundle_error(content) -> None:
    with pytest.raises(BundleError):
        parse_engine_manifest(content, "engine.json")
