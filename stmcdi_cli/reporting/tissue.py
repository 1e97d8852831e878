"""The parts of the page about the tissue: the data, and maps before and after."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.reporting import charts, maps
from stmcdi_cli.reporting.findings import SHALLOW, Findings
from stmcdi_cli.reporting.pieces import badge, column_of, figure, plain, share, table_of
from stmcdi_cli.reporting.reliability import CAUTION, RARE_SHARE, TRUST, filled_entries
from stmcdi_cli.sparse import missing_mask

N_MAPS = 6
MOST_CANDIDATES = 100
MAP_BYTES = 3_000_000
"""Pictures of genes stop here, so that the page stays below 5 MB."""


def data_part(found: Findings) -> str:
    """What each section holds, and where the tissue was read deeply."""
    headings = {
        "section": "section",
        "spots": "spots",
        "counts": "counts per spot",
        "depth": "depth",
        "genes": "genes seen per spot",
        "zeros": "zeros",
        "missing": "missing",
    }
    columns = [key for key in headings if key in found.overview[0]]
    rows = [
        [share(row[key]) if key in ("zeros", "missing") else plain(row[key]) for key in columns]
        for row in found.overview
    ]
    table = table_of([headings[key] for key in columns], rows)
    layout = maps.lay_out(found.xy, found.sections, found.section_names)
    known = np.ones(found.adata.n_obs, dtype=bool)
    logged = np.log10(np.maximum(found.depth, 0.01))
    low, high = np.quantile(logged, (0.01, 0.99))
    depth_map = maps.draw(
        layout,
        logged,
        known,
        "depth",
        (float(low), max(float(high), float(low) + 0.01)),
        "Map of depth over the tissue",
    )
    styles = ("main", "second", "third", "trust", "caution", "dont", "none")
    groups = {name: logged[found.sections == code] for code, name in enumerate(found.section_names)}
    if len(groups) > len(styles):
        groups = {"all spots": logged}
    spread = charts.histogram(
        groups,
        dict(zip(groups, styles, strict=False)),
        "log10 of depth over the median",
        "spots",
        "Histogram of depth",
    )
    seen = charts.histogram(
        {"genes": found.genes["seen"].to_numpy()},
        {"genes": "main"},
        "share of spots with a value above zero",
        "genes",
        "Histogram of the share of spots that genes are seen in",
        (0, 1),
    )
    pictures = (
        figure(depth_map, "Depth over the tissue", "log10 of depth over the median; shallow spots are pale"),
        figure(spread, "Depth of the spots", f"Left of {np.log10(SHALLOW):.1f} a spot says little by itself"),
        figure(seen, "Sparsity of the genes", f"Left of {RARE_SHARE} a gene is too rare to be trusted"),
    )
    return (
        f'<div class="scroll">{table}</div>'
        '<p class="note">Medians over the spots. Counts and genes are those kept in the file '
        f"({found.adata.n_vars:,} genes); depth is a spot's total over the median total. Zeros: of the visible "
        "entries. Missing: entries without a value.</p>" + _beside(pictures, layout.wide)
    )


def _beside(pictures: tuple[str, str, str], wide: bool) -> str:
    """Map and histograms: a wide map has its own row, another stands beside both histograms."""
    tissue, *rest = pictures
    if wide:
        return f'{tissue}<div class="charts below">{"".join(rest)}</div>'
    return f'<div class="charts">{tissue}<div class="stack">{"".join(rest)}</div></div>'


def maps_part(found: Findings, genes: Sequence[str] | None) -> str:
    """Maps of the genes the user named and of those that gained most."""
    layout = maps.lay_out(found.xy, found.sections, found.section_names)
    named = list(dict.fromkeys(genes or ()))
    gained = _gained(found, set(named))
    cards, size, left_out = [], 0, []
    for gene in [*named, *gained]:
        if size > MAP_BYTES:
            left_out.append(gene)
            continue
        cards.append(_gene_card(found, gene, layout))
        size += len(cards[-1])
    text = (
        "<p>Genes you named come first, then those that gained most, of different patterns (gain: expected r times "
        "the share of spots without a measured value above zero). Before: measured values, grey where there is none. "
        "After: <code>layers['imputed']</code>, on the same colours. Uncertainty: <code>layers['imputed_sd']</code>, "
        "the spread of what would be observed at the filled entries, counting noise included; grey where nothing was "
        "filled.</p>"
    )
    if found.adata.uns.get(keys.PROVENANCE, {}).get("impute", {}).get("parameters", {}).get("target") == "missing":
        text += (
            '<p class="note">Only missing entries were filled, so after shows measured values beside filled ones. '
            "<code>--target all</code> gives smooth maps of every entry.</p>"
        )
    if left_out:
        text += f'<p class="note">Left out to keep this file small: {escape(", ".join(left_out[:20]))}.</p>'
    if not cards:
        text += '<p class="note">No gene gained enough to be shown; name some with <code>--genes</code>.</p>'
    return text + "".join(cards)


def _gained(found: Findings, known: set[str]) -> list[str]:
    """Genes that gained most and are worth a look, each of another pattern as far as there are so many."""
    table = found.genes
    worthy = table[table["verdict"].isin([TRUST, CAUTION]) & ~table.index.isin(known)]
    ranked = worthy.sort_values(["verdict", "gain"], ascending=[True, False], kind="stable").index[:MOST_CANDIDATES]
    if not len(ranked):
        return []
    imputed = found.adata[:, ranked].layers[keys.IMPUTED]
    values = np.asarray(imputed.toarray() if hasattr(imputed, "toarray") else imputed, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        alike = np.nan_to_num(np.corrcoef(values.T)).reshape(len(ranked), len(ranked))
    chosen: list[int] = []
    for most_alike in (0.5, 1.1):
        for k in range(len(ranked)):
            if len(chosen) < N_MAPS and k not in chosen and (alike[k, chosen] < most_alike).all():
                chosen.append(k)
    return [str(ranked[k]) for k in chosen]


def _gene_card(found: Findings, gene: str, layout: maps.Layout) -> str:
    adata = found.adata
    row: Any = found.genes.loc[gene]
    column = int(adata.var_names.get_loc(gene))
    one = adata[:, column]
    layers = one.X, one.layers[keys.IMPUTED], one.layers[keys.IMPUTED_SD]
    before, after, spread = (column_of(layer) for layer in layers)
    seen = ~missing_mask(one).toarray()[:, 0]
    filled = filled_entries(one, slice(0, adata.n_obs))[:, 0]
    top = max(float(np.quantile(np.concatenate([before[seen], after]), 0.99)), 1e-6)
    most = max(float(np.quantile(spread[filled], 0.99)) if filled.any() else 0.0, 1e-6)
    pictures = [
        (maps.draw(layout, before, seen, "expression", (0, top), f"{gene}: measured"), "Before", "measured"),
        (maps.draw(layout, after, np.ones_like(seen), "expression", (0, top), f"{gene}: imputed"), "After", "imputed"),
        (maps.draw(layout, spread, filled, "spread", (0, most), f"{gene}: uncertainty"), "Uncertainty", "sd"),
    ]
    figures = "".join(figure(svg, head, note) for svg, head, note in pictures)
    measured = ""
    if "measured_r" in found.genes and np.isfinite(row["measured_r"]):
        measured = f" Correlation with {int(row['n_hidden'])} hidden values: {row['measured_r']:.2f}."
    return (
        f'<article class="gene"><h3>{escape(gene)} {badge(row["verdict"])}</h3>'
        f'<p class="note">Seen in {row["seen"]:.0%} of the spots; {escape(row["reason"])}.{measured}</p>'
        f'<div class="maps{" wide" if layout.wide else ""}">{figures}</div></article>'
    )
