"""What has to be installed is counted with all that it needs, once."""

from benchmarks.size import closure, installed_bytes


def test_a_package_brings_what_it_needs() -> None:
    assert {"onnx", "numpy", "protobuf"} <= closure(["onnx"])
    assert "pytest" not in closure(["onnx"])


def test_extras_bring_more() -> None:
    assert "numpy" not in closure(["hypothesis"])
    assert "numpy" in closure(["hypothesis[numpy]"])


def test_what_is_not_installed_weighs_nothing() -> None:
    assert closure(["no-such-package-here"]) == set()
    assert installed_bytes(["no-such-package-here"]) == 0


def test_a_package_weighs_its_files_and_is_counted_once() -> None:
    alone = installed_bytes(["click"])
    assert 100_000 < alone < 10_000_000
    assert installed_bytes(["click", "click"]) == alone
