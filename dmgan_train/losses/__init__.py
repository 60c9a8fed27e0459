"""The losses, one small file each."""

from dmgan_train.losses.adversarial import DiscriminatorLoss, discriminator_loss, generator_adversarial_loss
from dmgan_train.losses.conditioning import conditioning_loss
from dmgan_train.losses.contrastive import contrastive_loss
from dmgan_train.losses.damsm import MatchingLoss, damsm_sentence_loss, damsm_word_loss, word_similarities
from dmgan_train.losses.gradient_penalty import r1_penalty
from dmgan_train.losses.reconstruction import perceptual_loss, reconstruction_loss

__all__ = [
    "DiscriminatorLoss",
    "MatchingLoss",
    "conditioning_loss",
    "contrastive_loss",
    "damsm_sentence_loss",
    "damsm_word_loss",
    "discriminator_loss",
    "generator_adversarial_loss",
    "perceptual_loss",
    "r1_penalty",
    "reconstruction_loss",
    "word_similarities",
]
