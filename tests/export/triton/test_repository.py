"""`dmgan-export triton`: what lies in a repository."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import TYPE_FP32, TYPE_INT64, ModelConfig, ModelInstanceGroup

from dmgan_runtime import Generator
from dmgan_runtime.backends.built_engines import BatchProfile, EngineManifest, PlanEntry
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.manifest import FileEntry, ModelSpec
from dmgan_runtime.noise import draw_noise
from dmgan_runtime.results import to_levels
from export.commands import main
from tests.bundles import SPEC, build_bundle, zip_bundle

GRAPHS = ["tiny_generator_0", "tiny_generator_1", "tiny_generator_2", "tiny_text_encoder"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["triton", *map(str, arguments)], prog_name="dmgan-export")


def write(bundle: Path, output: Path, *arguments: object) -> dict[str, ModelConfig]:
    """Writes a repository and returns its configs."""
    result = run(bundle, "-o", output, *arguments)
    assert result.exit_code == 0, result.output
    configs = {}
    for file in sorted(output.glob("*/config.pbtxt")):
        configs[file.parent.name] = text_format.Parse(file.read_text(), ModelConfig())
        assert configs[file.parent.name].name == file.parent.name
        assert (file.parent / "1").is_dir()
    return configs


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_python_model_is_complete(bundle: Path, tmp_path: Path) -> None:
    configs = write(bundle, tmp_path / "models", "--threads", 2, "--precision", "fp32")
    (config,) = configs.values()
    assert (config.name, config.backend, config.max_batch_size) == ("tiny", "python", 8)
    assert config.model_transaction_policy.decoupled
    assert {name: value.string_value for name, value in config.parameters.items()} == {
        "backend": "auto",
        "precision": "fp32",
        "threads": "2",
    }
    version = tmp_path / "models" / "tiny" / "1"
    assert sorted(path.name for path in version.iterdir()) == ["bundle", "model.py"]
    assert files(version / "bundle") == files(bundle)


def test_a_zip_becomes_a_folder_and_engines_come_along(bundle: Path, tmp_path: Path) -> None:
    write(zip_bundle(bundle, tmp_path / "b.zip"), tmp_path / "of-zip")
    assert files(tmp_path / "of-zip" / "tiny" / "1" / "bundle") == files(bundle)
    own = Path(shutil.copytree(bundle, tmp_path / "own"))
    (own / "engines").mkdir()
    write_engine(bundle, own / "engines" / "some")
    (own / "engines" / "some" / "notes.txt").write_text("not the engine's")
    (own / "notes.txt").write_text("not the bundle's")
    write(own, tmp_path / "of-own")
    copied = files(tmp_path / "of-own" / "tiny" / "1" / "bundle")
    engine = {f"engines/some/{name}" for name in files(own / "engines" / "some")} - {"engines/some/notes.txt"}
    assert copied.keys() - files(bundle).keys() == engine


def test_an_engine_of_other_graphs_stays_behind(bundle: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(bundle, tmp_path / "own"))
    (own / "engines").mkdir()
    description = write_engine(bundle, own / "engines" / "some") / "engine.json"
    plan = json.loads(description.read_text())["plans"][0]
    description.write_text(description.read_text().replace(plan["onnx_sha256"], "0" * 64))
    write(own, tmp_path / "models")
    assert files(tmp_path / "models" / "tiny" / "1" / "bundle") == files(bundle)


def test_an_engine_brings_no_file_of_the_machine_along(bundle: Path, tmp_path: Path) -> None:
    """A folder that is a link to somewhere, or plans that are other files than its engine.json says."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("secret")
    own = Path(shutil.copytree(bundle, tmp_path / "own"))
    (own / "engines").mkdir()
    (own / "engines" / "some").symlink_to(tmp_path / "private")
    assert run(own, "-o", tmp_path / "models").exit_code == 2
    (own / "engines" / "some").unlink()
    plan = next(write_engine(bundle, own / "engines" / "some").glob("*.plan"))
    plan.unlink()
    plan.symlink_to(tmp_path / "private" / "key")
    assert run(own, "-o", tmp_path / "models").exit_code == 2
    assert not (tmp_path / "models").exists()


def test_without_stream_it_is_no_decoupled_model(bundle: Path, tmp_path: Path) -> None:
    (config,) = write(bundle, tmp_path / "models", "--no-stream", "--name", "plain").values()
    assert config.name == "plain"
    assert not config.model_transaction_policy.decoupled
    assert "stream" not in {entry.name for entry in config.input}


