"""Pictures of what a generator made: grids, the memory at work, and files of them."""

from dmgan_runtime.image_file import encode, save
from dmgan_runtime.viz.attention import draw_attention, draw_top_words
from dmgan_runtime.viz.pictures import grid

__all__ = ["draw_attention", "draw_top_words", "encode", "grid", "save"]
