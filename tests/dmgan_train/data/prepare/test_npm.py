import io
import os
import tarfile
from pathlib import Path

import pytest

from dmgan_runtime.errors import DataError
from dmgan_train.data.prepare import npm
from dmgan_train.data.prepare.npm import pack, read_package
from tests.dmgan_train.data.prepare.packages import write_tarball


def everything(path: str) -> bool:
    return bool(path)


def tarball_with(tmp_path, member: tarfile.TarInfo) -> Path:
    path = write_tarball(tmp_path / "a.tgz", {})
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def test_reads_only_what_is_wanted(tmp_path):
    path = write_tarball(tmp_path / "a.tgz", {"en/data.json": b"[1]", "de/data.json": b"[2]"}, "@scope/name", "2.0.1")
    package = read_package(path, lambda inner: inner.startswith("en/"))
    assert package == ("@scope/name", "2.0.1", {"en/data.json": b"[1]"})
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    member = tarfile.TarInfo("package/data.json")
    member.type, member.linkname = kind, "/etc/passwd"
    with pytest.raises(DataError, match=r"'package/data\.json' is a link or a device"):
        read_package(tarball_with(tmp_path, member), everything)


@pytest.mark.parametrize("name", ["/etc/passwd", "package/../../passwd", "../passwd"])
def test_paths_that_leave_the_package_are_refused(tmp_path, name):
    with pytest.raises(DataError, match="leads out of the package"):
        read_package(tarball_with(tmp_path, tarfile.TarInfo(name)), everything)


def test_a_package_that_unpacks_to_far_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(npm, "_MOST_BYTES", 1000)
    path = write_tarball(tmp_path / "a.tgz", {"zeros": bytes(2000)})
    assert read_package(path, lambda _: False).files == {}
    with pytest.raises(DataError, match="holds over 1,000 bytes"):
        read_package(path, everything)


def test_what_is_no_package_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"none\.tgz: cannot be read as an npm package"):
        read_package(tmp_path / "none.tgz", everything)
    path = write_tarball(tmp_path / "a.tgz", {"data": os.urandom(5000)})
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"a\.tgz: cannot be read as an npm package .*fetch it again"):
        read_package(path, everything)
    with pytest.raises(DataError, match=r"has no valid package\.json"):
        read_package(tarball_with(tmp_path, tarfile.TarInfo("package/data.json")), everything)


def fake_npm(folder: Path, script: str) -> None:
    path = folder / "npm"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def path_folder(tmp_path, monkeypatch):
    """The only folder where programs are looked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_without_npm_the_tarballs_are_the_remedy(path_folder):
    with pytest.raises(DataError, match=r"is not installed; install Node\.js, or .*with 'npm pack b@2', .*--tarball"):
        pack("b@2", path_folder)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for npm is a shell script")
def test_npm_says_which_file_it_wrote(path_folder):
    fake_npm(path_folder, 'echo "[$*]" > said; echo a notice; echo b-2.tgz')
    assert pack("b@2", path_folder) == path_folder / "b-2.tgz"
    assert (path_folder / "said").read_text() == "[pack b@2 --ignore-scripts --silent]\n"


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for npm is a shell script")
def test_what_npm_says_of_its_failure_is_passed_on(path_folder):
    fake_npm(path_folder, "echo E404 not found >&2; exit 1")
    with pytest.raises(DataError, match=r"cannot download b@2 \(E404 not found\); .*--tarball"):
        pack("b@2", path_folder)
