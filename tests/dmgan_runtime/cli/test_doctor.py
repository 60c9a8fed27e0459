from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dmgan_runtime import BackendError, EngineError, Generator
from dmgan_runtime.backends.gpus import Gpu
from dmgan_runtime.backends.registry import Engine
from dmgan_runtime.bundle import packaged_bundle
from dmgan_runtime.cli import doctor as diagnosis
from dmgan_runtime.cli.doctor import main
from dmgan_runtime.cpus import Processor
from dmgan_runtime.manifest import MANIFEST_NAME, FileEntry, parse_manifest
from dmgan_runtime.self_test import make_self_test
from tests.bundles import write_manifest
from tests.dmgan_runtime.backends.precisions import add_precision


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every machine is one without a GPU, but where a test brings one."""

    def find(index: int = 0) -> Any:
        raise BackendError("there is no NVIDIA driver")

    monkeypatch.setattr(diagnosis, "find_gpus", find)
    for module in ("tensorrt.backend", "ort_cuda"):
        monkeypatch.setattr(f"dmgan_runtime.backends.{module}.find_gpu", find)


def doctor(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def diagnosed(*arguments: object) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(doctor("--json", *arguments).stdout)
    return report


@pytest.mark.usefixtures("without_bf16")
def test_a_healthy_machine(bundle: Path) -> None:
    result = doctor()
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Python 3.")
    assert "  -> onnxruntime on cpu in fp32: " in result.stdout
    assert "   - tensorrt on cuda:0: " in result.stdout
    assert "  none: there is no NVIDIA driver" in lines
    assert any(line.split()[:1] == ["numpy"] for line in lines)
    assert lines[-1] == "All is well."


def test_a_bundle_without_a_self_test_is_tried(bundle: Path) -> None:
    result = doctor(bundle)
    assert result.exit_code == 0
    assert f"Bundle {bundle}, tiny" in result.stdout
    assert "generated 32 pixels in" in result.stdout
    assert "this bundle has no image to compare with" in result.stdout


@pytest.mark.usefixtures("without_bf16")
def test_a_bundle_is_compared_with_what_it_was(own_bundle: Path, generator: Generator) -> None:
    write_manifest(own_bundle, self_test=make_self_test(generator))
    assert "; 0 levels of 255 from the export's, 2 allowed" in doctor(own_bundle).stdout
    report = diagnosed(own_bundle)
    assert report["bundle"]["self_test"]["difference"] == 0
    assert report["bundle"]["chosen"].startswith("onnxruntime ")
    assert report["bundle"]["chosen"].endswith(" on cpu in fp32: the best that can be had here")
    assert report["faults"] == []
    assert [each["state"] for each in report["engines"]] == ["missing"] * 3 + ["chosen", "untried"]


def test_another_image_is_a_fault(own_bundle: Path, generator: Generator) -> None:
    entry = make_self_test(generator).__replace__(caption="small green square")
    write_manifest(own_bundle, self_test=entry)
    result = doctor(own_bundle)
    assert result.exit_code == 1
    assert "FAULT: the self-test failed: onnxruntime" in result.stdout
    assert result.stdout.endswith("Something is broken.\n")


def test_a_broken_bundle_is_a_fault(own_bundle: Path) -> None:
    (own_bundle / "onnx/generator_2.onnx").write_bytes(b"")
    result = doctor(own_bundle)
    assert result.exit_code == 1
    assert "FAULT: " in result.stdout
    assert "generator_2.onnx: damaged or replaced" in result.stdout


@pytest.mark.parametrize("name", ["onnx/generator_1.fp16.onnx", "MODEL_CARD.md", "vocab.json", "onnx/generator_0.onnx"])
@pytest.mark.parametrize("missing", [True, False])
def test_every_file_of_the_manifest_is_checked(own_bundle: Path, name: str, missing: bool) -> None:
    (own_bundle / "MODEL_CARD.md").write_text("A card")
    add_precision(own_bundle, "fp16")
    manifest = parse_manifest((own_bundle / MANIFEST_NAME).read_bytes(), "")
    write_manifest(own_bundle, graphs=manifest.graphs, files=(FileEntry.of(own_bundle, "MODEL_CARD.md"),))
    assert doctor(own_bundle).exit_code == 0
    if missing:
        (own_bundle / name).unlink()
    else:
        content = (own_bundle / name).read_bytes()
        (own_bundle / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    result = doctor(own_bundle)
    assert result.exit_code == 1
    faults = [line for line in result.stdout.splitlines() if line.startswith("FAULT")]
    said = "missing" if missing else "damaged or replaced"
    assert len(faults) == 1
    assert f"{own_bundle}/{name}: {said}" in faults[0]


def test_two_damaged_files_are_two_faults(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for role in ("generator_1", "generator_2"):
        (own_bundle / f"onnx/{role}.onnx").write_bytes(b"")
    monkeypatch.chdir(own_bundle.parent)
    assert len(diagnosed(own_bundle.name)["faults"]) == 2


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_it_generates_as_it_is_told(own_bundle: Path, precision: Any) -> None:
    for other in ("fp16", "int8"):
        add_precision(own_bundle, other)
    result = doctor(own_bundle, "--backend", "onnxruntime", "--device", "cpu", "--precision", precision, "--threads", 1)
    assert result.exit_code == 0
    assert f"  generated 32 pixels in {precision} in " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("--precision", "int8"), "has no generator graphs for precision 'int8', but fp32; export it again"),
        (("--device", "cuda"), "device 'cuda' cannot be had"),
        (("--backend", "tensorrt"), "backend 'tensorrt' cannot be had"),
    ],
)
def test_what_was_asked_for_and_cannot_be_had_is_a_fault(bundle: Path, arguments: Any, fault: str) -> None:
    result = doctor(bundle, *arguments)
    assert result.exit_code == 1
    assert "FAULT: " in result.stdout
    assert fault in result.stdout


def test_a_name_cannot_move_the_cursor(own_bundle: Path) -> None:
    write_manifest(own_bundle, name="evil\x1b[2J\u202e")
    result = doctor(own_bundle)
    assert r", evil\x1b[2J\u202e" in result.stdout
    assert result.stdout.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "nowhere: no such bundle; pass a folder or .zip that dmgan-export wrote, or the name of a"),
        (("emoji-255",), "or the name of a packaged model: emoji-256"),
        (("--backend", "abacus"), "'abacus' is not one of 'auto', 'tensorrt', "),
        (("--device", "gpu"), "device 'gpu' is unknown; pass 'auto', 'cpu', 'cuda' or 'cuda:N'"),
        (("--precision", "fp8"), "'fp8' is not one of 'auto', 'fp32'"),
        (("--threads", "0"), "0 is not in the range"),
        (("--jsno",), "No such option"),
    ],
)
def test_a_typo_is_a_mistake_and_no_fault(arguments: tuple[str, ...], message: str) -> None:
    result = doctor(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_where_none_serves_none_is_taken(bundle: Path) -> None:
    result = doctor(bundle, "--device", "cuda")
    assert "Engines, best first; none is taken" in result.stdout
    assert "->" not in result.stdout
    assert "FAULT: device 'cuda' cannot be had" in result.stdout


def test_packaged_models_have_names() -> None:
    assert f"Bundle {packaged_bundle()}, emoji-256\n" in doctor("emoji-256").stdout


@pytest.mark.parametrize(
    ("abilities", "shown"),
    [(None, "abilities unknown"), (("AVX2", "VNNI"), "AVX2, VNNI"), ((), "none that engines use")],
)
def test_the_processor_is_shown(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, abilities: tuple[str, ...] | None, shown: str
) -> None:
    monkeypatch.setattr(diagnosis, "find_processor", lambda: Processor("A chip", abilities))
    lines = doctor(bundle).stdout.splitlines()
    assert lines[1] == f"Processor A chip: {shown}"
    report = diagnosed(bundle)
    assert report["processor"] == {
        "name": "A chip",
        "abilities": None if abilities is None else list(abilities),
    }


def test_two_packages_that_overwrite_each_other_are_a_fault(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "installed_rivals", lambda: {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"})
    result = doctor(bundle)
    assert result.exit_code == 1
    assert "FAULT: onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1 are both installed" in result.stdout
    assert "pip uninstall onnxruntime onnxruntime-gpu" in result.stdout


def test_no_engine_at_all_is_a_fault(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        @classmethod
        def probe(cls, index: int) -> str:
            raise BackendError("not installed")

    monkeypatch.setattr(Engine, "load_class", lambda engine: Missing)
    result = doctor(bundle)
    assert result.exit_code == 1
    assert 'FAULT: no engine can be had; for a CPU: pip install "dmgan[cpu]"' in result.stdout


def test_a_gpu_engine_that_is_here_and_fails_is_a_fault(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, *_: object) -> None:
            raise EngineError("cuDNN is missing")

        @classmethod
        def probe(cls, index: int) -> str:
            return "1.2"

    real = Engine.load_class
    monkeypatch.setattr(Engine, "load_class", lambda engine: Broken if engine.backend == "tensorrt" else real(engine))
    result = doctor(bundle)
    assert result.exit_code == 1
    assert "  !! tensorrt on cuda:0: cuDNN is missing" in result.stdout
    assert "FAULT: tensorrt on cuda:0: cuDNN is missing" in result.stdout
    assert "generated 32 pixels" in result.stdout


def test_gpus_are_listed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "find_gpus", lambda: (Gpu(0, "NVIDIA L4", 89, "13.0"),))
    assert "  cuda:0  NVIDIA L4, sm_89, driver for CUDA 13.0" in doctor(bundle).stdout
    assert diagnosed(bundle)["gpus"] == [{"index": 0, "name": "NVIDIA L4", "compute_capability": 89, "cuda": "13.0"}]
    monkeypatch.setattr(diagnosis, "find_gpus", lambda: ())
    assert "  none: the NVIDIA driver shows none" in doctor(bundle).stdout


def test_help_states_the_exit_codes() -> None:
    text = " ".join(doctor("--help").stdout.split())
    assert "[BUNDLE]" in text
    assert (
        "Exit status: 0 if all is well, 1 if something is broken, or cannot be had though it was asked for, 2" in text
    )


def test_tuning_is_measured_and_kept_for_auto(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = doctor(bundle, "--tune")
    assert result.exit_code == 0
    assert "openvino in fp32" in result.stderr
    assert f"kept in {tmp_path}" in result.stderr
    assert "as dmgan-doctor --tune measured on" in doctor(bundle).stdout


def test_tuning_a_damaged_bundle_ends_in_the_diagnosis(own_bundle: Path) -> None:
    (own_bundle / "onnx" / "generator_1.onnx").write_bytes(b"damaged")
    result = doctor(own_bundle, "--tune")
    assert result.exit_code == 1
    assert "nothing was kept: " in result.stderr
    assert "FAULT: " in result.stdout


def test_quality_decides_what_auto_takes(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_manifest(own_bundle, image_psnr_db={"bf16": 44.9})
    monkeypatch.setattr("dmgan_runtime.backends.choice.find_processor", lambda: Processor("X", ("bf16",)))
    lines = doctor(own_bundle, "--device", "cpu", "--quality", "exact").stdout
    assert (
        "openvino on cpu in bf16: its images in bf16 come to 44.9 dB of fp32's, and exact ones are asked for" in lines
    )
    assert doctor(own_bundle, "--quality", "lots").exit_code == 2
