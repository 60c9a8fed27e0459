"""Trains DM-GAN (Zhu et al., CVPR 2019) in PyTorch."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("dmgan")
except PackageNotFoundError:  # run from a clone, as benchmarks.first_contact does
    __version__ = "0+uninstalled"
