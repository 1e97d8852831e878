"""What an imputation leaves in a file; it no longer holds once the values, or what filled them, are others."""

from typing import TYPE_CHECKING

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.io.h5ad import copy_without

if TYPE_CHECKING:
    from anndata import AnnData

LAYERS = (keys.IMPUTED, keys.IMPUTED_SD, keys.IMPUTED_MEDIAN, keys.IMPUTED_Q05, keys.IMPUTED_Q95)
_LATENTS = (keys.LATENTS, keys.SMOOTH_LATENTS)
_COLUMNS = (keys.LEFT_OUT_R, keys.LEFT_OUT_EXPECTED_R)
_STEPS = ("train", "impute", "baseline")


def results_in(adata: "AnnData") -> list[str]:
    """Name the layers and latents of an earlier imputation."""
    layers = [f"layers['{name}']" for name in LAYERS if name in adata.layers]
    return layers + [f"obsm['{name}']" for name in _LATENTS if name in adata.obsm]


def without_results(adata: "AnnData") -> "AnnData":
    """Give a copy without the layers, latents, columns of ``var`` and records of an earlier imputation."""
    copy = copy_without(adata, LAYERS)
    for name in _LATENTS:
        copy.obsm.pop(name, None)
    copy.var = copy.var.drop(columns=list(_COLUMNS), errors="ignore")
    if keys.PROVENANCE in copy.uns:
        copy.uns[keys.PROVENANCE] = {k: v for k, v in copy.uns[keys.PROVENANCE].items() if k not in _STEPS}
    return copy
