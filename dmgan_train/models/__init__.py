"""The networks of DM-GAN and of DAMSM."""

from dmgan_train.models.conditioning import Condition, ConditioningAugmentation
from dmgan_train.models.discriminator import Discriminator, build_discriminators
from dmgan_train.models.dynamic_memory import DynamicMemory, MemoryOutput
from dmgan_train.models.generator import GeneratorNetwork, GeneratorOutput, InitialStage, RefinementStage, valid_words
from dmgan_train.models.image_encoder import ImageEncoder, ImageFeatures
from dmgan_train.models.text_encoder import TextEncoder, TextEncoderOutput

__all__ = [
    "Condition",
    "ConditioningAugmentation",
    "Discriminator",
    "DynamicMemory",
    "GeneratorNetwork",
    "GeneratorOutput",
    "ImageEncoder",
    "ImageFeatures",
    "InitialStage",
    "MemoryOutput",
    "RefinementStage",
    "TextEncoder",
    "TextEncoderOutput",
    "build_discriminators",
    "valid_words",
]
