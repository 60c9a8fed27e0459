"""Both encoders of DAMSM, as a run's settings describe them."""

from __future__ import annotations

from dmgan_train.models.image_encoder import ImageEncoder
from dmgan_train.models.text_encoder import TextEncoder
from dmgan_train.models.trunks import build_trunk
from dmgan_train.settings import Settings


def build_encoders(settings: Settings, vocabulary_size: int) -> tuple[TextEncoder, ImageEncoder]:
    """Text and image encoder with fresh weights; the trunk's are not loaded yet."""
    damsm = settings.damsm
    trunk = build_trunk(damsm.trunk, damsm.trunk_resolution)
    features = settings.model.text_features
    image_encoder = ImageEncoder(trunk, damsm.trunk_resolution, features, freeze_trunk=damsm.freeze_trunk)
    return TextEncoder(vocabulary_size, settings.model, damsm.dropout), image_encoder
