"""Painted birds with true captions, laid out as CUB-200-2011 is: a data set to try everything with, made in seconds."""

from dmgan_train.data.prepare.synthetic.anatomy import SIDE, bounding_box, cropped_points, part_points
from dmgan_train.data.prepare.synthetic.backdrop import BACKGROUND_COLOURS
from dmgan_train.data.prepare.synthetic.birds import (
    BACKGROUNDS,
    BILL_COLOURS,
    BILL_SHAPES,
    PARTS,
    SIZES,
    Bird,
    Plumage,
    Pose,
)
from dmgan_train.data.prepare.synthetic.colours import PALETTE, nearest_colour
from dmgan_train.data.prepare.synthetic.layout import MIN_COUNT, paint_dataset, species_of
from dmgan_train.data.prepare.synthetic.painter import paint

__all__ = [
    "BACKGROUNDS",
    "BACKGROUND_COLOURS",
    "BILL_COLOURS",
    "BILL_SHAPES",
    "MIN_COUNT",
    "PALETTE",
    "PARTS",
    "SIDE",
    "SIZES",
    "Bird",
    "Plumage",
    "Pose",
    "bounding_box",
    "cropped_points",
    "nearest_colour",
    "paint",
    "paint_dataset",
    "part_points",
    "species_of",
]
