from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from dmgan_runtime import bundle as bundle_module
from dmgan_runtime.bundle import MAX_MANIFEST_BYTES, Bundle, find_bundle, packaged_bundle
from dmgan_runtime.errors import BundleError
from dmgan_runtime.manifest import MANIFEST_NAME
from tests.bundles import SPEC, WORDS, build_bundle, write_manifest, zip_bundle

GRAPH = "onnx/generator_1.onnx"


def read_everything(path: Path) -> list[bytes]:
    with Bundle(path) as bundle:
        manifest = bundle.manifest
        assert bundle.tokenizer().words == WORDS
        return [bundle.read(entry) for entry in (manifest.tokenizer.file, *(graph.file for graph in manifest.graphs))]


def add_to_zip(path: Path, name: str, content: bytes = b"x", mode: int = stat.S_IFREG | 0o644) -> None:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, content)


def write_bomb(bundle: Path, folder: Path) -> Path:
    """A bundle whose vocabulary becomes a thousand times as large."""
    bomb = folder / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(bundle / MANIFEST_NAME, MANIFEST_NAME)
        archive.writestr("vocab.json", bytes(2**26))
    return bomb


@pytest.fixture
def zipped(bundle: Path, tmp_path: Path) -> Path:
    return zip_bundle(bundle, tmp_path / "tiny.zip")


@pytest.mark.parametrize("prefix", ["", "tiny/"])
def test_a_zip_holds_what_its_folder_holds(bundle: Path, tmp_path: Path, prefix: str) -> None:
    zipped = zip_bundle(bundle, tmp_path / "tiny.zip", prefix)
    assert read_everything(zipped) == read_everything(bundle)
    assert list(tmp_path.iterdir()) == [zipped]


def test_emoji_come_with_the_vocabulary(tmp_path: Path) -> None:
    folder = build_bundle(tmp_path / "tiny", aliases={"❤": "red heart", "🍕": "pizza"})
    for path in (folder, zip_bundle(folder, tmp_path / "tiny.zip")):
        with Bundle(path) as bundle:
            assert bundle.tokenizer().aliases == {"❤": "red heart"}
            assert [entry.path for entry in bundle.manifest.every_file[:2]] == ["vocab.json", "aliases.json"]
    (folder / "aliases.json").write_bytes(b"{}")
    with Bundle(folder) as bundle, pytest.raises(BundleError, match=r"aliases\.json: damaged or replaced"):
        bundle.tokenizer()


def test_a_bundle_of_the_first_minor_version_is_read(own_bundle: Path) -> None:
    """Schema 2.0 had no aliases."""
    manifest = json.loads((own_bundle / MANIFEST_NAME).read_bytes())
    del manifest["tokenizer"]["aliases"]
    (own_bundle / MANIFEST_NAME).write_text(json.dumps(manifest | {"schema_version": "2.0"}))
    assert len(read_everything(own_bundle)) == 1 + len(SPEC.roles)


def test_a_bundle_is_described(bundle: Path) -> None:
    with Bundle(str(bundle)) as opened:
        assert opened.path == bundle
        assert opened.manifest.model == SPEC


