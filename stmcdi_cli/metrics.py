"""How close predictions come to hidden values, where that takes more than a line of `evaluate`.

All functions take the hidden entries alone, as vectors of equal length: ``truth`` t and ``predicted`` p.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.special import ndtr

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import validation
from stmcdi_cli.errors import InputError
from stmcdi_cli.provenance import parameters_of, record_of
from stmcdi_cli.sparse import (
    accumulate_by_column,
    as_row_major,
    layers_of,
    mask_out,
    missing_mask,
    read_rows,
    row_chunks,
    scale_rows,
    to_csr,
    values_at,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame


def mae(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Mean absolute error (eq. 28)."""
    return float(np.mean(np.abs(predicted - truth)))


def covered(low: np.ndarray, high: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Whether each value lies within its interval."""
    return (low <= truth) & (truth <= high)


def coverage(low: np.ndarray, high: np.ndarray, truth: np.ndarray) -> float:
    """Share of values within their interval."""
    return float(np.mean(covered(low, high, truth)))


def crps_gaussian_each(mean: np.ndarray, sd: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score of N(mean, sd^2), closed form; the absolute error where sd is 0.

    Imputed values are not Gaussian (many are near zero): this is a metric of the reported mean and sd alone.
    """
    sd = np.maximum(sd, 1e-12)
    z = (truth - mean) / sd
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return sd * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))


def crps_gaussian(mean: np.ndarray, sd: np.ndarray, truth: np.ndarray) -> float:
    """Mean of `crps_gaussian_each`."""
    return float(np.mean(crps_gaussian_each(mean, sd, truth)))


def pinball_each(quantiles: dict[float, np.ndarray], truth: np.ndarray) -> np.ndarray:
    """Quantile loss, doubled and averaged over the quantiles: with all of them it would be the CRPS."""
    losses = [np.maximum(q * (truth - value), (q - 1) * (truth - value)) for q, value in quantiles.items()]
    return 2 * np.mean(losses, axis=0)


def pinball(quantiles: dict[float, np.ndarray], truth: np.ndarray) -> float:
    """Mean of `pinball_each`."""
    return float(np.mean(pinball_each(quantiles, truth)))


_ENOUGH = 10
"""Hidden values above 0 that tell whether a file holds them."""


