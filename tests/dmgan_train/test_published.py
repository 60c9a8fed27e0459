"""Published files are recognised by their digests alone."""

import hashlib

import msgspec
import pytest

from dmgan_train import published
from dmgan_train.published import find_file, introduce


def test_the_table_is_whole() -> None:
    table = published.published()
    digests = [file.sha256 for file in table.files]
    assert len(set(digests)) == len(digests) == 7
    known = set(digests)
    for result in table.results:
        assert {result.generator, result.statistics, *(result.judge or ())} <= known | {None}
        assert result.fid
        assert result.r_precision


def test_the_disentangled_successor_takes_the_mean() -> None:
    found = find_file("e905baaffb54d2247f27146c7810aacd9bb707916d2163d90d62f3aa55bb98e1")
    assert found
    assert (found.role, found.condition) == ("generator", "mean")


@pytest.fixture
def known_as_dmgan(tmp_path, monkeypatch):
    """A file that the table takes for DM-GAN's generator."""
    path = tmp_path / "any name.pth"
    path.write_bytes(b"weights")
    own = hashlib.sha256(b"weights").hexdigest()
    table = published.published()
    old = table.files[0].sha256
    files = (table.files[0].__replace__(sha256=own), *table.files[1:])
    results = tuple(row.__replace__(generator=own) if row.generator == old else row for row in table.results)
    changed = msgspec.structs.replace(table, files=files, results=results)
    monkeypatch.setattr(published, "published", lambda: changed)
    return path


def test_a_known_file_is_introduced_with_its_licence_and_its_numbers(known_as_dmgan) -> None:
    said = introduce(known_as_dmgan)
    assert said
    assert said.startswith("any name.pth: is DM-GAN's generator for birds, from https://github.com/MinfengZhu/DM-GAN")
    assert "licence: MIT for its code" in said
    assert "FID 15.34" in said
    assert "17.17" not in said  # its numbers with the mean condition, which it does not take


def test_another_file_is_not(tmp_path) -> None:
    (tmp_path / "netG.pth").write_bytes(b"others")
    assert introduce(tmp_path / "netG.pth") is None
