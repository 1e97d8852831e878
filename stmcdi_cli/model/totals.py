"""A tissue whose spots were scaled to another median total than those that a model was trained on.

`normalize` divides by each file's own median total. The model's rates are counts at the depth of its own tissue's
median spot; a spot of that depth may have twice as many counts in another tissue. The rates are multiplied by the ratio
of the median totals. Where these are not on record, or are totals of other genes, the ratio is estimated.
"""

import copy
import logging

import numpy as np
import torch

from stmcdi_cli.model.base import ImputationModel
from stmcdi_cli.model.latent.factor_model import SpatialFactorModel
from stmcdi_cli.model.latent.model import LatentModel
from stmcdi_cli.model.tissue import Tissue
from stmcdi_cli.provenance import FAR_TOTALS, Totals

logger = logging.getLogger(__name__)

_LEAST_ESTIMATED = 2.0
"""Ratio below which an estimate is not used: genes may differ as much because the tissues do."""
_SAME_GENES = 1.25
"""Ratio of the numbers of genes up to which totals are of the same genes, but for some that are hardly seen."""
_SD = 0.5  # of the log ratio between the rates of a gene in two tissues
_BLOCKS, _BLOCK = 16, 128  # runs of spots to look at, and spots in each


def on_totals_of(model: ImputationModel, tissue: Tissue, *, quiet: bool = False) -> ImputationModel:
    """Give the model with the rates that its genes have in a tissue: the same one where the totals are alike.

    Parameters
    ----------
    model
        A trained model. It is not changed.
    tissue
        The tissue to impute, with the model's genes on the model's scale.
    quiet
        Say nothing of a ratio that intervals can do with.
    """
    if tissue.count_scale is None:
        return model
    ratio = _recorded_ratio(model, tissue)
    if not isinstance(model, LatentModel):
        if ratio is not None and not 1 / FAR_TOTALS < ratio < FAR_TOTALS:
            logger.warning(
                "impute: spots were scaled to %.3g times the median total of those that the model was trained on; a "
                "model of this variant cannot follow: train one on this tissue",
                ratio,
            )
        return model
    if ratio is None:
        ratio = ratio_of_totals(tissue.target, model.branches[0].encoder.rate.numpy())
        if 1 / _LEAST_ESTIMATED < ratio < _LEAST_ESTIMATED:
            return model
    if ratio == 1:
        return model
    said = "impute: for its scale, this tissue has %.4g times the counts of the one that the model was trained on"
    if not 1 / FAR_TOTALS < ratio < FAR_TOTALS:
        logger.warning(f"{said}: rates follow, intervals may not; a model of its own is better", ratio)
    elif not quiet:
        logger.info(f"{said}: rates follow", ratio)
    other = copy.copy(model)
    other.config = model.config | {"ratio_of_totals": ratio}
    other.branches = [
        branch.with_encoder(_scaled(branch.encoder, ratio, tissue.count_scale)) for branch in model.branches
    ]
    return other


def _recorded_ratio(model: ImputationModel, tissue: Tissue) -> float | None:
    """Ratio of the median totals of a tissue and of the one a model was trained on, if they are of the same genes."""
    own = Totals.of(model.config.get("median_total"), model.config.get("n_genes_of_totals"))
    if own is None or tissue.totals is None:  # of an earlier version, or of another program
        return None
    few, many = sorted((own.n_genes, tissue.totals.n_genes))
    if isinstance(panel := model.config.get("panel"), list):  # with a reference totals are of the panel's genes
        measured, here = set(map(str, panel)), set(np.array(tissue.genes)[tissue.target.n_visible > 0].tolist())
        few, many = min(few, len(measured & here)), max(many, len(measured | here))
    return tissue.totals.median / own.median if many <= _SAME_GENES * few else None


def ratio_of_totals(tissue: Tissue, rate: np.ndarray) -> float:
    """How many times the counts that rates [G] let expect at their depths the spots of a tissue have.

    The median over genes: some may be far more or less active in this tissue. The weight of a gene is the precision of
    its log ratio, 1 / (1 / n + sd^2) with n counts expected and a deviation `_SD` of its own.
    """
    found, expected = np.zeros((2, tissue.n_genes))
    for first in np.unique(np.linspace(0, max(0, tissue.n_spots - _BLOCK), _BLOCKS).astype(int)):
        part = tissue.rows(slice(first, min(first + _BLOCK, tissue.n_spots))).in_memory()
        found += np.asarray(part.counts().sum(0)).ravel()
        expected += rate * (part.depth.sum() - part.missing.T @ part.depth)
    log_ratio = np.log((found + 0.5) / (expected + 0.5))
    order = np.argsort(log_ratio)
    share = np.cumsum((expected / (1 + _SD**2 * expected))[order])
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
