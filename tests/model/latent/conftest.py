"""A target whose panel lacks two genes, and a reference with all of them."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import scipy.sparse as sp

from stmcdi_cli.model.latent.factor_model import SpatialFactorModel
from stmcdi_cli.model.latent.shared_genes import SharedGenes
from stmcdi_cli.model.tissue import Tissue

N_SPOTS, N_CELLS, N_GENES = 30, 200, 12
UNMEASURED = np.array([2, 7])


def tissue(x: np.ndarray, missing: np.ndarray) -> Tissue:
    return Tissue(
        x=sp.csr_matrix(np.where(missing, 0, x).astype(np.float32)),
        missing=sp.csr_matrix(missing),
        graph=sp.csr_matrix((len(x), len(x)), dtype=np.float32),
        depth=np.ones(len(x)),
        count_scale="log1p",
        genes=tuple(f"g{k}" for k in range(N_GENES)),
        odd_spots=np.zeros(len(x), bool),
    )


@dataclass
class PanelAndReference:
    """The encoder of a target of two types of cells, the reference, the target, and the type of each spot.

    The target's platform catches three times as much of every other gene.
    """

    encoder: SpatialFactorModel
    reference: Tissue
    target: Tissue
    own: np.ndarray

    unmeasured = UNMEASURED
    measured = np.setdiff1d(np.arange(N_GENES), UNMEASURED)
    spots = np.arange(N_SPOTS)

    def shared(self, hidden: np.ndarray | None = None, wanted: np.ndarray | None = None) -> SharedGenes:
        """The genes that both have, without some entries of the target."""
        target = self.target if hidden is None else self.target.without(sp.csr_matrix(hidden))
        return SharedGenes(self.encoder, self.reference, target, wanted)

    def with_cells(self, x: np.ndarray) -> "PanelAndReference":
        """The same with other values in the reference."""
        return replace(self, reference=replace(self.reference, x=sp.csr_matrix(x)))

    def with_values(self, hidden: np.ndarray, value: float) -> "PanelAndReference":
        """The same with other values where they are hidden."""
        changed = np.where(hidden, value, self.target.x.toarray())
        return replace(self, target=replace(self.target, x=sp.csr_matrix(changed)))

    def standardised(self) -> tuple[np.ndarray, np.ndarray]:
        """Shared genes of the spots, and all genes of the cells."""
        x, cells = self.target.x.toarray()[:, self.measured], self.reference.x.toarray()
        return (x - x.mean(0)) / x.std(0), (cells - cells.mean(0)) / cells.std(0)


@pytest.fixture
def pair() -> PanelAndReference:
    rng = np.random.default_rng(0)
    profile = rng.uniform(0.5, 6, (2, N_GENES))
    own, cells = rng.integers(0, 2, N_SPOTS), rng.integers(0, 2, N_CELLS)
    caught = np.where(np.arange(N_GENES) % 2, 3, 1)
    missing = np.zeros((N_SPOTS, N_GENES), bool)
    missing[:, UNMEASURED] = True
    target = tissue(np.log1p(rng.poisson(profile[own] * caught)), missing)
    reference = tissue(np.log1p(rng.poisson(profile[cells])), np.zeros((N_CELLS, N_GENES), bool))
    encoder = SpatialFactorModel(rank=2, full_depth=0.25, link="gaussian")
    encoder.rate, encoder.scale = encoder._rates(target)
    encoder.rate[UNMEASURED], encoder.scale[UNMEASURED] = 1.5, 0.5
    return PanelAndReference(encoder, reference, target, own)
