"""The sections about the tissue: the data, and maps before and after imputation."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.reporting import charts
from stmcdi_cli.reporting.maps import Layout, draw
from stmcdi_cli.reporting.reliability import CAUTION, DONT, RARE_SHARE, TRUST, UNFILLED, filled_entries
from stmcdi_cli.reporting.statistics import SHALLOW, Findings
from stmcdi_cli.reporting.visible import dense_rows
from stmcdi_cli.sparse import missing_mask, row_chunks

N_MAPS = 6
MOST_CANDIDATES = 100
MAP_BYTES = 2_200_000
"""Maps of genes take no more than this, so that the page stays below 5 MB with the table of 20,000 genes."""
GENES_AT_A_TIME = 10
"""Genes whose values at every spot are held at one time."""
MOST_SPOTS = 100_000
"""Spots, evenly chosen, on which the patterns of genes are compared."""
COLUMNS = {
    "section": "section",
    "spots": "spots",
    "counts": "counts per spot",
    "depth": "depth",
    "genes": "genes seen per spot",
    "zeros": "zeros",
    "missing": "missing",
}
"""Headings of the table of sections."""


def data(found: Findings, layout: Layout) -> dict[str, Any]:
    """What each section holds, and how deeply each spot was sequenced: for ``data.html.j2``."""
    logged = np.log10(np.maximum(found.depth, 0.01))
    low, high = (float(value) for value in np.quantile(logged, (0.01, 0.99)))
    everywhere = np.ones(found.adata.n_obs, dtype=bool)
    return {
        "columns": {key: heading for key, heading in COLUMNS.items() if key in found.overview[0]},
        "rows": found.overview,
        "wide": layout.wide,
        "shallow": np.log10(SHALLOW),
        "rare": RARE_SHARE,
        "depth_map": draw(
            layout, logged, everywhere, "depth", (low, max(high, low + 0.01)), "Map of depth over the tissue"
        ),
        "depth_histogram": _depth_histogram(found, logged),
        "seen_histogram": charts.histogram(
            {"genes": (found.genes["seen"].to_numpy(), charts.COLORS["main"])},
            "share of spots with a value above zero",
            "genes",
            "Histogram of the share of spots that genes are seen in",
            (0, 1),
        ),
    }


def _depth_histogram(found: Findings, logged: np.ndarray) -> charts.Drawing:
    """Histogram of log depth, a colour per section while there are enough colours."""
    colors = [charts.COLORS[name] for name in ("main", "second", "third", TRUST, CAUTION, DONT, UNFILLED)]
    groups = {name: logged[found.sections == code] for code, name in enumerate(found.section_names)}
    if len(groups) > len(colors):
        groups = {"all spots": logged}
    return charts.histogram(
        {name: (values, color) for (name, values), color in zip(groups.items(), colors, strict=False)},
        "log10 of depth over the median",
        "spots",
        "Histogram of depth",
    )


def maps(found: Findings, layout: Layout, genes: Sequence[str] | None) -> dict[str, Any]:
    """Maps of the genes the user named and of those that gained most: for ``maps.html.j2``."""
    named = list(dict.fromkeys(genes or ()))
    wanted = [*named, *_gained(found, set(named))]
    drawn: list[dict[str, Any]] = []
    size, left_out = 0, []
    for start in range(0, len(wanted), GENES_AT_A_TIME):
        some = wanted[start : start + GENES_AT_A_TIME]
        if drawn and size + size / len(drawn) > MAP_BYTES:
            left_out += some
            continue
        for gene, columns in zip(some, _columns(found, some), strict=True):
            if drawn and size + size / len(drawn) > MAP_BYTES:
                left_out.append(gene)
                continue
            drawn.append(_gene_maps(found, gene, layout, *columns))
            size += sum(drawn[-1][name].size for name in ("before", "after", "uncertainty"))
    target = found.parameters.get("impute", {}).get("parameters", {}).get("target")
    return {"genes": drawn, "left_out": left_out[:20], "only_missing": target == "missing", "wide": layout.wide}


def _gained(found: Findings, known: set[str]) -> list[str]:
    """Genes that gained most, with verdict trust or caution; each with a different pattern, where there are enough."""
    table = found.genes
    candidates = table[table["verdict"].isin([TRUST, CAUTION]) & ~table.index.isin(known)]
    ranked = candidates.sort_values(["verdict", "gain"], ascending=[True, False], kind="stable").index[:MOST_CANDIDATES]
    if not len(ranked):
        return []
    adata = found.adata
    column, step = adata.var_names.get_indexer(ranked), -(-adata.n_obs // MOST_SPOTS)
    values = np.concatenate(
        [
            dense_rows(adata.layers[keys.IMPUTED], rows)[-rows.start % step :: step, column]
            for rows in row_chunks(adata.shape)
        ]
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        alike = np.nan_to_num(np.corrcoef(values.T)).reshape(len(ranked), len(ranked))
    chosen: list[int] = []
    for most_alike in (0.5, 1.1):
        for k in range(len(ranked)):
            if len(chosen) < N_MAPS and k not in chosen and (alike[k, chosen] < most_alike).all():
                chosen.append(k)
    return [str(ranked[k]) for k in chosen]


def _columns(found: Findings, genes: Sequence[str]) -> list[tuple[np.ndarray, ...]]:
    """Of each gene: values, imputed values and standard deviations, whether measured and whether filled, each [spots].

    Goes through the file once, a few spots at a time.
    """
    adata = found.adata
    column = adata.var_names.get_indexer(genes)
    before, after, spread = np.zeros((3, len(genes), adata.n_obs))
    seen, filled = np.zeros((2, len(genes), adata.n_obs), dtype=bool)
    for rows in row_chunks(adata.shape):
        before[:, rows] = dense_rows(adata.X, rows)[:, column].T
        after[:, rows] = dense_rows(adata.layers[keys.IMPUTED], rows)[:, column].T
        spread[:, rows] = dense_rows(adata.layers[keys.IMPUTED_SD], rows)[:, column].T
        seen[:, rows] = ~missing_mask(adata, rows)[:, column].toarray().T
        filled[:, rows] = filled_entries(adata, rows)[:, column].T
    return list(zip(before, after, spread, seen, filled, strict=True))


def _gene_maps(
    found: Findings,
    gene: str,
    layout: Layout,
    before: np.ndarray,
    after: np.ndarray,
    spread: np.ndarray,
    seen: np.ndarray,
    filled: np.ndarray,
) -> dict[str, Any]:
    """Numbers and maps of one gene; both maps of expression have the same colour scale."""
    row: Any = found.genes.loc[gene]
    known = np.isfinite(after)
    shown = np.concatenate([before[seen], after[known]])
    top = max(float(np.quantile(shown, 0.99)) if shown.size else 0.0, 1e-6)
    most = max(float(np.quantile(spread[filled], 0.99)) if filled.any() else 0.0, 1e-6)
    measured = "measured_r" in found.genes and np.isfinite(row["measured_r"])
    return {
        "name": gene,
        "verdict": row["verdict"],
        "seen": row["seen"],
        "reason": row["reason"],
        "measured_r": float(row["measured_r"]) if measured else None,
        "n_hidden": int(row["n_hidden"]) if measured else 0,
        "before": draw(layout, before, seen, "expression", (0, top), f"{gene}: measured"),
        "after": draw(layout, after, known, "expression", (0, top), f"{gene}: imputed"),
        "uncertainty": draw(layout, spread, filled, "spread", (0, most), f"{gene}: uncertainty"),
    }
