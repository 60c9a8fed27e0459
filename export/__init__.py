"""Turns a trained DM-GAN into a bundle that `dmgan_runtime` serves."""
