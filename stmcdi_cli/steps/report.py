"""``stmcdi report``: say in one page what was imputed, how far to trust it, and what to do next."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stmcdi_cli import validation
from stmcdi_cli.errors import InputError
from stmcdi_cli.io.output import write_texts
from stmcdi_cli.steps._step import of_tissues

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame


@of_tissues
def report(
    adata: "AnnData",
    output: str | os.PathLike[str],
    *,
    model_dir: str | os.PathLike[str] | None = None,
    truth: "AnnData | None" = None,
    baseline: "Sequence[AnnData]" = (),
    genes: Sequence[str] | None = None,
    title: str | None = None,
    sample_info: Mapping[str, object] | None = None,
    multiqc: bool = True,
) -> "DataFrame":
    """Write a self-contained HTML page about an imputed file, and what MultiQC needs to show its numbers.

    Parameters
    ----------
    adata
        Output of `impute`.
    output
        HTML file to write. Beside it go its table of genes (``.tsv``) and, for MultiQC, three ``*_mqc.json``.
    model_dir
        Folder of the model, for the training curve and its settings.
    truth
        Second output of `hold_out`: adds what was measured on the hidden values.
    baseline
        Outputs of `baseline` on the same input, to compare with; needs `truth`.
    genes
        Names of genes to map beside those that gained most.
    title
        Heading and sample name; by default the output's name without ``_report``.
    sample_info
        What is known of the sample (patient, age ...), to show below the heading.
    multiqc
        Write the files for MultiQC.

    Returns
    -------
    The table of genes: verdict, reason and the numbers behind them (see `stmcdi_cli.reporting.reliability`).

    Raises
    ------
    InputError
        The file was not imputed, a name is unknown, or other files do not belong to it.
    """
    from stmcdi_cli.reporting.multiqc import custom_content
    from stmcdi_cli.reporting.page import page
    from stmcdi_cli.reporting.statistics import gather

    validation.names("genes", genes)
    unknown = [gene for gene in genes or () if gene not in adata.var_names]
    if unknown:
        raise InputError(
            f"expected genes the file has, found {validation.first_few(unknown)}; correct the list (--genes)"
        )
    output = Path(output)
    name = title or output.stem.removesuffix("_report")
    found = gather(adata, model_dir=model_dir, truth=truth, baseline=baseline)
    table = found.genes.to_csv(sep="\t", na_rep="NA", float_format="%.6g")
    files = {output: page(found, title=name, genes=genes, sample_info=sample_info), output.with_suffix(".tsv"): table}
    if multiqc:
        files |= {
            output.with_name(f"{output.stem}_{part}_mqc.json"): text for part, text in custom_content(found, name)
        }
    write_texts(files)
    return found.genes
