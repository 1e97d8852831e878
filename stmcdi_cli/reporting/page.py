"""The report as one HTML file: style, script, pictures and data inside it, nothing fetched."""

from collections.abc import Sequence
from html import escape
from importlib import resources

from stmcdi_cli import __version__
from stmcdi_cli.reporting.html import STYLES, number
from stmcdi_cli.reporting.reliability import CAUTION, DONT, TRUST
from stmcdi_cli.reporting.sections.accuracy import calibration_part, methods_part
from stmcdi_cli.reporting.sections.genes import genes_part
from stmcdi_cli.reporting.sections.provenance import run_part, summary, training_part
from stmcdi_cli.reporting.sections.tissue import data_part, maps_part
from stmcdi_cli.reporting.statistics import Findings
from stmcdi_cli.reporting.warnings import find_warnings


def page(found: Findings, *, title: str, genes: Sequence[str] | None = None) -> str:
    """Write the page.

    Parameters
    ----------
    found
        What there is to say.
    title
        Heading, and the stem of the downloaded table.
    genes
        Genes to map beside those that gained most.
    """
    parts = {
        "data": ("The data", data_part(found)),
        "maps": ("Before and after", maps_part(found, genes)),
        "genes": ("Which genes to trust", genes_part(found, title)),
        "calibration": ("Are the intervals right?", calibration_part(found)),
        "methods": ("Against simpler methods", methods_part(found)),
        "training": ("Training", training_part(found)),
        "run": ("How it was made", run_part(found)),
    }
    links = "".join(f'<a href="#{name}">{heading}</a>' for name, (heading, _) in parts.items())
    sections = "".join(
        f'<section id="{name}-section"><h2 id="{name}">{heading}</h2>{content}</section>'
        for name, (heading, content) in parts.items()
    ).replace('<h2 id="genes">', '<h2 id="genes-heading">')
    links = links.replace('href="#genes"', 'href="#genes-heading"')
    folder = resources.files("stmcdi_cli.reporting")
    style, script = ((folder / name).read_text("utf-8") for name in ("page.css", "page.js"))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}: stmcdi report</title>\n"
        '<link rel="icon" href="data:,">\n'  # or browsers ask for one
        f"<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1>{_lead(found)}<nav>{links}</nav></header>\n"
        f"<main>{_tiles(found)}{_warned(found)}{_advice(found)}{sections}</main>\n"
        f"<footer>Made by stmcdi {__version__}. This file holds everything it shows.</footer>\n"
        f"<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _lead(found: Findings) -> str:
    adata = found.adata
    filled = int(found.genes["n_filled"].sum())
    n = len(found.section_names)
    where = f"{adata.n_obs:,} spots" + (f" in {n} sections" if n > 1 else "")
    share = filled / (adata.n_obs * adata.n_vars)
    return (
        f'<p class="lead">{filled:,} entries ({share:.0%}) of {adata.n_vars:,} genes in {where} were imputed.</p>'
        f'<p class="note">{escape(" · ".join(summary(found)))}</p>'
    )


def _tiles(found: Findings) -> str:
    verdict = found.genes["verdict"]
    tiles = [
        (f"{(verdict == name).sum():,}", text, STYLES[name])
        for name, text in (
            (TRUST, "genes to trust"),
            (CAUTION, "genes to take with caution"),
            (DONT, "genes not to use: little more than their mean"),
        )
    ]
    scores = found.scores
    if scores:
        tiles.append((number(scores["skill"]), "skill on hidden values (0: each gene's mean, 1: perfect)", ""))
        tiles.append((number(scores["gene_pcc"]), "mean correlation per gene on hidden values", ""))
        if scores["coverage_90"] is not None:
            tiles.append((f"{scores['coverage_90']:.0%}", "of hidden values inside their 90% interval", ""))
    body = "".join(f'<div class="tile {style}"><b>{value}</b><span>{text}</span></div>' for value, text, style in tiles)
    return f'<div class="tiles">{body}</div>'


def _warned(found: Findings) -> str:
    said = find_warnings(found)
    if not said:
        return '<ul class="warnings fine" id="warnings"><li>No warning.</li></ul>'
    return f'<ul class="warnings" id="warnings">{"".join(f"<li>{escape(text)}</li>" for text in said)}</ul>'


def _advice(found: Findings) -> str:
    measured = "" if found.scores else " To measure it on your own tissue, run once more with <code>--evaluate</code>."
    return (
        "<p><b>What to do next.</b> Use the imputed layer of genes marked <i>trust</i> to look at tissue, to cluster "
        "and to rank; look at the measured values beside those marked <i>caution</i>; leave out those marked "
        "<i>don't</i>. Run tests (differential expression, spatially variable genes) on the counts, never on imputed "
        f"values: they are no independent observations.{measured}</p>"
    )