class Comparison:
    """Imputed values beside the hidden ones. Both files, on disk or in memory, are read a few spots at a time.

    Parameters and errors are those of :func:`evaluate`; ``spots``, bool, are the only ones looked at, where given.

    Attributes
    ----------
    unmeasured
        Genes without a visible value that were left without an imputed one, bool [G]; they are not compared.
    not_asked
        Genes that `impute` was not asked to fill, bool [G]; they are not compared.
    """

    def __init__(self, imputed: "AnnData", truth: "AnnData", layer: str, spots: np.ndarray | None = None) -> None:
        self.imputed, self.truth, self.layer, self.column = imputed, truth, layer, _column(imputed, truth, layer)
        self.spots = spots
        self.x = as_row_major(truth.X)
        names = {name: f"{layer}_{name}" for name in ("sd", "median", "q05", "q95")}
        self.layers = {name: as_row_major(imputed.layers[key]) for name, key in names.items() if key in imputed.layers}
        self.values = as_row_major(imputed.layers[layer])
        self.unmeasured, self.not_asked = self._unmeasured(), self._not_asked()
        self._find_means()

    def _not_asked(self) -> np.ndarray:
        asked = parameters_of(self.imputed, "impute").get("genes")
        if asked is None or self.layer != keys.IMPUTED or record_of(self.imputed, "baseline"):
            return np.zeros(self.imputed.n_vars, dtype=bool)
        return ~self.imputed.var_names.isin(asked)

    def _refuse_seen(self, rows: slice, shown: sp.csr_matrix, values: sp.csr_matrix) -> None:
        """Refuse a file that shows hidden values in X: what was made from it has seen them."""
        truth = values_at(values, shown)
        x = self._chosen(to_csr(read_rows(as_row_major(self.imputed.X), rows), np.float64), rows)
        found, truth = values_at(x, shown)[truth > 0], truth[truth > 0]
        if found.size >= _ENOUGH and np.isclose(found, truth, rtol=1e-4).mean() > 0.5:
            raise InputError(
                f"expected layers['{keys.MISSING}'] to mark the hidden values, found them in X, where the method "
                "has seen them; impute the first output of hold-out"
            )

    def _unmeasured(self) -> np.ndarray:
        first = read_rows(self.values, slice(0, 1))
        without = np.isnan(first.toarray() if sp.issparse(first) else np.asarray(first))[0]
        if not without.any():  # as usual: then the mask need not be read for this
            return without
        n_missing = np.zeros(self.imputed.n_vars)
        for rows in row_chunks(self.imputed.shape):
            missing = missing_mask(self.imputed, rows)
            n_missing = accumulate_by_column(n_missing, missing.indices, missing.data)
        return without & (n_missing == self.imputed.n_obs)

    def rows(self) -> Iterator[tuple[slice, sp.csr_matrix, sp.csr_matrix]]:
        """Yield a run of spots, its hidden entries (CSR bool) and its true values on the imputed file's scale."""
        for rows in row_chunks(self.truth.shape):
            if self.spots is None or self.spots[rows].any():
                mask = self._of_genes(missing_mask(self.truth, rows))
                without = self.unmeasured | self.not_asked
                if without.any():
                    mask = to_csr(mask.multiply(~without), bool)
                values = self._of_genes(to_csr(read_rows(self.x, rows), np.float64))
                values = _on_scale_of(self.imputed, self.truth, values, rows)
                yield rows, self._chosen(mask, rows), self._chosen(values, rows)

    def _of_genes(self, block: sp.csr_matrix) -> sp.csr_matrix:
        """Columns of the truth for the imputed genes; nothing for those that were added from a reference later."""
        found = self.column >= 0
        part = block[:, np.maximum(self.column, 0)]
        return to_csr(part if found.all() else part.multiply(found), block.dtype)

    def _chosen(self, block: Any, rows: slice) -> Any:
        """Rows of a block that are to be looked at."""
        return block if self.spots is None else block[self.spots[rows]]

    def predicted(self, rows: slice, mask: sp.csr_matrix) -> np.ndarray:
        """Imputed values at the hidden entries of a run of spots."""
        return values_at(self._chosen(read_rows(self.values, rows), rows), mask)

    def spread(self, rows: slice, mask: sp.csr_matrix) -> dict[str, np.ndarray]:
        """What else is said of these entries, by the names of the layers that are there."""
        return {
            name: values_at(self._chosen(read_rows(layer, rows), rows), mask) for name, layer in self.layers.items()
        }

    def _find_means(self) -> None:
        """Find what the metrics are relative to: each gene's mean over visible entries, and over hidden ones."""
        visible, unseen, n, t_sum, p_sum = np.zeros((5, self.column.size))
        n_of_spot, ranges = np.zeros(self.truth.n_obs, dtype=int), []
        for rows, mask, values in self.rows():
            t, p = values_at(values, mask), self.predicted(rows, mask)
            if not np.isfinite(p).all():
                raise InputError(
                    f"expected a finite value at every hidden entry of layers['{self.layer}'], "
                    "found NaN or infinite ones"
                )
            missing = self._chosen(missing_mask(self.imputed, rows), rows)
            hidden = mask + missing
            if hidden.nnz > missing.nnz:
                self._refuse_seen(rows, mask_out(mask, missing), values)
            shown = mask_out(values, hidden)
            visible = accumulate_by_column(visible, shown.indices, shown.data)
            unseen = accumulate_by_column(unseen, hidden.indices, hidden.data)
            n = accumulate_by_column(n, mask.indices, mask.data)
            t_sum, p_sum = (accumulate_by_column(total, mask.indices, of) for total, of in ((t_sum, t), (p_sum, p)))
            n_of_spot[self._chosen(np.arange(rows.start, rows.stop), rows)] = np.diff(mask.indptr)
            if t.size:
                ranges.append((p.min(), p.max(), t.min(), t.max()))
        if not ranges:
            raise InputError("expected hidden entries among these genes, found none; give the truth of hold-out")
        low, high = np.min(ranges, axis=0), np.max(ranges, axis=0)
        if self.spots is None and high[3] == 0:
            raise InputError(
                "expected hidden values in the truth, found 0 at every hidden entry, as in the file they were hidden "
                "in; give the second output of hold-out"
            )
        self.constant = high[1] == low[0] or high[3] == low[2]
        self.n, self.guess = (
            n,
            visible / np.maximum((self.truth.n_obs if self.spots is None else self.spots.sum()) - unseen, 1),
        )
        self.n_of_spot, self.n_spots = n_of_spot, int(np.count_nonzero(n_of_spot))
        self.t_mean, self.p_mean = t_sum / np.maximum(n, 1), p_sum / np.maximum(n, 1)

    def sums(self) -> "Sums":
        """Sum what the metrics are made of over the hidden entries of each gene."""
        total: dict[str, np.ndarray] = {}
        for rows, mask, values in self.rows():
            t, gene = values_at(values, mask), mask.indices
            p, spread = self.predicted(rows, mask), self.spread(rows, mask)
            dt, dp = t - self.t_mean[gene], p - self.p_mean[gene]
            found = {"tt": t * t, "pp": p * p, "tp": t * p, "dtdt": dt * dt, "dpdp": dp * dp, "dtdp": dt * dp}
            found |= {"squared": (p - t) ** 2, "trivial": (self.guess[gene] - t) ** 2, "absolute": np.abs(p - t)}
            if "median" in spread:
                found["median"] = np.abs(spread["median"] - t)
            if "sd" in spread:
                found["crps"] = crps_gaussian_each(p, spread["sd"], t)
            if {"q05", "q95"} <= set(spread):
                found["covered"] = covered(spread["q05"], spread["q95"], t)
            if {"q05", "median", "q95"} <= set(spread):
                quantiles = {0.05: spread["q05"], 0.5: spread["median"], 0.95: spread["q95"]}
                found["pinball"] = pinball_each(quantiles, t)
            for name, each in found.items():
                total[name] = accumulate_by_column(total.get(name, np.zeros(self.n.size)), gene, each)
        return Sums(total, self.n, self.t_mean, self.p_mean, self.constant, self.n_spots)


