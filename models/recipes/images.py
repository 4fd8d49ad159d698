"""What is done to images of digits: small moves while training, and damage a model should be unsure about."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.recipes.data import Floats

SIDE = 8
NOISE_STD = 1.0
"""Standard deviation of the pixel noise in training, in pixel values (of 0 to 16)."""
MOVED_SHARE = 0.5
"""Share of the training images that are moved."""


def jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Training images, half of them moved by up to one pixel each way over empty paper, with Gaussian pixel noise.

    Args:    images: (rows, 64) or (rows, 1, 8, 8), pixel values.
    Returns: the same shape.
    """
    rows = len(images)
    padded = torch.nn.functional.pad(images.reshape(rows, SIDE, SIDE), (1, 1, 1, 1))
    moves = torch.randint(0, 3, (2, rows), generator=generator)
    stays = torch.rand(rows, generator=generator) >= MOVED_SHARE
    top, left = torch.where(stays, 1, moves)
    steps = torch.arange(SIDE)
    down = (top[:, None] + steps)[:, :, None]
    right = (left[:, None] + steps)[:, None, :]
    moved = padded[torch.arange(rows)[:, None, None], down, right]  # (rows, 8, 8)
    noise = torch.randn(moved.shape, generator=generator)
    return (moved + NOISE_STD * noise).reshape(images.shape)


def permuted_pixels(images: Floats, seed: int) -> Floats:
    """Each image with its 64 pixels in a random order of its own: the same ink, no digit.

    Args:    images: (rows, 64) or (rows, 1, 8, 8). The permutations depend on the seed and the row's place alone.
    Returns: the same shape.
    """
    generator = np.random.default_rng(seed)
    flat = images.reshape(len(images), -1)
    return np.stack([row[generator.permutation(row.size)] for row in flat]).reshape(images.shape)


def half_erased(images: Floats, seed: int) -> Floats:
    """Each image with one half (top, bottom, left or right, drawn a row) set to 0, empty paper.

    Args:    images: (rows, 64) or (rows, 1, 8, 8). The halves depend on the seed and the row's place alone.
    Returns: the same shape.
    """
    half = SIDE // 2
    halves = (np.s_[:half, :], np.s_[half:, :], np.s_[:, :half], np.s_[:, half:])
    erased = images.reshape(-1, SIDE, SIDE).copy()
    for image, drawn in zip(erased, np.random.default_rng(seed).integers(0, len(halves), len(erased)), strict=True):
        image[halves[drawn]] = 0.0
    return erased.reshape(images.shape)
