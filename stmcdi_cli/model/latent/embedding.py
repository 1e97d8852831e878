"""Coordinates of the spots in which others can cluster and draw them."""

import numpy as np
import torch
from torch import Tensor

from stmcdi_cli.model.latent.factor_model import SpatialFactorModel


def standardised_loadings(encoder: SpatialFactorModel) -> Tensor:
    """Loadings in units of the genes' standard deviations over spots of median depth [G, r].

    What varies is eta with the latents, and the observed value around it. A gene that is noise for the most part has
    small ones, however large its fold changes.
    """
    _, slope, variance = (moment[0] for moment in encoder.moments(np.ones(1)))
    weight = float(encoder.weight_of_depth(np.ones(1))[0])
    noise = encoder.psi * variance / (weight * slope**2)
    loadings = encoder.loadings[:, :-1]
    of_latents = loadings**2 @ (encoder.field.variance + encoder.field.nugget)
    return loadings / (of_latents + noise).sqrt()[:, None]


def principal_coordinates(latents: Tensor, loadings: Tensor) -> np.ndarray:
    """Rotate latents to principal axes, in units of what the loadings give: float32 [n, r].

    The distance between two spots is that of their eta over all genes, in the units of the loadings, which the latents
    alone do not have: their scales and angles are arbitrary.

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