class TestAFolder:
    def test_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"nowhere: no such bundle; pass a folder or .zip"):
            Bundle(tmp_path / "nowhere")

    def test_whose_name_the_system_refuses(self) -> None:
        with pytest.raises(BundleError, match=r"cannot be read \(.*too long"):
            find_bundle("x" * 300)

    def test_without_a_manifest(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"manifest\.json: missing"):
            Bundle(tmp_path)

    @pytest.mark.parametrize("name", [GRAPH, "vocab.json"])
    def test_without_a_file(self, own_bundle: Path, name: str) -> None:
        (own_bundle / name).unlink()
        with pytest.raises(BundleError, match=f"{name}: missing"):
            read_everything(own_bundle)

    @pytest.mark.parametrize("name", [GRAPH, "vocab.json"])
    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda content: content[:-1], "bytes, the manifest says"),
            (lambda content: content + b"\0", "bytes, the manifest says"),
            (lambda _: b"", "has 0 bytes"),
            (lambda content: bytes([content[0] ^ 1]) + content[1:], "its SHA-256 is"),
            (lambda content: content[:-1] + bytes([content[-1] ^ 128]), "its SHA-256 is"),
        ],
        ids=["cut", "longer", "empty", "first bit", "last bit"],
    )
    def test_with_a_damaged_file(
        self, own_bundle: Path, name: str, damage: Callable[[bytes], bytes], message: str
    ) -> None:
        file = own_bundle / name
        file.write_bytes(damage(file.read_bytes()))
        with pytest.raises(BundleError, match=f"{name}: damaged or replaced: .*{message}.*; copy the bundle again"):
            read_everything(own_bundle)

    @pytest.mark.parametrize("claimed", [0, 10**18])
    def test_whose_manifest_claims_another_size(self, own_bundle: Path, claimed: int) -> None:
        manifest = json.loads((own_bundle / MANIFEST_NAME).read_bytes())
        manifest["graphs"][2]["file"]["bytes"] = claimed
        (own_bundle / MANIFEST_NAME).write_text(json.dumps(manifest))
        with pytest.raises(BundleError, match=f"it has .* bytes, the manifest says {claimed:,}; copy the bundle again"):
            read_everything(own_bundle)

    def test_with_two_files_swapped(self, own_bundle: Path) -> None:
        one, other = own_bundle / GRAPH, own_bundle / "onnx/generator_0.onnx"
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)
        with pytest.raises(BundleError, match="damaged or replaced"):
            read_everything(own_bundle)

    def test_that_is_named_by_a_relative_path(self, own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(own_bundle.parent)
        content = (own_bundle / GRAPH).read_bytes()
        for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(content[:-1])):
            damage(own_bundle / GRAPH)
            with pytest.raises(BundleError, match=f"^{own_bundle.name}/{GRAPH}: "):
                read_everything(Path(own_bundle.name))

    @pytest.mark.parametrize("names", [[GRAPH], ["vocab.json"], [MANIFEST_NAME, "vocab.json", GRAPH]], ids=len)
    def test_whose_files_are_links_out_of_it(self, own_bundle: Path, tmp_path: Path, names: list[str]) -> None:
        """As in the caches of hubs and package managers."""
        for number, name in enumerate(names):
            (own_bundle / name).rename(tmp_path / f"blob{number}")
            (own_bundle / name).symlink_to(tmp_path / f"blob{number}")
        read_everything(own_bundle)
        (own_bundle / GRAPH).unlink()
        (own_bundle / GRAPH).symlink_to(__file__)
        with pytest.raises(BundleError, match="damaged or replaced"):
            read_everything(own_bundle)

    @pytest.mark.parametrize("target", ["/dev/zero", "/proc/self", "nowhere"])
    def test_with_a_link_to_no_regular_file(self, own_bundle: Path, target: str) -> None:
        (own_bundle / GRAPH).unlink()
        (own_bundle / GRAPH).symlink_to(target)
        with pytest.raises(BundleError, match=f"{GRAPH}: missing"):
            read_everything(own_bundle)

    def test_with_a_folder_that_is_a_link_out_of_it(self, own_bundle: Path, tmp_path: Path) -> None:
        (own_bundle / "onnx").rename(tmp_path / "outside")
        (own_bundle / "onnx").symlink_to(tmp_path / "outside")
        with pytest.raises(BundleError, match=r"a link to .*/outside, outside the bundle; put the folder itself there"):
            read_everything(own_bundle)

    @pytest.mark.parametrize("name", [MANIFEST_NAME, "vocab.json", GRAPH])
    def test_with_a_pointer_of_git_lfs(self, own_bundle: Path, tmp_path: Path, name: str) -> None:
        (own_bundle / name).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 9\n")
        for path in (own_bundle, zip_bundle(own_bundle, tmp_path / "own.zip")):
            with pytest.raises(BundleError, match=f"{name}: a pointer of Git LFS .*; fetch it with: git lfs pull"):
                read_everything(path)

    def test_whose_line_breaks_git_has_changed(self, own_bundle: Path) -> None:
        (own_bundle / "vocab.json").write_text(json.dumps(WORDS, indent=0))
        write_manifest(own_bundle)
        (own_bundle / "vocab.json").write_text(json.dumps(WORDS, indent=0), newline="\r\n")
        with pytest.raises(BundleError, match=r"line breaks were changed, .* with `\* -text` in the \.gitattributes"):
            read_everything(own_bundle)

    def test_that_came_with_dmgan_is_kept_as_it_is_by_git_for_windows(self, tmp_path: Path) -> None:
        root = Path(__file__).parents[2]
        model = packaged_bundle().relative_to(root)
        shutil.copytree(root / model, tmp_path / model)
        shutil.copy(root / ".gitattributes", tmp_path)

        def git(*arguments: str) -> None:
            subprocess.run(["git", "-c", "core.autocrlf=true", *arguments], cwd=tmp_path, check=True)

        git("init", "--quiet")
        git("add", ".")
        shutil.rmtree(tmp_path / model)
        git("checkout", "--quiet", "--", ".")
        with Bundle(tmp_path / model) as bundle:
            assert all(bundle.read(entry) for entry in bundle.manifest.every_file)

    def test_with_a_link_that_stays_inside(self, own_bundle: Path) -> None:
        (own_bundle / GRAPH).rename(own_bundle / "stored")
        (own_bundle / GRAPH).symlink_to("../stored")
        read_everything(own_bundle)

    def test_with_a_loop_of_links(self, own_bundle: Path) -> None:
        (own_bundle / GRAPH).unlink()
        (own_bundle / GRAPH).symlink_to("generator_1.onnx")
        with pytest.raises(BundleError, match=GRAPH):
            read_everything(own_bundle)

    def test_that_is_reached_through_a_link(self, bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(bundle)
        read_everything(tmp_path / "link")

    def test_with_a_pipe_for_a_file(self, own_bundle: Path) -> None:
        (own_bundle / GRAPH).unlink()
        os.mkfifo(own_bundle / GRAPH)
        with pytest.raises(BundleError, match="missing"):
            read_everything(own_bundle)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
    def test_that_may_not_be_read(self, own_bundle: Path) -> None:
        (own_bundle / MANIFEST_NAME).chmod(0)
        with pytest.raises(BundleError, match="Permission denied"):
            Bundle(own_bundle)

    def test_with_a_huge_manifest(self, own_bundle: Path) -> None:
        with (own_bundle / MANIFEST_NAME).open("r+b") as stream:
            stream.truncate(MAX_MANIFEST_BYTES + 1)
        with pytest.raises(BundleError, match="at most 16,777,216 are read"):
            Bundle(own_bundle)

    def test_with_a_manifest_that_leaves_it(self, own_bundle: Path) -> None:
        file = own_bundle / MANIFEST_NAME
        content = json.loads(file.read_bytes())
        content["tokenizer"]["file"]["path"] = "../../etc/passwd"
        file.write_text(json.dumps(content))
        with pytest.raises(BundleError, match="leaves the bundle"):
            Bundle(own_bundle)

    def test_with_a_vocabulary_that_is_none(self, own_bundle: Path) -> None:
        (own_bundle / "vocab.json").write_text("[1, 2]")
        write_manifest(own_bundle)
        with (
            Bundle(own_bundle) as bundle,
            pytest.raises(BundleError, match=r"vocab\.json: cannot be read as a voc"),
        ):
            bundle.tokenizer()


class TestAZip:
    @pytest.mark.parametrize("name", ["../evil", "/etc/evil", "onnx/../../evil", "a\\..\\evil", "C:/evil"])
    def test_with_an_entry_that_leaves_it(self, zipped: Path, name: str) -> None:
        add_to_zip(zipped, name)
        with pytest.raises(BundleError, match=r"unsafe: its entry .* leaves the bundle"):
            Bundle(zipped)
        assert not list(zipped.parent.rglob("*evil"))

    @pytest.mark.parametrize("prefix", ["", "tiny\\"])
    def test_whose_names_have_backslashes(self, bundle: Path, tmp_path: Path, prefix: str) -> None:
        """As Windows PowerShell 5.1 writes them."""
        with zipfile.ZipFile(tmp_path / "windows.zip", "w") as archive:
            for file in (file for file in bundle.rglob("*") if file.is_file()):
                archive.write(file, prefix + str(file.relative_to(bundle)).replace("/", "\\"))
        assert read_everything(tmp_path / "windows.zip") == read_everything(bundle)
        with Bundle(tmp_path / "windows.zip") as opened:
            assert opened.folders("onnx") == []

    def test_with_an_entry_in_both_spellings(self, zipped: Path) -> None:
        add_to_zip(zipped, GRAPH.replace("/", "\\"))
        with pytest.raises(BundleError, match=r"generator_1.onnx' .*comes twice"):
            Bundle(zipped)

    def test_with_a_link(self, zipped: Path) -> None:
        add_to_zip(zipped, "link", b"/etc/passwd", stat.S_IFLNK | 0o777)
        with pytest.raises(BundleError, match="unsafe: its entry 'link' is a link"):
            Bundle(zipped)

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_with_an_entry_twice(self, zipped: Path) -> None:
        add_to_zip(zipped, "vocab.json", b"[]")
        with pytest.raises(BundleError, match=r"'vocab.json' .*comes twice"):
            Bundle(zipped)

    def test_with_an_encrypted_entry(self, zipped: Path) -> None:
        content = bytearray(zipped.read_bytes())
        content[content.rindex(b"PK\x01\x02") + 8] |= 1
        zipped.write_bytes(content)
        with pytest.raises(BundleError, match="is encrypted"):
            Bundle(zipped)

    def test_with_a_rare_compression(self, zipped: Path) -> None:
        with zipfile.ZipFile(zipped, "a", zipfile.ZIP_LZMA) as archive:
            archive.writestr("more", b"x" * 100)
        with pytest.raises(BundleError, match="compressed in a rare way"):
            Bundle(zipped)

    def test_that_is_a_bomb(self, bundle: Path, tmp_path: Path) -> None:
        bomb = write_bomb(bundle, tmp_path)
        message = r"unsafe: 65,\d+ bytes that claim to become 67,108,864, as in a decompression bomb"
        with Bundle(bomb) as opened, pytest.raises(BundleError, match=message):
            opened.tokenizer()

    def test_that_is_a_bomb_and_lies_about_it(self, bundle: Path, tmp_path: Path) -> None:
        bomb = tmp_path / "bomb.zip"
        with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(bundle / MANIFEST_NAME, MANIFEST_NAME)
            archive.writestr("vocab.json", bytes(2**22))
        declared = (bundle / "vocab.json").stat().st_size
        content = bomb.read_bytes().replace((2**22).to_bytes(4, "little"), declared.to_bytes(4, "little"))
        bomb.write_bytes(content)
        with Bundle(bomb) as opened, pytest.raises(BundleError, match=r"Bad CRC-32|SHA-256"):
            opened.tokenizer()

    def test_that_is_a_bomb_and_lies_about_what_is_packed(self, bundle: Path, tmp_path: Path) -> None:
        bomb = write_bomb(bundle, tmp_path)
        with zipfile.ZipFile(bomb) as archive:
            packed = archive.getinfo("vocab.json").compress_size
        content = bomb.read_bytes().replace(packed.to_bytes(4, "little"), (2**21).to_bytes(4, "little"))
        bomb.write_bytes(content)
        with Bundle(bomb) as opened, pytest.raises(BundleError, match=r"in a decompression bomb|Overlapped entries"):
            opened.tokenizer()

    def test_that_is_a_bomb_and_whose_manifest_says_so(self, zipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bundle_module, "MAX_VOCABULARY_BYTES", 10)
        with Bundle(zipped) as bundle, pytest.raises(BundleError, match="at most 10 are read"):
            bundle.tokenizer()

    @pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
    def test_that_is_cut(self, zipped: Path, keep: float) -> None:
        content = zipped.read_bytes()
        zipped.write_bytes(content[: int(keep * len(content)) if keep < 1 else int(keep)])
        with pytest.raises(BundleError, match=r"tiny\.zip: neither a folder nor a readable \.zip"):
            Bundle(zipped)

    def test_with_a_flipped_bit_anywhere(self, zipped: Path) -> None:
        whole = zipped.read_bytes()
        for position in range(0, len(whole), max(1, len(whole) // 150)):
            zipped.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
            try:
                read_everything(zipped)  # a flipped time stamp is harmless
            except BundleError as error:
                assert str(zipped) in str(error)  # noqa: PT017

    def test_without_a_file(self, bundle: Path, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "part.zip", "w") as archive:
            archive.write(bundle / MANIFEST_NAME, MANIFEST_NAME)
        with Bundle(tmp_path / "part.zip") as opened, pytest.raises(BundleError, match=r"vocab\.json: missing"):
            opened.tokenizer()

    def test_without_a_manifest(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
            archive.writestr("readme.txt", "hello")
        with pytest.raises(BundleError, match=r"manifest\.json: missing"):
            Bundle(tmp_path / "other.zip")

    def test_is_closed_when_its_manifest_is_bad(self, tmp_path: Path) -> None:
        # An open file would be a ResourceWarning, and that an error.
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
            archive.writestr(MANIFEST_NAME, "{}")
        with pytest.raises(BundleError, match="schema version missing"):
            Bundle(tmp_path / "bad.zip")


def test_a_file_that_is_no_zip(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a zip")
    with pytest.raises(BundleError, match=r"neither a folder nor a readable .zip"):
        Bundle(tmp_path / "model.onnx")


def test_what_is_handed_over_is_what_was_checked(own_bundle: Path) -> None:
    """The bytes come from one read: a file that is replaced afterwards changes nothing."""
    with Bundle(own_bundle) as bundle:
        entry = bundle.manifest.tokenizer.file
        content = bundle.read(entry)
        (own_bundle / entry.path).write_bytes(b"[]")
        assert msgspec.json.decode(content) == list(WORDS)
        with pytest.raises(BundleError, match="damaged or replaced"):
            bundle.read(entry)
