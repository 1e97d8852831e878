"""Coordinates of the spots in which others can cluster and draw them."""

import numpy as np
import torch
from torch import Tensor


def principal_coordinates(latents: Tensor, loadings: Tensor) -> np.ndarray:
    """Rotate latents to principal axes, in units of expression: float32 [n, r].

    The distance between two spots is that of their eta over all genes, which the latents alone do not have: their
    scales and angles are arbitrary.

    Parameters
    ----------
    latents
        Values of the latents [n, r].
    loadings
        Effect of each latent on each gene [G, r].
    """
    w = loadings.double()
    values, vectors = torch.linalg.eigh(w.T @ w)
    centred = latents.double() - latents.double().mean(0)
    scaled = centred @ (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    axes = torch.linalg.eigh(scaled.T @ scaled)[1].flip(1)
    largest = axes.abs().argmax(0)
    axes = axes * torch.sign(axes[largest, torch.arange(len(largest))])  # an axis has no direction of its own
    return (scaled @ axes).float().numpy()
