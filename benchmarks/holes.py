"""What conjugate gradients leave out in a hole of a large tissue: ``python -m benchmarks.holes [--radius R ...]``.

A grid of 48,400 spots with a round hole; outside, every spot says something of three fields of different ranges. The
solution by triangular factors of the whole is exact; larger tissues start from solutions on their parts, and where
spots have many neighbours from 0. Prints what is missing of the mean in the hole, root mean square relative to the
exact mean, and the mean variance relative to the exact one, by range.
"""

import argparse

import numpy as np
import scipy.sparse as sp
import torch

from stmcdi_cli.model.device import single_threaded
from stmcdi_cli.model.latent import spatial_graph
from stmcdi_cli.model.latent.gaussian import LatentPosterior
from stmcdi_cli.model.latent.spatial_field import FieldParameters, SpatialField
from stmcdi_cli.model.latent.spatial_graph import RANGES, SpatialGraph

SIDE, CENTRE = 220, (97, 113)
REACH = (3.0, 12.0, 32.0)
WAYS = {"exact": (10**9, 100), "by parts": (0, 100), "from 0": (0, 0)}
"""How a tissue is solved, and the limits on its edges under which it is."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--radius", nargs="+", type=float, default=[12, 25, 40])
    options = parser.parse_args()
    row, column = np.divmod(np.arange(SIDE**2), SIDE)
    signal = 2 * (np.sin(column / 20) + np.cos(row / 15))
    for radius in options.radius:
        hole = np.hypot(row - CENTRE[0], column - CENTRE[1]) < radius
        with single_threaded():
            found = {way: posterior(hole, signal, *limits) for way, limits in WAYS.items()}
        exact = found.pop("exact")
        for way, latents in found.items():
            missing = (latents.field - exact.field)[hole].norm(dim=0) / exact.field[hole].norm(dim=0)
            variance = latents.prior_variance[hole].mean(0) / exact.prior_variance[hole].mean(0)
            print(f"radius {radius:.0f}", way, *(f"{x:.2f}" for x in [*missing, *variance]), sep="\t", flush=True)


def posterior(hole: np.ndarray, signal: np.ndarray, most_walks: int, walks_each: int) -> LatentPosterior:
    """Posterior of the three fields, with what is said of them outside of the hole."""
    spatial_graph._MOST_WALKS, spatial_graph._WALKS_EACH = most_walks, walks_each
    line = sp.diags_array([np.ones(SIDE - 1)] * 2, offsets=[-1, 1])
    graph = SpatialGraph(sp.csr_matrix(sp.kron(sp.eye_array(SIDE), line) + sp.kron(line, sp.eye_array(SIDE))))
    scale = torch.tensor([graph.scales[list(RANGES).index(each)] for each in REACH], dtype=torch.float32)
    one = torch.ones(len(REACH))
    field = SpatialField(graph, FieldParameters(torch.tensor(REACH), 0.8 * one, scale, 0.2 * one, 0.3 * one))
    information = torch.from_numpy(np.where(hole, 0, signal)).float()[:, None].expand(-1, len(REACH))
    precision = torch.from_numpy(np.where(hole, 0.0, 2.0)).float()[:, None, None] * torch.eye(len(REACH))
    return field.posterior(lambda spots: (precision[spots], information[spots]), len(hole), own_variance=True)


if __name__ == "__main__":
    main()
