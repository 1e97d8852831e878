"""A model applied to a tissue of another depth, or to another tissue: ``python -m benchmarks.other_tissue``.

The table of docs/steps/impute.md. Each tissue is normalised by itself; the 400 most variable genes of the one that the
model is trained on are kept in both, and a fifth of the entries is hidden. Prints the ratio of the totals, the skill of
the other tissue's model with and without it, and that of a model of its own.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp

import stmcdi_cli as stmcdi
from benchmarks import cells

N_GENES, KEPT = 400, 0.3
OPTIONS = {"device": "cpu", "quiet": True}


def main() -> None:
    print("trained on -> imputed", "ratio", "skill", "without the ratio", "of its own", sep="\t")
    for name, one, other in pairs():
        print(name, *(f"{figure:.3f}" for figure in compared(one, other)), sep="\t", flush=True)


def pairs() -> Iterator[tuple[str, ad.AnnData, ad.AnnData]]:
    """Yield a name, the tissue to train on and the one to impute; each pair both ways."""
    whole = _tissue("mob_rep11")
    thinned = whole.copy()
    kept = np.random.default_rng(0).binomial(whole.X.data.astype(int), KEPT).astype(np.float32)
    thinned.X = sp.csr_matrix((kept, whole.X.indices.copy(), whole.X.indptr.copy()), shape=whole.shape)
    thinned.X.eliminate_zeros()
    heart, prostate = _tissue("heart_dev_8sections"), _tissue("visium_prostate_normal_cancer_1255genes")
    both = [
        ("mob_rep11", whole, "the same, thinned", thinned),
        ("heart 4", _section(heart, "4_CN73_C2"), "heart 9", _section(heart, "9_CN74_C1")),
        ("prostate, cancer", _section(prostate, "CP"), "prostate, normal", _section(prostate, "NP")),
    ]
    for name, one, other_name, other in both:
        yield f"{name} -> {other_name}", one, other
        yield f"{other_name} -> {name}", other, one


def compared(one: ad.AnnData, other: ad.AnnData) -> tuple[float, float, float, float]:
    """Ratio of the totals of two tissues, and skill on the other: with it, without it, and of a model of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        masked, _ = _prepared(one, None)
        model = stmcdi.train(masked, Path(scratch) / "model", **OPTIONS)
        genes = list(masked.var_names)
        masked, truth = _prepared(other, genes)
        unscaled = masked.copy()  # as if both had been scaled to one total
        parameters = unscaled.uns["stmcdi"]["normalize"]["parameters"]
        ratio = parameters["median_total"] / model.config["median_total"]
        parameters |= {"median_total": model.config["median_total"], "n_genes": model.config["n_genes_of_totals"]}
        own = stmcdi.train(masked, Path(scratch) / "own", **OPTIONS)
        skills = [
            stmcdi.evaluate(stmcdi.impute(data, of, n_samples=20, **OPTIONS), truth)["skill"]
            for data, of in ((masked, model), (unscaled, model), (masked, own))
        ]
    return ratio, *skills


def _tissue(name: str) -> ad.AnnData:
    adata = ad.read_h5ad(cells.SHARED / "data" / f"{name}.h5ad")
    adata.X = sp.csr_matrix(adata.X)
    return adata


def _section(adata: ad.AnnData, name: str) -> ad.AnnData:
    return adata[adata.obs["section"].astype(str) == name].copy()


def _prepared(adata: ad.AnnData, genes: list[str] | None) -> tuple[ad.AnnData, ad.AnnData]:
    normalized = stmcdi.normalize(adata)
    chosen = stmcdi.select_hvg(normalized, **({"n_genes": N_GENES} if genes is None else {"genes": genes}))
    return stmcdi.hold_out(stmcdi.build_graph(chosen), fraction=0.2, seed=1)


if __name__ == "__main__":
    main()
