"""``stmcdi baseline``: impute with one of the methods that the diffusion model is compared with."""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import resources, roles, validation
from stmcdi_cli.errors import OptionError
from stmcdi_cli.io.shards import rows_at, target_header
from stmcdi_cli.io.stream import Block, Stream, disk_size
from stmcdi_cli.provenance import record
from stmcdi_cli.sparse import as_row_major, mask_out, missing_mask, read_rows, row_chunks, to_csr
from stmcdi_cli.steps._results import without_results
from stmcdi_cli.steps._step import step

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

TARGETS = ("missing", "all")
LAYERS = (keys.IMPUTED, keys.IMPUTED_SD, keys.IMPUTED_Q05, keys.IMPUTED_Q95)
BYTES_PER_ENTRY = 10
"""Memory that a method takes at least: values, estimates, and what is visible and to be filled."""
_QUANTILE_95 = 1.6448536269514722  # of the standard normal distribution


@step
def baseline(
    adata: "AnnData",
    *,
    method: str,
    target: str = "missing",
    n_neighbors: int | None = None,
    section_key: str | None = None,
    seed: int = 0,
) -> Stream:
    """Fill entries with what a comparison method expects there, and say how far observations would spread around it.

    Parameters
    ----------
    adata
        Normalised expression; entries in ``layers['missing']`` are never looked at.
    method
        A name in `baselines.METHODS`.
    target
        ``missing`` fills ``layers['missing']``; ``all`` replaces every entry by the method's estimate.
    n_neighbors
        Spots that ``idw`` (12 by default), ``spatial-neighbors`` (20) or ``expression-neighbors`` (30) averages.
    section_key
        Column of ``obs`` with the section: no spot is the spatial neighbour of one in another section. By default the
        one the file's graph was built with, if any.
    seed
        Seed of every random choice.

    Returns
    -------
    A copy without the cells of a reference (`add_reference`), with ``layers['imputed']`` and, over the filled entries,
    ``imputed_sd``, ``imputed_q05`` and ``imputed_q95`` (spots x genes, on the scale of ``X``): a Gaussian around the
    estimate, counting noise included, cut at 0. Sparse for ``missing``, dense otherwise. NaN for genes without a value
    in any spot.

    Raises
    ------
    InputError
        The data lack what the method needs, or an option is out of range.
    """
    from stmcdi_cli.baselines import METHODS, DenseTissue
    from stmcdi_cli.model.device import single_threaded
    from stmcdi_cli.model.tissue import log_scale

    validation.one_of("method", method, METHODS)
    validation.one_of("target", target, TARGETS)
    validation.at_least("seed", seed, 0)
    options = _options(method, n_neighbors)
    resources.check_fits("a dense copy of the data", BYTES_PER_ENTRY * adata.n_obs * adata.n_vars)
    data = DenseTissue.from_anndata(adata, section_key)
    if data.tissue.odd_spots.any():
        log_scale("baseline", data.tissue, adata.obs_names)
    lost = ~np.isin(data.section, data.section[data.visible])
    if lost.any():
        logger.warning("baseline: %d spot(s) are in sections without any visible value: means are used", lost.sum())
    fill = np.ones(adata.shape, dtype=bool) if target == "all" else missing_mask(adata).toarray()
    if not fill.any():
        logger.info("baseline: no entry is missing, so none is filled; --target all replaces every one")
    with single_threaded():
        estimate = METHODS[method](data, seed=seed, **options)
    positive = estimate.sd[estimate.sd > 0]
    # A gene that never varied gets the smallest sd of the others, not 0.
    sd = np.broadcast_to(np.maximum(estimate.sd, positive.min(initial=1.0)), fill.shape)
    unmeasured = ~data.seen.any(0)
    if (fill & unmeasured).any():
        logger.warning(
            "baseline: %d gene(s) have no value in any spot (%s): left without one (NaN)",
            unmeasured.sum(),
            validation.first_few(adata.var_names[unmeasured]),
        )

    X, n_target = as_row_major(adata.X), roles.n_target(adata)

    def blocks() -> Iterator[Block]:
        for rows in row_chunks((n_target, adata.n_vars)):
            x = mask_out(to_csr(read_rows(X, rows)), missing_mask(adata, rows)).toarray()
            block: dict[str | None, Any] = {} if n_target == adata.n_obs else dict(rows_at(rest, rows))
            for name, values in _summaries(estimate.mean[rows], sd[rows]).items():
                known = np.where(unmeasured, np.nan, values)
                layer = np.where(fill[rows], known, x if name == keys.IMPUTED else 0).astype(np.float32)
                block[name] = sp.csr_matrix(layer) if target == "missing" else layer
            yield block

    rest = without_results(adata)
    header = rest if n_target == adata.n_obs else target_header(rest, n_target)
    settings = {"method": method, "target": target, "section_key": section_key, "seed": seed}
    record(header, "baseline", settings | options)
    n_values = len(LAYERS) * int(np.count_nonzero(fill)) + int(np.count_nonzero(data.x))
    size = disk_size(0, 0, len(LAYERS) * fill.size) if target == "all" else disk_size(n_values)
    return Stream(header, blocks(), size)


def _options(method: str, n_neighbors: int | None) -> dict[str, int]:
    """Check and give the options that were set of those that only some methods have."""
    from stmcdi_cli.baselines import WITH_NEIGHBORS

    if n_neighbors is None:
        return {}
    validation.at_least("n_neighbors", n_neighbors, 1)
    if method not in WITH_NEIGHBORS:
        names = ", ".join(WITH_NEIGHBORS)
        raise OptionError(f"expected `n_neighbors` only with method {names}, found it with `{method}`")
    return {"n_neighbors": n_neighbors}


def _summaries(mean: np.ndarray, sd: np.ndarray) -> dict[str, np.ndarray]:
    """Mean, standard deviation and 90 % interval of a Gaussian cut at 0, each [n, G]."""
    return {
        keys.IMPUTED: np.maximum(mean, 0),
        keys.IMPUTED_SD: sd,
        keys.IMPUTED_Q05: np.maximum(mean - _QUANTILE_95 * sd, 0),
        keys.IMPUTED_Q95: np.maximum(mean + _QUANTILE_95 * sd, 0),
    }
