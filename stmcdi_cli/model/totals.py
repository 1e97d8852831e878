"""A tissue whose spots were scaled to another median total than those that a model was trained on.

`normalize` divides by each file's own median total. The model's rates are counts at the depth of its own tissue's
median spot; a spot of that depth may have twice as many counts in another tissue. The rates are multiplied by that.
"""

import copy
import logging
import math

import numpy as np
import torch

from stmcdi_cli.model.base import ImputationModel
from stmcdi_cli.model.latent.factor_model import SpatialFactorModel
from stmcdi_cli.model.latent.model import LatentModel
from stmcdi_cli.model.tissue import Tissue

logger = logging.getLogger(__name__)

_LEAST, _LEAST_UNRECORDED = 1.05, 1.5
"""Ratios of totals below which nothing is changed: one tissue's parts, too, differ a little; and where a file does not
say to which total it was scaled, composition may be the reason for more."""
_BLOCKS, _BLOCK = 16, 128  # runs of spots to look at, and spots in each


def on_totals_of(model: ImputationModel, tissue: Tissue) -> ImputationModel:
    """Give the model with the rates that its genes have in a tissue: the same one where the totals are alike.

    Parameters
    ----------
    model
        A trained model. It is not changed.
    tissue
        The tissue to impute, with the model's genes on the model's scale.
    """
    own, total = model.config.get("median_total"), tissue.median_total
    between = total / own if isinstance(own, float) and own > 0 and total else None
    if tissue.count_scale is None or between == 1:
        return model
    if not isinstance(model, LatentModel):
        if between and abs(math.log(between)) > math.log(_LEAST_UNRECORDED):
            logger.warning(
                "impute: spots were scaled to a median total of %.6g, those that the model was trained on to %.6g; a "
                "model of this variant cannot follow: train one on this tissue",
                total,
                own,
            )
        return model
    ratio = ratio_of_totals(tissue.target, model.branches[0].encoder.rate.numpy())
    if abs(math.log(ratio)) < math.log(_LEAST if between else _LEAST_UNRECORDED):
        return model
    logger.info(
        "impute: for its scale, this tissue has %.3g times the counts of the one that the model was trained on: rates "
        "are multiplied by that",
        ratio,
    )
    other = copy.copy(model)
    other.config = model.config | {"ratio_of_totals": ratio}
    other.branches = [
        branch.with_encoder(_scaled(branch.encoder, ratio, tissue.count_scale)) for branch in model.branches
    ]
    return other


def ratio_of_totals(tissue: Tissue, rate: np.ndarray) -> float:
    """How many times the counts that rates [G] let expect at their depths the spots of a tissue have.

    The median over genes, weighted by their expected counts: some genes may be more or less active in this tissue.
    """
    found, expected = np.zeros((2, tissue.n_genes))
    for first in np.unique(np.linspace(0, max(0, tissue.n_spots - _BLOCK), _BLOCKS).astype(int)):
        some = np.arange(first, min(first + _BLOCK, tissue.n_spots))
        part = tissue.at(some)
        found += np.asarray(part.counts().sum(0)).ravel()
        expected += rate * (part.depth.sum() - part.missing.T @ part.depth)
    log_ratio = np.log((found + 0.5) / (expected + 0.5))
    order = np.argsort(log_ratio)
    share = np.cumsum(expected[order])
    if share[-1] <= 0:
        return 1.0
    return float(np.exp(log_ratio[order][np.searchsorted(share, share[-1] / 2)]))


def _scaled(encoder: SpatialFactorModel, ratio: float, scale: str) -> SpatialFactorModel:
    """Give a factor model with all rates multiplied; of the gaussian link, mean and standard deviation follow."""
    other = copy.copy(encoder)
    if encoder.link == "gaussian" and scale == "log1p":
        mean = torch.expm1(encoder.rate)
        other.rate = torch.log1p(ratio * mean)
        other.scale = encoder.scale * ratio * (1 + mean) / (1 + ratio * mean)
    else:
        other.rate = encoder.rate * ratio
        other.scale = encoder.scale * ratio if encoder.link == "gaussian" else encoder.scale
    return other
