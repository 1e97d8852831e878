"""TISSUE (tissue-sc) around SpaGE, with 90 % intervals, as its README goes about it; on log1p expression of both sides.

SpaGE with 30 principal vectors, at most half as many as genes; visible genes left out in ten folds; a graph of 15
neighbours; stratified grouping with numbers of groups found by itself; symmetric intervals, as by default.
"""

import anndata as ad
import numpy as np
import pair
from tissue.main import (
    build_spatial_graph,
    conformalize_prediction_interval,
    conformalize_spatial_uncertainty,
    predict_gene_expression,
)

PREDICTED = "spage_predicted_expression"


def predict(both: pair.Pair) -> tuple[np.ndarray, ...]:
    spots = ad.AnnData(both.x, obsm={"spatial": both.spatial})
    cells = ad.AnnData(np.hstack([both.reference_x, both.reference_hidden_x]))
    genes, hidden = ([name.lower() for name in names] for names in (both.genes, both.hidden))  # it does so itself
    spots.var_names, cells.var_names = genes, genes + hidden
    n_pv = min(30, len(genes) // 2)
    predict_gene_expression(spots, cells, hidden, method="spage", n_folds=10, n_pv=n_pv)
    build_spatial_graph(spots, method="fixed_radius", n_neighbors=15)
    conformalize_spatial_uncertainty(spots, PREDICTED, genes, grouping_method="kmeans_gene_cell")
    conformalize_prediction_interval(spots, PREDICTED, genes, alpha_level=0.1)
    return tuple(spots.obsm[PREDICTED + end][hidden].to_numpy() for end in ("", "_lo", "_hi"))


pair.run(predict)