@pytest.mark.parametrize("layout", ["python", "onnxruntime"])
def test_batches_are_for_gpus(bundle: Path, tmp_path: Path, layout: str) -> None:
    cpu = write(bundle, tmp_path / "cpu", "--layout", layout, "--instances", 2)
    gpu = write(bundle, tmp_path / "gpu", "--layout", layout, "--device", "gpu", "--max-batch", 3)
    models = ["tiny"] if layout == "python" else GRAPHS
    for name in models:
        assert [(each.kind, each.count) for each in cpu[name].instance_group] == [(ModelInstanceGroup.KIND_CPU, 2)]
        assert [(each.kind, each.count) for each in gpu[name].instance_group] == [(ModelInstanceGroup.KIND_GPU, 1)]
        assert not cpu[name].HasField("dynamic_batching")
        assert gpu[name].HasField("dynamic_batching")
    assert {config.max_batch_size for config in gpu.values()} == {3}
    sizes = {tuple(each.batch_size for each in gpu[name].model_warmup) for name in gpu if name in GRAPHS}
    assert sizes == (set() if layout == "python" else {(1, 3)})


@pytest.mark.parametrize("stages", [1, 3])
def test_graphs_and_configs_agree(tmp_path: Path, stages: int) -> None:
    spec = ModelSpec(**{name: getattr(SPEC, name) for name in SPEC.__struct_fields__} | {"stages": stages})
    bundle = build_bundle(tmp_path / "bundle", spec=spec)
    configs = write(bundle, tmp_path / "models", "--layout", "onnxruntime", "--threads", 1)
    assert len(configs) == stages + 2
    for name in configs.keys() - {"tiny"}:
        config, folder = configs[name], tmp_path / "models" / name
        assert config.backend == "onnxruntime"
        session = onnxruntime.InferenceSession(folder / "1" / "model.onnx")
        for ours, theirs in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
            types = {TYPE_FP32: "tensor(float)", TYPE_INT64: "tensor(int64)"}
            assert {
                each.name: (types[each.data_type], list(each.reshape.shape if each.HasField("reshape") else each.dims))
                for each in ours
            } == {each.name: (each.type, list(each.shape[1:])) for each in theirs}
        for warm_up in config.model_warmup:
            assert {name: (e.data_type, list(e.dims)) for name, e in warm_up.inputs.items()} == {
                each.name: (each.data_type, list(each.dims)) for each in config.input
            }
            given = [entry.input_data_file for entry in warm_up.inputs.values() if entry.input_data_file]
            assert [np.fromfile(folder / "warmup" / file, "<i8").tolist() for file in given] in ([], [[1]])


@pytest.mark.parametrize("stages", [1, 3])
def test_the_ensemble_makes_the_image_of_the_runtime(tmp_path: Path, stages: int) -> None:
    spec = ModelSpec(**{name: getattr(SPEC, name) for name in SPEC.__struct_fields__} | {"stages": stages})
    bundle = build_bundle(tmp_path / "bundle", spec=spec)
    configs = write(bundle, tmp_path / "models", "--layout", "onnxruntime")
    with Generator.open(bundle, backend="onnxruntime", device="cpu", threads=1) as generator:
        captions, seeds = ["a red heart", "small blue square and heart"], [3, 2**64 - 1]
        text = generator.tokenizer.encode_batch(captions, generator.manifest.tokenizer.max_words)
        noise, condition_noise = draw_noise(seeds, spec.noise_features, spec.condition_features)
        (*_, expected) = generator.stream_batch(captions, seeds=seeds)
    tensors = {**text._asdict(), "noise": noise, "condition_noise": condition_noise}
    ensemble = configs["tiny"]
    assert {entry.name: list(entry.dims) for entry in ensemble.input} == {
        name: list(array.shape[1:]) or [1] for name, array in tensors.items()
    }
    for step in ensemble.ensemble_scheduling.step:
        config = configs[step.model_name]
        assert set(step.input_map) == {entry.name for entry in config.input}
        session = onnxruntime.InferenceSession(
            tmp_path / "models" / step.model_name / "1" / "model.onnx", providers=["CPUExecutionProvider"]
        )
        outputs = session.run(list(step.output_map), {name: tensors[value] for name, value in step.input_map.items()})
        for (name, tensor), array in zip(step.output_map.items(), outputs, strict=True):
            assert tensor not in tensors, "two steps write one tensor"
            assert list(next(e for e in config.output if e.name == name).dims) == list(array.shape[1:])
            tensors[tensor] = array
    (image,) = ensemble.output
    assert list(image.dims) == list(tensors["image"].shape[1:])
    assert (to_levels(tensors[image.name]) == [np.asarray(each.image) for each in expected]).all()


