"""Comparison methods with one interface: ``impute(data, *, seed)`` gives an `Estimate` of every entry."""

from collections.abc import Callable

from stmcdi_cli.baselines import (
    expression_neighbors,
    factor_analysis,
    gan,
    gene_mean,
    idw,
    kriging,
    mlp,
    soft_impute,
    spatial_neighbors,
    vae,
)
from stmcdi_cli.baselines.base import DenseTissue, Estimate

METHODS: dict[str, Callable[..., Estimate]] = {
    "gene-mean": gene_mean.impute,
    "spatial-neighbors": spatial_neighbors.impute,
    "expression-neighbors": expression_neighbors.impute,
    "idw": idw.impute,
    "kriging": kriging.impute,
    "soft-impute": soft_impute.impute,
    "factor-analysis": factor_analysis.impute,
    "gan": gan.impute,
    "vae": vae.impute,
    "mlp": mlp.impute,
}

WITH_NEIGHBORS = ("spatial-neighbors", "expression-neighbors", "idw")
"""Methods that take `n_neighbors`."""

__all__ = ["METHODS", "WITH_NEIGHBORS", "Estimate", "DenseTissue"]
