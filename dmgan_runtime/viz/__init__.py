"""Pictures of what a generator made: grids, and the memory at work."""

from dmgan_runtime.viz.attention import draw_attention, draw_top_words
from dmgan_runtime.viz.pictures import grid, save

__all__ = ["draw_attention", "draw_top_words", "grid", "save"]
