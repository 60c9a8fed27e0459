from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmgan_runtime import BackendError, EngineError, SettingsError
from dmgan_runtime.backends import choice
from dmgan_runtime.backends.base import Active, Backend, EngineSettings
from dmgan_runtime.backends.choice import open_backend
from dmgan_runtime.backends.registry import BACKENDS, Engine
from dmgan_runtime.bundle import Bundle
from dmgan_runtime.cpus import Processor
from tests.bundles import write_manifest
from tests.dmgan_runtime.backends.precisions import add_precision

Opens = Callable[..., Backend]
PROCESSORS = {
    "AVX2": Processor("AMD EPYC", ("AVX2",)),
    "AMX": Processor("Intel Xeon", ("AVX2", "AVX-512", "VNNI", "bf16", "AMX")),
}


@pytest.fixture
def opens(bundle: Path) -> Opens:
    def open_it(**arguments: Any) -> Backend:
        asked: dict[str, Any] = {"backend": "auto", "device": "auto", "precision": "auto", "threads": 1}
        with Bundle(bundle) as opened:
            return open_backend(opened, **(asked | arguments))

    return open_it


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], Exception]:
    """Engines are stand-ins that are all there, but for those whose error a test puts in here."""
    errors: dict[tuple[str, str], Exception] = {}

    def stand_in(engine: Engine) -> Any:
        class StandIn:
            def __init__(self, bundle: Bundle, settings: EngineSettings) -> None:
                if isinstance(error := errors.get((engine.backend, engine.device)), EngineError):
                    raise error
                device = engine.device_name(settings.index)
                self.active = Active(engine.backend, "1.2", device, "fp32", settings.threads)

            @classmethod
            def probe(cls, index: int) -> str:
                if isinstance(error := errors.get((engine.backend, engine.device)), BackendError):
                    raise error
                return "1.2"

        return StandIn

    monkeypatch.setattr(Engine, "load_class", stand_in)
    return errors


@pytest.fixture
def rounding(own_bundle: Path) -> Opens:
    """Opens a bundle that says of bf16: 44.9 dB, and of fp16: 61.0."""
    add_precision(own_bundle, "fp16")
    manifest = Bundle(own_bundle).manifest
    write_manifest(own_bundle, graphs=manifest.graphs, image_psnr_db={"fp32": 140.0, "bf16": 44.9, "fp16": 61.0})

    def open_it(**arguments: Any) -> Backend:
        with Bundle(own_bundle) as opened:
            return open_backend(opened, **({"threads": 1} | arguments))

    return open_it