def test_plans_of_tensorrt_make_a_repository(bundle: Path, tmp_path: Path) -> None:
    engine = write_engine(bundle, tmp_path / "engine")
    configs = write(bundle, tmp_path / "models", "--layout", "tensorrt", "--engine", engine, "--max-batch", 4)
    assert sorted(configs) == ["tiny", *GRAPHS]
    for name in GRAPHS:
        config = configs[name]
        assert (config.backend, config.max_batch_size) == ("tensorrt", 4)
        assert config.instance_group[0].kind == ModelInstanceGroup.KIND_GPU
        plan = tmp_path / "models" / name / "1" / "model.plan"
        assert plan.read_bytes() == f"plan of {name.removeprefix('tiny_')}".encode()
    onnx = write(bundle, tmp_path / "onnx", "--layout", "onnxruntime", "--max-batch", 4)
    assert onnx["tiny"] == configs["tiny"]


def test_an_engine_that_does_not_fit_is_refused(bundle: Path, tmp_path: Path) -> None:
    engine = write_engine(bundle, tmp_path / "engine")
    command = (bundle, "-o", tmp_path / "models", "--layout", "tensorrt")
    assert "needs --engine: the folder" in run(*command).stderr
    assert "no engine; pass the folder" in run(*command, "--engine", tmp_path).stderr
    assert "from 1 to 4, and those from 1 to 8 are asked for" in run(*command, "--engine", engine).stderr
    rtx = write_engine(bundle, tmp_path / "rtx", engine="tensorrt_rtx")
    assert "built by tensorrt_rtx, and Triton has" in run(*command, "--engine", rtx, "--max-batch", 4).stderr
    other = build_bundle(tmp_path / "other", words=("<end>", "a", "word"))
    refused = run(other, *command[1:], "--engine", engine, "--max-batch", 4)
    assert "not built from the ONNX files that the bundle has now; build one with: " in refused.stderr
    (engine / "generator_1.plan").write_bytes(b"another")
    assert "generator_1.plan: missing, damaged or" in run(*command, "--engine", engine, "--max-batch", 4).stderr
    assert not (tmp_path / "models").exists()


def write_engine(bundle: Path, folder: Path, engine: str = "tensorrt") -> Path:
    """An engine's folder as build-engine leaves it, but for what is in the plans."""
    folder.mkdir()
    plans = []
    with Bundle(bundle) as source:
        for graph in source.manifest.graphs:
            name = f"{graph.role}.plan"
            (folder / name).write_bytes(f"plan of {graph.role}".encode())
            file = FileEntry.of(folder, name)
            plans.append(PlanEntry(role=graph.role, precision="fp32", file=file, onnx_sha256=graph.file.sha256))
    manifest = EngineManifest(
        schema_version="2.0",
        engine=engine,
        version="10.3.0.26",
        compute_capabilities=(89,),
        device="a GPU",
        precision="fp32",
        profile=BatchProfile(min=1, opt=4, max=4),
        version_compatible=False,
        hardware_compatibility="none",
        plans=tuple(plans),
    )
    (folder / "engine.json").write_bytes(manifest.to_json())
    return folder


def test_nothing_is_overwritten(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").write_text("mine")
    result = run(bundle, "-o", tmp_path / "models")
    assert result.exit_code == 2
    assert "exists already; remove it, or choose another name" in result.stderr
    assert files(tmp_path / "models") == {"mine": b"mine"}


def test_a_damaged_bundle_leaves_nothing(bundle: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(bundle, tmp_path / "own"))
    (own / "onnx" / "generator_2.onnx").write_bytes(b"rubbish")
    for layout in ("python", "onnxruntime"):
        result = run(own, "-o", tmp_path / "new" / "models", "--layout", layout)
        assert result.exit_code == 2
        assert "generator_2.onnx: damaged or replaced" in result.stderr
    assert list(tmp_path.iterdir()) == [own]


def test_a_full_disk_leaves_nothing(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_bytes(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    result = run(bundle, "-o", tmp_path / "models")
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layout", "onnxruntime", "--no-stream"], "--stream: not with --layout onnxruntime; leave it out"),
        (["--layout", "tensorrt", "--precision", "fp16"], "--precision: not with --layout tensorrt"),
        (["--backend", "onnxruntme"], "'onnxruntme' is not one of 'auto', 'tensorrt'"),
        (["--engine", "x"], "--engine: not with --layout python"),
        (["--name", "a/b"], "the name 'a/b' cannot be a model's in Triton"),
        (["--name", ".."], "the name '..' cannot be"),
        (["--precision", "fp16"], "has no generator graphs for precision 'fp16', but fp32"),
        (["--precision", "bf16", "--layout", "onnxruntime"], "does not compute in precision 'bf16'"),
    ],
)
def test_mistakes_are_named(bundle: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    result = run(bundle, "-o", tmp_path / "models", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []
