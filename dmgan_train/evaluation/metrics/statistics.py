"""Mean and covariance of the features of many pictures, in the file that the field keeps them in.

pytorch-fid and the tools before it write an .npz with `mu` [D] and `sigma` [D, D]. It does not say of which network or
of which pictures it is: `dmgan_train.published` knows some, and those that are written here say it.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmgan_runtime.errors import DataError, shortened
from dmgan_train.evaluation.metrics.features import FeatureNetwork
from dmgan_train.published import find_file
from dmgan_train.run_folder import write_whole

_HEADER = 4096  # bytes of an array's header, and more
_ASYMMETRY = 1e-5  # of the largest covariance; float32 rounds to 6e-8
_NEGATIVE = 1e-5  # of the largest eigenvalue, since those of a singular matrix are rounded too


class Gaussian(NamedTuple):
    """A normal distribution of D features.

    Attributes:
        mean: [D] float64.
        covariance: [D, D] float64, divided by one less than the pictures.
    """

    mean: Tensor
    covariance: Tensor


class RealStatistics(NamedTuple):
    """Statistics of real pictures, from a file.

    Attributes:
        gaussian: What the file holds.
        name: The file's.
        sha256: The file's.
        origin: What the file says of itself: network, digest of its weights, pictures, their resolution.
    """

    gaussian: Gaussian
    name: str
    sha256: str
    origin: Mapping[str, str | int] = MappingProxyType({})

    def describe(self) -> dict[str, Any]:
        """What a protocol says: the file, and whose features it has, if the file is known."""
        known = find_file(self.sha256)
        return {"statistics": self.name, "sha256": self.sha256, **(known.describe() if known else self.origin)}

    @property
    def caution(self) -> str | None:
        """That nobody knows of which network and pictures it is, where that is so."""
        if self.origin or find_file(self.sha256):
            return None
        return f"{self.name} does not say of which network and pictures it is; it counts only if they are these"


def read_statistics(path: Path, network: FeatureNetwork) -> RealStatistics:
    """Reads an .npz of `mu` and `sigma`; nothing in it is unpickled.

    Args:
        path: The file.
        network: Sees the generated images.

    Raises:
        DataError: if it is none, is of another network, or its sigma is no covariance: not finite, not symmetric, or
            with a negative eigenvalue.
    """
    dimensions = network.dimensions()
    try:
        content = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            mean, covariance = (_read_array(archive, name, path, dimensions) for name in ("mu", "sigma"))
            origin = _read_origin(archive, path)
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(
            f"{path}: is no .npz ({shortened(error)}); pass the statistics that a FID tool wrote"
        ) from error
    expected = (dimensions,), (dimensions, dimensions)
    if (mean.shape, covariance.shape) != expected:
        raise DataError(
            f"{path}: mu is {list(mean.shape)} and sigma {list(covariance.shape)}, and the network has {dimensions:,}"
            " features; choose the network that the statistics were made with (--features)"
        )
    _check_covariance(mean, covariance, path)
    gaussian = Gaussian(torch.from_numpy(mean), torch.from_numpy(covariance))
    found = RealStatistics(gaussian, path.name, hashlib.sha256(content).hexdigest(), origin)
    known = find_file(found.sha256)
    made_with = known.features if known else origin.get("network", network.name)
    if made_with != network.name or origin.get("weights_sha256", network.sha256) != network.sha256:
        raise DataError(
            f"{path}: these are features of {made_with}, and {network.name} with the weights {network.sha256[:8]} sees"
            f" the images; pass --features {made_with}, and the weights that they were made with"
        )
    return found


def write_statistics(gaussian: Gaussian, path: Path, network: FeatureNetwork, pictures: int, resolution: int) -> None:
    """Writes `mu` and `sigma` in float64, whole or not at all, as pytorch-fid and its kin read them.

    Args:
        gaussian: What to write.
        path: The file.
        network: Whose features they are; the file says so, which other tools leave unread.
        pictures: Of how many.
        resolution: Their side, before the network scales them.
    """
    content = io.BytesIO()
    origin = {"network": network.name, "weights_sha256": network.sha256, "pictures": pictures, "resolution": resolution}
    np.savez(
        content, mu=gaussian.mean.numpy(), sigma=gaussian.covariance.numpy(), dmgan=msgspec.json.encode(origin).decode()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content.getvalue())


def _read_array(archive: zipfile.ZipFile, name: str, path: Path, dimensions: int) -> npt.NDArray[np.float64]:
    try:
        entry = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise DataError(f"{path}: has no {name!r}; the statistics of a FID tool have mu and sigma") from None
    most = 8 * dimensions**2 + _HEADER
    if entry.file_size > most:
        raise DataError(
            f"{path}: {name} has {entry.file_size:,} bytes, and of {dimensions:,} features it has at most {most:,};"
            " choose the network that the statistics were made with (--features)"
        )
    try:
        array = np.load(io.BytesIO(archive.read(entry)), allow_pickle=False)
        return np.asarray(array, dtype=np.float64)
    except (ValueError, TypeError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: {name} is no array of numbers ({shortened(error)}); fetch the file again") from error


def _read_origin(archive: zipfile.ZipFile, path: Path) -> dict[str, str | int]:
    """What `write_statistics` said of itself; nothing in other tools' files."""
    if "dmgan.npy" not in archive.namelist():
        return {}
    try:
        if archive.getinfo("dmgan.npy").file_size > _HEADER:
            raise ValueError("it is too long")
        text = str(np.load(io.BytesIO(archive.read("dmgan.npy")), allow_pickle=False))
        return msgspec.json.decode(text, type=dict[str, str | int])
    except (ValueError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: its note on itself is damaged ({shortened(error)}); make the file anew") from error


def _check_covariance(mean: npt.NDArray[np.float64], covariance: npt.NDArray[np.float64], path: Path) -> None:
    problem = None
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        problem = "holds a number that is not finite"
    elif np.abs(covariance - covariance.T).max() > _ASYMMETRY * np.abs(covariance).max():
        problem = "has a sigma that is not symmetric"
    else:
        eigenvalues = np.linalg.eigvalsh(covariance)
        if eigenvalues[0] < -_NEGATIVE * eigenvalues[-1]:
            problem = f"has a sigma with the eigenvalue {eigenvalues[0]:.3g}, and a covariance has none below 0"
    if problem:
        raise DataError(f"{path}: {problem}; fetch the file again, or make it anew")