@pytest.fixture(params=["AMX", "AVX2"])
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the processor can do."""
    monkeypatch.setattr(choice, "find_processor", lambda: PROCESSORS[request.param])
    return request.param


def order(active: Active) -> list[str]:
    return [each.way for each in active.considered]


def verdicts(active: Active) -> list[str]:
    return [f"{each.backend} {each.device} {each.state}: {each.verdict}" for each in active.considered]


@pytest.mark.usefixtures("without_bf16")
def test_auto_takes_the_first_and_says_so(opens: Opens, missing: dict[Any, Exception]) -> None:
    active = opens().active
    assert (active.backend, active.device) == ("tensorrt", "cuda:0")
    assert str(active) == "tensorrt 1.2 on cuda:0 in fp32"
    assert active.reason == "the best that can be had here"
    assert verdicts(active) == [
        "tensorrt cuda:0 chosen: the best that can be had here",
        "tensorrt_rtx cuda:0 untried: tensorrt comes first",
        "onnxruntime cuda:0 untried: tensorrt comes first",
        "onnxruntime cpu untried: tensorrt comes first",
        "openvino cpu untried: tensorrt comes first",
    ]


def test_auto_says_why_not_the_better_ones(opens: Opens, missing: dict[Any, Exception]) -> None:
    missing |= {("tensorrt", "cuda"): BackendError("no plan"), ("tensorrt_rtx", "cuda"): BackendError("no package")}
    active = opens().active
    assert str(active) == "onnxruntime 1.2 on cuda:0 in fp32"
    assert active.reason == "the best that can be had here"
    assert [str(each) for each in active.considered[:2]] == [
        "tensorrt on cuda:0: no plan",
        "tensorrt_rtx on cuda:0: no package",
    ]
    assert verdicts(active)[0] == "tensorrt cuda:0 missing: no plan"


def test_a_gpu_engine_that_breaks_is_passed_over_with_a_warning(
    opens: Opens, missing: dict[Any, Exception], caplog: pytest.LogCaptureFixture
) -> None:
    missing[("tensorrt", "cuda")] = EngineError("out of memory")
    active = opens().active
    assert active.backend == "tensorrt_rtx"
    assert verdicts(active)[0] == "tensorrt cuda:0 broken: out of memory"
    assert "tensorrt on cuda:0 is here but does not work, so another is taken: out of memory" in caplog.text


def test_a_gpu_engine_that_was_asked_for_and_breaks_is_an_error(
    opens: Opens, missing: dict[Any, Exception], caplog: pytest.LogCaptureFixture
) -> None:
    missing[("tensorrt", "cuda")] = EngineError("out of memory")
    with pytest.raises(EngineError, match="out of memory"):
        opens(backend="tensorrt")
    assert not caplog.records


def test_asking_for_a_gpu_never_gives_the_cpu(opens: Opens, missing: dict[Any, Exception]) -> None:
    missing |= {(name, "cuda"): BackendError(f"{name} is gone") for name in BACKENDS}
    message = r"device 'cuda:1' cannot be had:\n  tensorrt on cuda:1: tensorrt is gone\n  tensorrt_rtx on cuda:1: .*\n"
    with pytest.raises(BackendError, match=message):
        opens(device="cuda:1")
    with pytest.raises(BackendError, match="backend 'onnxruntime', device 'cuda' cannot be had: onnxruntime is gone"):
        opens(backend="onnxruntime", device="cuda")
    assert opens(backend="onnxruntime").active.device == "cpu"


@pytest.mark.parametrize(
    ("arguments", "backend", "device"),
    [
        ({"device": "cpu"}, "onnxruntime", "cpu"),
        ({"device": "cuda"}, "tensorrt", "cuda:0"),
        ({"device": "cuda:2"}, "tensorrt", "cuda:2"),
        ({"backend": "openvino"}, "openvino", "cpu"),
        ({"backend": "onnxruntime"}, "onnxruntime", "cuda:0"),
        ({"backend": "onnxruntime", "device": "cpu"}, "onnxruntime", "cpu"),
    ],
)
def test_what_was_asked_for_is_taken(
    opens: Opens, missing: dict[Any, Exception], arguments: dict[str, str], backend: str, device: str
) -> None:
    active = opens(**arguments).active
    assert (active.backend, active.device) == (backend, device)


@pytest.mark.usefixtures("without_bf16")
def test_one_that_was_asked_for_by_name_says_so(opens: Opens, missing: dict[Any, Exception]) -> None:
    active = opens(backend="openvino", device="cpu").active
    assert active.reason == "as asked for"
    assert len(active.considered) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "torch"}, "backend 'torch' is unknown; pass one of 'auto', 'tensorrt', 'tensorrt_rtx', 'onnx"),
        ({"device": "tpu"}, "device 'tpu' is unknown; pass 'auto', 'cpu', 'cuda' or 'cuda:N'"),
        ({"precision": "half"}, "^precision 'half' is unknown; pass one of 'auto', 'fp32', 'fp16', 'int8', 'bf16'$"),
        ({"precision": "fp16"}, "tiny has no generator graphs for precision 'fp16', but fp32; export it again with"),
        ({"device": "cuda:-1"}, "device 'cuda:-1' is unknown"),
        ({"backend": "openvino", "device": "cuda"}, "openvino does not run on device 'cuda'; pass device='cpu'"),
        ({"backend": "tensorrt", "device": "cpu"}, "tensorrt does not run on device 'cpu'; pass device='cuda'"),
    ],
)
def test_what_is_unknown_is_named(opens: Opens, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        opens(**arguments)


class TestQuality:
    def test_a_cpu_takes_the_fastest_way_that_it_has(
        self, rounding: Opens, missing: dict[Any, Exception], processor: str
    ) -> None:
        expected = {
            "AMX": [
                "openvino on cpu in bf16",
                "onnxruntime on cpu in fp32",
                "openvino on cpu in fp32",
            ],
            "AVX2": ["onnxruntime on cpu in fp32", "openvino on cpu in fp32"],
        }
        assert order(rounding(device="cpu").active) == expected[processor]
        assert order(rounding(backend="openvino").active) == [way for way in expected[processor] if "openvino" in way]

    @pytest.mark.parametrize(
        ("quality", "why"),
        [
            (45, "come to 44.9 dB of fp32's, and 45 dB are asked for; pass another quality, or precision='bf16'"),
            ("exact", "come to 44.9 dB of fp32's, and exact ones are asked for"),
        ],
    )
    def test_what_is_not_near_enough_is_never_taken(
        self, rounding: Opens, missing: dict[Any, Exception], monkeypatch: pytest.MonkeyPatch, quality: Any, why: str
    ) -> None:
        monkeypatch.setattr(choice, "find_processor", lambda: PROCESSORS["AMX"])
        active = rounding(device="cpu", quality=quality).active
        assert order(active)[:2] == ["openvino on cpu in bf16", "onnxruntime on cpu in fp32"]
        assert [each.state for each in active.considered[:2]] == ["missing", "chosen"]
        assert why in active.considered[0].verdict

    def test_a_precision_by_name_is_taken_whatever_its_quality(
        self, rounding: Opens, missing: dict[Any, Exception], processor: str
    ) -> None:
        assert (
            order(rounding(device="cpu", precision="bf16", quality="exact").active)[0] == "onnxruntime on cpu in bf16"
        )

    def test_a_gpu_takes_fp16_if_it_is_near_enough(self, rounding: Opens, missing: dict[Any, Exception]) -> None:
        def chosen(**asked: Any) -> str:
            active = rounding(backend="onnxruntime", device="cuda", **asked).active
            return next(each.way for each in active.considered if each.state == "chosen")

        assert chosen() == "onnxruntime on cuda:0 in fp16"
        assert chosen(quality=62) == "onnxruntime on cuda:0 in fp32"

    def test_an_engine_that_is_missing_is_said_once_and_one_by_name_that_breaks_is_an_error(
        self, rounding: Opens, missing: dict[Any, Exception]
    ) -> None:
        missing[("onnxruntime", "cuda")] = BackendError("no CUDA here")
        with pytest.raises(BackendError, match=r"device 'cuda' cannot be had: no CUDA here$"):
            rounding(backend="onnxruntime", device="cuda")
        missing[("onnxruntime", "cuda")] = EngineError("out of memory")
        with pytest.raises(EngineError, match="out of memory"):  # and not fp32 instead
            rounding(backend="onnxruntime", device="cuda")

    def test_an_engine_that_is_missing_is_not_also_one_that_comes_later(
        self, rounding: Opens, missing: dict[Any, Exception], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(choice, "find_processor", lambda: PROCESSORS["AMX"])
        missing[("openvino", "cpu")] = BackendError("not installed")
        active = rounding(device="cpu").active
        assert [(each.backend, each.state) for each in active.considered] == [
            ("openvino", "missing"),
            ("onnxruntime", "chosen"),
        ]

    def test_what_was_never_compared_is_not_near_enough(
        self, opens: Opens, missing: dict[Any, Exception], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(choice, "find_processor", lambda: PROCESSORS["AMX"])
        verdict = opens(device="cpu").active.considered[0].verdict
        assert verdict.startswith("its images in bf16 were not compared with fp32's at export, and 40 dB are asked for")

    @pytest.mark.parametrize("quality", [0, -1, 201, float("nan"), True, "high", None])
    def test_what_is_no_quality_is_named(self, opens: Opens, missing: dict[Any, Exception], quality: Any) -> None:
        with pytest.raises(SettingsError, match="pass a PSNR in dB over 0 and at most 200, or 'exact' for fp32"):
            opens(quality=quality)
