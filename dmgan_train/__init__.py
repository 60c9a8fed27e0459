"""Trains DM-GAN (Zhu et al., CVPR 2019) in PyTorch."""

from importlib.metadata import version

__version__ = version("dmgan")