def _column(imputed: "AnnData", truth: "AnnData", layer: str) -> np.ndarray:
    """Column in the truth of each imputed gene; refuses files that do not belong together.

    Genes that were added from a reference may be absent (-1): values may have been hidden before that.
    """
    if layer not in imputed.layers:
        found = validation.first_few(layers_of(imputed))
        raise InputError(f"expected imputed values in layers['{layer}'], found {found}; run impute")
    validation.matrix(truth)
    if keys.MISSING not in truth.layers:
        raise InputError(f"expected hidden entries in the truth's layers['{keys.MISSING}'], found none; run hold-out")
    if not imputed.obs_names.equals(truth.obs_names):
        raise InputError("expected the spots of the truth in their order, found others; spots were lost or reordered")
    column = truth.var_names.get_indexer(imputed.var_names)
    absent = column < 0
    if keys.MEASURED in imputed.var:
        absent &= imputed.var[keys.MEASURED].to_numpy(bool)
    if absent.any():
        unknown = validation.first_few(imputed.var_names[absent])
        raise InputError(f"expected genes of the truth, found {unknown}; give the truth that belongs to this file")
    if (np.diff(column[column >= 0]) <= 0).any():
        raise InputError("expected the genes in the order of the truth, found another; genes were reordered")
    return column


