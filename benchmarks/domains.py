"""Do clusters agree with an annotation? ``python -m benchmarks.domains [--cases NAME ...] [--peers NAME ...]``.

Nothing is hidden. Clusters are those of k-means on up to 15 principal components, as many as there are labels; the
figure is the adjusted Rand index, the mean over five seeds of k-means. Prints a line for each thing clustered on.
Any other file of counts: ``--cases FILE.h5ad:COLUMN``, with the column of ``obs`` that has its labels.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

import stmcdi_cli as stmcdi
from benchmarks import cells, methods
from benchmarks.scoring import dense
from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.io.h5ad import write_h5ad

LABELS = {"heart_dev_8sections": "region", "starmap_visual_cortex": "cluster_name"}
"""Annotated tissues, and the column of ``obs`` with the annotation: domains of the tissue, and types of its cells."""
SEEDS = range(5)
COMPONENTS = 15
NO_LABEL = ("nan", "NA", "")
"""Spots without an annotation, also where a file has that as text."""
PEERS = ("stagate", "graphst", "magic-20")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(LABELS), metavar="NAME|FILE:COLUMN")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    options = parser.parse_args()
    for case in options.cases:
        file, _, column = case.rpartition(":")
        path = Path(file) if file else cells.SHARED / "data" / f"{case}.h5ad"
        for label, index in agreement(ad.read_h5ad(path), LABELS.get(case, column), options.peers):
            print(path.stem, label, f"{index:.3f}", sep="\t", flush=True)


def agreement(adata: ad.AnnData, column: str, peers: list[str]) -> Iterator[tuple[str, float]]:
    """Yield what is clustered on, and how well its clusters agree with the labels in a column of ``obs``."""
    adata = stmcdi.select_hvg(stmcdi.normalize(adata))
    adata = stmcdi.build_graph(adata, section_key="section" if "section" in adata.obs else None)
    labels = adata.obs[column].astype(str).to_numpy()
    known = ~np.isin(labels, NO_LABEL)

    def index(values: np.ndarray) -> float:
        few = values if values.shape[1] <= COMPONENTS else PCA(COMPONENTS, random_state=0).fit_transform(values)
        n = len(np.unique(labels[known]))
        clusters = (KMeans(n, n_init=10, random_state=seed).fit_predict(few[known]) for seed in SEEDS)
        return float(np.mean([adjusted_rand_score(labels[known], each) for each in clusters]))

    x, graph = dense(adata.X), adata.obsp[keys.CONNECTIVITIES]
    yield "measured values", index(x)
    around = sp.csr_matrix((graph + graph.T > 0) + sp.eye(len(x)), dtype=float)
    yield "mean of a spot with its neighbours", index(np.asarray(around @ x) / np.asarray(around.sum(1)))
    with tempfile.TemporaryDirectory() as scratch:
        model = stmcdi.train(adata, Path(scratch) / "model", quiet=True)
        imputed = stmcdi.impute(adata, model, target="all", layers=[keys.IMPUTED], quiet=True)
        yield "`impute --target all`", index(dense(imputed.layers[keys.IMPUTED]))
        yield "`obsm['X_stmcdi']`", index(imputed.obsm[keys.LATENTS])
        yield "`obsm['X_stmcdi_spatial']`", index(imputed.obsm[keys.SMOOTH_LATENTS])
        masked, output, log = (Path(scratch) / name for name in ("masked.h5ad", "imputed.h5ad", "log"))
        adata.layers[keys.MISSING] = sp.csr_matrix(adata.shape, dtype=bool)
        write_h5ad(adata, masked)
        for peer in peers:
            folder, *more = methods.PACKAGES[peer].command.split()
            python = methods.environment(methods.PEERS / folder, log)
            command = [python, methods.PEERS / folder / "run.py", masked, output, *more]
            methods.measure(command, log, methods.Limits(timeout=7200, threads=2))
            result = ad.read_h5ad(output)
            own = result.obsm.get("embedding")  # what it means to be clustered on
            label = methods.PACKAGES[peer].label
            yield label, index(dense(result.layers[keys.IMPUTED]) if own is None else own)
            output.unlink()


if __name__ == "__main__":
    main()
