"""Where the files of onnxruntime-web come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmgan_runtime.errors import DataError, SettingsError
from export.browser.onnxruntime_web import DEVICES, find_runtime
from tests.export.browser.packages import build_package, pack_package


@pytest.mark.parametrize("devices", [("wasm",), ("wasm", "webgpu")])
@pytest.mark.parametrize("packed", [False, True])
def test_a_named_package_is_read(tmp_path: Path, packed: bool, devices: tuple[str, ...]) -> None:
    folder = build_package(tmp_path / "package")
    found = find_runtime(pack_package(folder, tmp_path / "ort.tgz") if packed else folder, devices)
    assert found.version == "1.30.0"
    assert found.files == {
        name: f"{name} of onnxruntime-web".encode() for device in devices for name in DEVICES[device]
    }


@pytest.mark.parametrize("where", ["", "deep/er"])
def test_one_at_hand_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    build_package(tmp_path / "node_modules" / "onnxruntime-web")
    (tmp_path / where).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / where)
    assert find_runtime(None, ("wasm",)).version == "1.30.0"


def test_none_at_hand_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"npm install onnxruntime-web.* with --onnxruntime-web$"):
        find_runtime(None, ("wasm",))


def test_what_is_no_such_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no npm package"):
        find_runtime(tmp_path, ("wasm",))
    with pytest.raises(SettingsError, match="the npm package left-pad; get it with: npm install onnxruntime-web"):
        find_runtime(build_package(tmp_path / "other", name="left-pad"), ("wasm",))
    old = build_package(tmp_path / "old", devices=("wasm",))
    with pytest.raises(SettingsError, match=r"has no dist/ort\.webgpu\.bundle\.min\.mjs; take version 1\.30"):
        find_runtime(old, ("wasm", "webgpu"))
    (tmp_path / "cut.tgz").write_bytes(pack_package(old, tmp_path / "old.tgz").read_bytes()[:-50])
    with pytest.raises(DataError, match=r"cut\.tgz: cannot be read as an npm package"):
        find_runtime(tmp_path / "cut.tgz", ("wasm",))
