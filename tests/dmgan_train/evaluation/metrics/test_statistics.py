"""Statistics of real pictures come and go in the file that other tools write; what is no covariance is refused."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from dmgan_runtime.errors import DataError
from dmgan_train.evaluation.metrics.features import FeatureNetwork, Seen
from dmgan_train.evaluation.metrics.fid import FrechetDistance
from dmgan_train.evaluation.metrics.statistics import Gaussian, read_statistics, write_statistics
from dmgan_train.published import published
from tests.dmgan_train.evaluation.metrics.network import flat_network

FEATURES = np.random.default_rng(1).normal(size=(50, 6)) @ np.random.default_rng(2).normal(size=(6, 6))
MEAN, COVARIANCE = FEATURES.mean(axis=0), np.cov(FEATURES, rowvar=False)


class Six(torch.nn.Module):
    """Six features of an image."""

    def forward(self, images: torch.Tensor) -> Seen:
        return Seen(images.flatten(1)[:, :6], images.flatten(1)[:, :2])


def network(name: str = "efficientnet_lite2", sha256: str = "0" * 64) -> FeatureNetwork:
    return FeatureNetwork(name, Six(), 8, "none", sha256, torch.device("cpu"))


def saved(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)
    return path


def distance(real: np.ndarray | Path, generated: np.ndarray) -> FrechetDistance:
    given = read_statistics(real, network()) if isinstance(real, Path) else None
    measured = FrechetDistance(6, given)
    if isinstance(real, np.ndarray):
        measured.add(torch.from_numpy(real), real=True)
    measured.add(torch.from_numpy(generated), real=False)
    return measured


def test_fid_from_statistics_is_fid_from_images(tmp_path) -> None:
    generated = FEATURES[:30] * 1.3 + 0.2
    by_images = distance(FEATURES, generated)
    by_numpy = distance(saved(tmp_path / "numpy.npz", mu=MEAN, sigma=COVARIANCE), generated)
    assert "does not say of which network" in by_numpy.result(flat_network()).protocol["caution"]
    assert by_numpy.result(flat_network()).value == pytest.approx(by_images.result(flat_network()).value, rel=1e-9)
    write_statistics(by_images.real_gaussian(), tmp_path / "ours.npz", network(), 50, 256)
    ours = distance(tmp_path / "ours.npz", generated).result(flat_network())
    assert ours.value == pytest.approx(by_images.result(flat_network()).value, rel=1e-12)
    assert ours.protocol["real_images"]["statistics"] == "ours.npz"
    assert ours.protocol["real_images"]["pictures"] == 50
    assert "caution" not in ours.protocol


@pytest.mark.parametrize("other", [network("efficientnet_lite0"), network(sha256="1" * 64)])
def test_statistics_of_another_network_are_refused(other, tmp_path) -> None:
    gaussian = Gaussian(torch.from_numpy(MEAN), torch.from_numpy(COVARIANCE))
    write_statistics(gaussian, tmp_path / "ours.npz", network(), 50, 256)
    with pytest.raises(DataError, match=r"features of efficientnet_lite2, .* pass --features efficientnet_lite2"):
        read_statistics(tmp_path / "ours.npz", other)


def test_published_statistics_are_those_of_their_network(tmp_path, monkeypatch) -> None:
    path = saved(tmp_path / "bird_val.npz", mu=MEAN, sigma=COVARIANCE)
    known = next(file for file in published().files if file.role == "real statistics")
    monkeypatch.setattr("dmgan_train.evaluation.metrics.statistics.find_file", lambda _: known)
    assert read_statistics(path, network("inception_v3")).caution is None
    with pytest.raises(DataError, match="pass --features inception_v3,"):
        read_statistics(path, network("inception_v3_fid"))


def test_what_is_written_is_what_others_read(tmp_path) -> None:
    gaussian = Gaussian(torch.from_numpy(MEAN), torch.from_numpy(COVARIANCE))
    write_statistics(gaussian, tmp_path / "new folder" / "s.npz", network(), 50, 256)
    with np.load(tmp_path / "new folder" / "s.npz", allow_pickle=False) as file:
        assert set(file) == {"mu", "sigma", "dmgan"}
        np.testing.assert_array_equal(file["mu"], MEAN)
        np.testing.assert_array_equal(file["sigma"], COVARIANCE)


def test_float32_and_compressed_files_are_read(tmp_path) -> None:
    path = tmp_path / "small.npz"
    np.savez_compressed(path, mu=MEAN.astype(np.float32), sigma=COVARIANCE.astype(np.float32), count=50)
    found = read_statistics(path, network())
    assert found.gaussian.covariance.dtype == torch.float64
    np.testing.assert_allclose(found.gaussian.covariance, COVARIANCE, rtol=1e-6)
    assert len(found.sha256) == 64


class Opened:
    """What unpickling must never make."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path("opened").touch, ())


ASYMMETRIC = COVARIANCE + np.triu(np.full((6, 6), 0.1))
REFUSED = {
    "no mu": ({"sigma": COVARIANCE}, "has no 'mu'"),
    "no sigma": ({"mu": MEAN}, "has no 'sigma'"),
    "other features": ({"mu": MEAN[:5], "sigma": COVARIANCE[:5, :5]}, "mu is .5. and sigma .5, 5., and .* 6 features"),
    "more features": ({"mu": np.zeros(900), "sigma": np.eye(900)}, "choose the network"),
    "not finite": ({"mu": np.where(MEAN[0] == MEAN, np.nan, MEAN), "sigma": COVARIANCE}, "not finite"),
    "not symmetric": ({"mu": MEAN, "sigma": ASYMMETRIC}, "not symmetric"),
    "not definite": ({"mu": MEAN, "sigma": COVARIANCE - 9 * np.eye(6)}, "has the eigenvalue|the eigenvalue -"),
    "text": ({"mu": MEAN, "sigma": np.full((6, 6), "x")}, "no array of numbers"),
    "pickled": ({"mu": MEAN, "sigma": np.array([Opened()] * 6, dtype=object)}, "no array of numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_covariance_is_refused(case, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    arrays, message = REFUSED[case]
    with pytest.raises(DataError, match=rf"bad\.npz: .*({message})"):
        read_statistics(saved(tmp_path / "bad.npz", **arrays), network())
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY", json.dumps({"mu": [0]}).encode()])
def test_what_is_no_npz_is_refused(content, tmp_path) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"is no \.npz"):
        read_statistics(tmp_path / "bad.npz", network())


def test_a_file_that_would_fill_the_memory_is_not_unpacked(tmp_path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**3)})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mu.npy", header.getvalue() + bytes(10**7))
        archive.writestr("sigma.npy", b"")
    with pytest.raises(DataError, match=r"mu has 10,000,.* bytes"):
        read_statistics(tmp_path / "bomb.npz", network())
