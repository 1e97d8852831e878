"""gimVI with its defaults (200 epochs), on counts: the decoder's rates of the hidden genes at the panel's spots.

Genes without a count on either side, which it refuses, are left out, and so are spots without any: those get means.
"""

import anndata as ad
import numpy as np
import pair
import scipy.sparse as sp
import scvi


def predict(both: pair.Pair) -> np.ndarray:
    scvi.settings.seed = 0
    cells = ad.AnnData(sp.csr_matrix(np.hstack([both.reference, both.reference_hidden]), dtype=np.float32))
    spots = ad.AnnData(sp.csr_matrix(both.counts, dtype=np.float32))
    cells.var_names, spots.var_names = [*both.genes, *both.hidden], both.genes
    for side in (cells, spots):
        scvi.external.GIMVI.setup_anndata(side)
    model = scvi.external.GIMVI(cells, spots)
    model.train(accelerator="cpu", enable_progress_bar=False)
    _, rates = model.get_imputed_values(normalized=True)
    totals = rates[:, : len(both.genes)].sum(1, keepdims=True)
    return np.log1p(rates[:, len(both.genes) :] / totals * np.median(both.counts.sum(1)))


pair.run(predict)