class Sums(NamedTuple):
    """Sums over the hidden entries of each gene.

    Attributes
    ----------
    total
        Sums by their names; those that lack a layer are absent.
    n
        Number of hidden entries.
    t_mean, p_mean
        Mean of the hidden and of the imputed values.
    constant
        Whether the hidden or the imputed values are all the same.
    n_spots
        Spots with hidden entries.
    """

    total: dict[str, np.ndarray]
    n: np.ndarray
    t_mean: np.ndarray
    p_mean: np.ndarray
    constant: bool
    n_spots: int


def overall_metrics(sums: Sums) -> dict[str, float | int | None]:
    """Give the metrics of all hidden entries pooled."""
    total, n = {name: values.sum() for name, values in sums.total.items()}, sums.n.sum()

    def mean(name: str) -> float | None:
        return float(total[name] / n) if name in total else None

    # The means of each gene, from those of all entries.
    t, p = (means - (sums.n * means).sum() / n for means in (sums.t_mean, sums.p_mean))
    dtdt, dpdp, dtdp = (
        total[name] + (sums.n * product).sum() for name, product in (("dtdt", t * t), ("dpdp", p * p), ("dtdp", t * p))
    )
    return {
        "pcc": 0.0 if sums.constant else _cosine(dtdp, dtdt, dpdp),
        "cs": _cosine(total["tp"], total["tt"], total["pp"]),
        "rmse": float(np.sqrt(total["squared"] / n)),
        "mae": mean("absolute"),
        "mae_median": mean("median"),
        "skill": float(1 - total["squared"] / total["trivial"]) if total["trivial"] > 0 else None,
        "gene_pcc": _mean_or_none(_correlations(sums)),
        "coverage_90": mean("covered"),
        "crps_gaussian": mean("crps"),
        "pinball": mean("pinball"),
        "n_hidden": int(n),
        "n_spots": sums.n_spots,
        "n_genes": int(np.count_nonzero(sums.n)),
    }


def gene_metrics(sums: Sums, imputed: "AnnData") -> "DataFrame":
    """Give the metrics of every gene by itself."""
    import pandas as pd

    n = np.maximum(sums.n, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        skill = np.where(sums.total["trivial"] > 0, 1 - sums.total["squared"] / sums.total["trivial"], np.nan)
    rmse = np.where(sums.n > 0, np.sqrt(sums.total["squared"] / n), np.nan)
    table = {"n_hidden": sums.n.astype(int), "pcc": _correlations(sums), "rmse": rmse, "skill": skill}
    return pd.DataFrame(table, index=imputed.var_names.rename("gene"))


def _correlations(sums: Sums) -> np.ndarray:
    """Correlation of each gene; 0 for constant predictions, NaN where the truth is constant or there is too little."""
    n = np.maximum(sums.n, 1)
    t_sd, p_sd, covariance = (np.sqrt(sums.total["dtdt"] / n), np.sqrt(sums.total["dpdp"] / n), sums.total["dtdp"] / n)
    nothing = 1e-9  # a constant's standard deviation, up to rounding
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = np.where(p_sd > nothing, covariance / (t_sd * p_sd), 0.0)
    correlation[(sums.n < 3) | (t_sd <= nothing)] = np.nan
    return correlation


def _cosine(product: float, one: float, other: float) -> float:
    """Cosine of the angle between two vectors, from their product and their squares; 0 where either is zero."""
    return float(product / (np.sqrt(one * other) + 1e-12))


def _on_scale_of(imputed: "AnnData", truth: "AnnData", values: sp.csr_matrix, rows: slice) -> sp.csr_matrix:
    """Do to the truth what ``normalize`` did to the imputed file after the values were hidden, if it did."""
    done = parameters_of(imputed, "normalize")
    if not done or record_of(truth, "normalize") or done["skip"]:
        return values
    size_factor = imputed.obs[keys.SIZE_FACTOR].to_numpy(np.float64)[rows]
    return scale_rows(values, size_factor, log=bool(done["log"]))


def _mean_or_none(values: np.ndarray) -> float | None:
    """Mean of the values there are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None
