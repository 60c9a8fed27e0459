from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from dmgan_runtime.backends.built_engines import ENGINE_SCHEMA_VERSION, BatchProfile, EngineManifest
from dmgan_runtime.backends.tensorrt.api import new_log
from dmgan_runtime.errors import BackendError, SettingsError
from export.tensorrt import bindings as bindings_module
from export.tensorrt.bindings import Bindings, TargetGpus, open_bindings
from tests.export.tensorrt.fakes import L4, fake_tensorrt, install


def wanted(bindings: Bindings, **changes) -> EngineManifest:
    fields = {
        "schema_version": ENGINE_SCHEMA_VERSION,
        "engine": bindings.name,
        "version": bindings.version,
        "compute_capabilities": (89,),
        "device": None,
        "precision": "fp32",
        "profile": BatchProfile(min=1, opt=4, max=16),
        "version_compatible": False,
        "hardware_compatibility": "none",
        "plans": (),
    }
    return EngineManifest(**(fields | changes))


@pytest.fixture
def rtx() -> Bindings:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx has no wheel for this platform")
    return open_bindings("tensorrt_rtx")


@pytest.mark.parametrize(("asked", "name"), [("auto", "tensorrt"), ("tensorrt", "tensorrt")])
def test_tensorrt_comes_first(asked, name, monkeypatch) -> None:
    install(monkeypatch, "tensorrt", "11.4.0.106")
    install(monkeypatch, "tensorrt_rtx", "1.7.1.116")
    assert (open_bindings(asked).name, open_bindings(asked).version) == (name, "11.4.0.106")


def test_auto_takes_the_one_that_is_there(monkeypatch) -> None:
    install(monkeypatch, "tensorrt", None)
    install(monkeypatch, "tensorrt_rtx", "1.7.1.116")
    assert open_bindings("auto").name == "tensorrt_rtx"


@pytest.mark.parametrize(
    ("asked", "remedies"),
    [
        ("auto", ['pip install "dmgan[tensorrt]"', 'pip install "dmgan[tensorrt-rtx]"']),
        ("tensorrt", ['pip install "dmgan[tensorrt]"']),
        ("tensorrt_rtx", ['pip install "dmgan[tensorrt-rtx]"']),
    ],
)
def test_a_missing_tensorrt_names_the_pip_line(asked, remedies, monkeypatch) -> None:
    install(monkeypatch, "tensorrt", None)
    install(monkeypatch, "tensorrt_rtx", None)
    with pytest.raises(BackendError, match="cannot be imported") as caught:
        open_bindings(asked)
    assert str(caught.value).endswith("install it with: " + " or ".join(remedies))


def test_a_tensorrt_without_its_libraries_is_missing(monkeypatch) -> None:
    def load(name: str) -> None:
        raise OSError("libnvinfer.so.11: cannot open shared object file")

    monkeypatch.setattr(bindings_module, "importlib", SimpleNamespace(import_module=load))
    with pytest.raises(BackendError, match=r"libnvinfer.so.11: cannot open .*pip install"):
        open_bindings("tensorrt")


def test_an_old_tensorrt_is_refused(monkeypatch) -> None:
    install(monkeypatch, "tensorrt", "8.6.1.6")
    with pytest.raises(BackendError, match=r"8.6.1.6 is too old.*pip install --upgrade"):
        open_bindings("auto")


@pytest.mark.parametrize(("version", "flags"), [("10.3.0", 0b10), ("10.16.1.11", 0b10), ("11.4.0.106", 0)])
def test_networks_are_strongly_typed(version, flags) -> None:
    bindings, builder = fake_tensorrt(version), Mock()
    bindings.module.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    bindings.create_network(builder)
    builder.create_network.assert_called_once_with(flags)


def test_tensorrt_builds_for_the_gpu_at_hand(monkeypatch) -> None:
    monkeypatch.setattr(bindings_module, "find_gpu", lambda _: L4)
    assert fake_tensorrt("11.4.0.106").target(()) == TargetGpus((89,), "NVIDIA L4")
    with pytest.raises(SettingsError, match="add --engine tensorrt_rtx"):
        fake_tensorrt("11.4.0.106").target((86,))


def test_rtx_builds_for_ampere_and_later_unless_asked(rtx) -> None:
    assert rtx.target(()) == TargetGpus((80, 86, 89, 120, 121), None)
    assert rtx.target((120, 86, 86)) == TargetGpus((86, 120), None)
    with pytest.raises(SettingsError, match=r"cannot build for sm90; it offers sm75, sm80"):
        rtx.target((90,))


def test_rtx_refuses_switches_that_it_would_ignore(rtx) -> None:
    rtx.check_switches(wanted(rtx), timing_cache=False)
    changes = {"version_compatible": True, "hardware_compatibility": "ampere_plus"}
    with pytest.raises(SettingsError, match=r"--version-compatible, --hardware-compatibility, --timing-cache: not"):
        rtx.check_switches(wanted(rtx, **changes), timing_cache=True)


def test_tensorrt_takes_every_switch() -> None:
    """What is refused raises."""
    bindings = fake_tensorrt("11.4.0.106")
    changes = {"version_compatible": True, "hardware_compatibility": "ampere_plus"}
    bindings.check_switches(wanted(bindings, **changes), timing_cache=True)


def test_a_level_that_an_older_tensorrt_lacks_is_refused() -> None:
    bindings = fake_tensorrt("10.3.0")
    bindings.module.BuilderFlag = Mock()
    bindings.module.HardwareCompatibilityLevel = Mock(__members__={"NONE": 0, "AMPERE_PLUS": 1})
    engine = wanted(bindings, hardware_compatibility="same_compute_capability")
    with pytest.raises(SettingsError, match=r"tensorrt 10.3.0 has no hardware compatibility"):
        bindings.create_config(Mock(), engine)


def test_fp32_means_fp32(rtx) -> None:
    config = rtx.create_config(rtx.module.Builder(new_log(rtx.module)), wanted(rtx))
    assert not config.get_flag(rtx.module.BuilderFlag.TF32)
    assert [int(config.get_compute_capability(0))] == [89]
