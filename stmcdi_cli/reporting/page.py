"""The report as one HTML file: style, script, pictures and data inside it, nothing fetched.

The words and the markup are in ``template.html.j2`` and in one ``sections/NAME.html.j2`` per section; Python gives the
numbers.
"""

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from stmcdi_cli import __version__
from stmcdi_cli.reporting.charts import style
from stmcdi_cli.reporting.formatting import STYLES, number, plain, share
from stmcdi_cli.reporting.maps import lay_out
from stmcdi_cli.reporting.reliability import CAUTION, DONT, TRUST
from stmcdi_cli.reporting.sections.accuracy import calibration, methods
from stmcdi_cli.reporting.sections.genes import genes as gene_table
from stmcdi_cli.reporting.sections.provenance import provenance, summary, training
from stmcdi_cli.reporting.sections.tissue import data, maps
from stmcdi_cli.reporting.statistics import Findings
from stmcdi_cli.reporting.warnings import find_warnings

PACKAGE = "stmcdi_cli.reporting"


def page(
    found: Findings,
    *,
    title: str,
    genes: Sequence[str] | None = None,
    sample_info: Mapping[str, object] | None = None,
) -> str:
    """Write the page.

    Parameters
    ----------
    found
        The numbers of the report.
    title
        Heading, and the stem of the downloaded table.
    genes
        Genes to map beside those that gained most.
    sample_info
        What is known of the sample, by name.
    """
    layout = lay_out(found.xy, found.sections, found.section_names)
    with style():
        sections = {
            "data": ("The data", data(found, layout)),
            "maps": ("Before and after", maps(found, layout, genes)),
            "genes": ("Which genes to trust", gene_table(found)),
            "calibration": ("Are the intervals right?", calibration(found)),
            "methods": ("Against simpler methods", methods(found)),
            "training": ("Training", training(found)),
            "provenance": ("How it was made", provenance(found)),
        }
    folder = resources.files(PACKAGE)
    return (
        _environment()
        .get_template("template.html.j2")
        .render(
            title=title,
            sample_info=sample_info or {},
            sections=sections,
            warnings=find_warnings(found),
            style=(folder / "page.css").read_text("utf-8"),
            script=(folder / "page.js").read_text("utf-8"),
            **_head(found),
        )
    )


def _environment() -> Environment:
    """Templates in which every value is escaped, and a name that does not exist is an error."""
    environment = Environment(
        loader=PackageLoader(PACKAGE, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    environment.filters |= {"number": number, "plain": plain, "share": share}
    environment.globals |= {"STYLES": STYLES, "TRUST": TRUST, "CAUTION": CAUTION, "DONT": DONT, "version": __version__}
    return environment


def _head(found: Findings) -> dict[str, Any]:
    """What stands above the first section."""
    n_filled = int(found.genes["n_filled"].sum())
    return {
        "n_spots": found.adata.n_obs,
        "n_genes": found.adata.n_vars,
        "n_sections": len(found.section_names),
        "n_filled": n_filled,
        "filled": n_filled / (found.adata.n_obs * found.adata.n_vars),
        "summary": summary(found),
        "verdicts": {name: int((found.genes["verdict"] == name).sum()) for name in (TRUST, CAUTION, DONT)},
        "metrics": found.metrics,
    }
