"""The ``stmcdi`` command line: one Click command per step.

Each command opens its input, runs the function of the same name in ``stmcdi_cli.steps`` with the same parameters and
defaults, most in blocks of spots (its ``stream``), and writes. Heavy imports happen inside the commands, so that
``--help`` answers at once.
"""

from pathlib import Path
from typing import Any

import click

from stmcdi_cli import __version__
from stmcdi_cli.cli.group import SHELLS, Steps, print_completion
from stmcdi_cli.cli.options import (
    BASELINE,
    DEVICE,
    FORMAT,
    GENES,
    GENES_TO_SHOW,
    MEMORY_LIMIT,
    PATH,
    PRESET,
    SAMPLER,
    TARGET,
    TARGET_HELP,
    NumberOrAll,
    counts_options,
    example,
    genes_options,
    read_genes,
    read_sample_info,
    reference_options,
    split_names,
)
from stmcdi_cli.cli.presets import presets


@click.group("stmcdi", cls=Steps, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="stmcdi")
@click.option(
    "--completion",
    type=click.Choice(SHELLS),
    is_eager=True,
    expose_value=False,
    callback=print_completion,
    help='Print the shell\'s completion script: eval "$(stmcdi --completion bash)".',
)
def main() -> None:
    """Fill in missing and dropped-out gene expression in spatial transcriptomics data."""


@main.command(epilog=example("simulate tissue.h5ad --n-spots 1000 --n-sections 2"))
@click.argument("output", type=PATH)
@click.option("--n-spots", type=int, default=2000, help="Spots in all, shared out over the sections.")
@click.option("--n-genes", type=int, default=2000, help="Genes.")
@click.option("--n-sections", type=int, default=1, help="Tissue sections (obs['section']).")
@click.option("--n-domains", type=int, default=5, help="Spatial domains (obs['domain']).")
@click.option("--n-programmes", type=int, default=8, help="Gene programmes.")
@click.option("--depth", type=float, default=600.0, help="Median count per spot.")
@click.option("--dispersion", type=float, default=0.2, help="Overdispersion of the counts; 0: Poisson.")
@click.option("--rates/--no-rates", default=True, help="Keep the noise-free expected counts in layers['rates'].")
@click.option("--seed", type=int, default=0, help="Seed of everything random.")
def simulate(output: Path, **options: Any) -> None:
    """Make a tissue whose true expression is known."""
    from stmcdi_cli.io.output import check_output
    from stmcdi_cli.io.stream import write
    from stmcdi_cli.steps.simulate import simulate

    check_output(output)
    write({output: simulate.stream(**options)})


@main.command(epilog=example("check-samplesheet samples.csv samples.valid.csv"))
@click.argument("sheet", type=PATH)
@click.argument("output", type=PATH)
@click.option("--base", type=PATH, default=None, help="Folder that relative paths start from (default: the sheet's).")
@click.option("--content", is_flag=True, default=False, help="Open every file: coordinates, sections, first values.")
@counts_options
def check_samplesheet(sheet: Path, output: Path, **options: Any) -> None:
    """Check a samplesheet (sample,h5ad[,section_key][,group][,reference]) and write it with absolute paths."""
    from stmcdi_cli.steps.check_samplesheet import check_samplesheet

    check_samplesheet(sheet, output, **options)


@main.command(epilog=example("add-reference panel.h5ad cells.h5ad both.h5ad --n-genes 500"))
@click.argument("panel", type=PATH)
@click.argument("reference", type=PATH)
@click.argument("output", type=PATH)
@click.option("--genes", type=PATH, default=None, callback=read_genes, help="File with names of genes to add.")
@click.option("--n-genes", type=NumberOrAll(), default=None, help="Genes to add, or all (default: 1000).")
@reference_options
@counts_options
@click.option("--seed", type=int, default=0, help="Seed of the choice of cells.")
@MEMORY_LIMIT
def add_reference(panel: Path, reference: Path, output: Path, **options: Any) -> None:
    """Add genes that a panel never measured, and a reference of the same tissue to impute them from."""
    from stmcdi_cli.cli.files import add_reference_file

    add_reference_file(panel, reference, output, **options)


@main.command(epilog=example("join left.h5ad right.h5ad brain.h5ad --name left --name right"))
@click.argument("inputs", type=PATH, nargs=-1, required=True)
@click.argument("output", type=PATH)
@click.option("--name", "names", multiple=True, default=(), help="Name of each tissue, in their order (default: 1, 2).")
@click.option("--section-key", default=None, help="Column of obs with the sections within each tissue.")
@click.option(
    "--genes",
    type=click.Choice(["shared", "union"]),
    default="shared",
    help="Genes that all tissues have, or that any has; those it lacks are then marked missing in a tissue.",
)
@MEMORY_LIMIT
def join(inputs: tuple[Path, ...], output: Path, **options: Any) -> None:
    """Put several tissues into one file, as sections of one tissue: one model is then trained on all."""
    from stmcdi_cli.cli.files import transform_many
    from stmcdi_cli.steps.join import join

    transform_many(join, inputs, output, **options)


@main.command("import", epilog=example("import space_ranger/outs raw.h5ad"))
@click.argument("input", type=PATH)
@click.argument("output", type=PATH)
@click.option("--format", type=FORMAT, default="auto", help="What INPUT is; auto finds it out.")
@click.option(
    "--coordinates",
    default=None,
    help="Table with a row per spot (name, x, y), key of obsm, or columns of obs: x,y.",
)
@click.option("--bin-um", type=int, default=16, help="Side of the bins in micrometres (visium-hd).")
@click.option("--bin", type=int, default=50, help="Side of the bins in spots of the chip (stereo-seq).")
@click.option("--table", default=None, help="Name of the table, where there are several (spatialdata).")
@counts_options
@click.option("--quiet", is_flag=True, default=False, help="Do not say what was left out, renamed or chosen.")
def import_(input: Path, output: Path, **options: Any) -> None:
    """Read what instruments and packages write (docs/steps/import.md lists it); write counts with coordinates."""
    from stmcdi_cli.io.h5ad import write_h5ad
    from stmcdi_cli.io.output import check_output
    from stmcdi_cli.steps.import_ import import_

    check_output(output, input)
    write_h5ad(import_(input, **options), output)


@main.command(epilog=example("normalize raw.h5ad normalized.h5ad"))
@click.argument("input", type=PATH)
@click.argument("output", type=PATH)
@counts_options
@click.option("--log/--no-log", default=True, help="Take log(1 + x) after scaling.")
@MEMORY_LIMIT
def normalize(input: Path, output: Path, **options: Any) -> None:
    """Scale every spot to the median total count and take log(1 + x) (paper, eq. 29)."""
    from stmcdi_cli.cli.files import transform
    from stmcdi_cli.steps.normalize import normalize

    transform(normalize, input, output, **options)


@main.command(epilog=example("select-hvg normalized.h5ad selected.h5ad --n-genes 1000"))
@click.argument("input", type=PATH)
@click.argument("output", type=PATH)
@click.option(
    "--method", type=click.Choice(["cv2-trend", "cv", "seurat_v3"]), default="cv2-trend", help="Ranking rule."
)
@genes_options
@click.option("--subset/--no-subset", default=True, help="Keep the chosen genes only, or flag them.")
@MEMORY_LIMIT
def select_hvg(input: Path, output: Path, **options: Any) -> None:
    """Choose the genes that vary most over the tissue (paper, eq. 30, and two other rules)."""
    from stmcdi_cli.cli.files import transform
    from stmcdi_cli.steps.select_hvg import select_hvg

    transform(select_hvg, input, output, **options)


@main.command(epilog=example("build-graph selected.h5ad graph.h5ad --section-key section"))
@click.argument("input", type=PATH)
@click.argument("output", type=PATH)
@click.option(
    "--method", type=click.Choice(["knn", "radius", "delaunay", "grid"]), default="knn", help="How to find neighbours."
)
@click.option("--n-neighbors", type=int, default=5, help="Neighbours per spot (knn).")
@click.option("--radius", type=float, default=None, help="Largest distance, in the coordinates' unit (radius).")
@click.option("--n-rings", type=int, default=1, help="Rings of grid neighbours (grid).")
@click.option("--section-key", default=None, help="Column of obs with the section: no edge crosses sections.")
@MEMORY_LIMIT
def build_graph(input: Path, output: Path, **options: Any) -> None:
    """Connect every spot to its neighbours in the tissue, under squidpy's key names."""
    from stmcdi_cli.cli.files import transform
    from stmcdi_cli.steps.build_graph import build_graph

    transform(build_graph, input, output, **options)


@main.command(epilog=example("hold-out graph.h5ad masked.h5ad truth.h5ad --fraction 0.2"))
@click.argument("input", type=PATH)
@click.argument("output", type=PATH)
@click.argument("truth", type=PATH)
@click.option("--fraction", type=float, default=0.2, help="Probability that an entry is hidden.")
@click.option("--seed", type=int, default=0, help="Seed of the random choice.")
@click.option("--of", type=click.Choice(["all", "nonzero"]), default="all", help="Entries to choose among.")
@MEMORY_LIMIT
def hold_out(input: Path, output: Path, truth: Path, **options: Any) -> None:
    """Hide a random part of the values in OUTPUT and keep them in TRUTH."""
    from stmcdi_cli.cli.files import transform
    from stmcdi_cli.steps.hold_out import hold_out

    transform(hold_out, input, output, truth, **options)


@main.command(epilog=example("train masked.h5ad model --device cuda"))
@click.argument("input", type=PATH)
@click.argument("model_dir", type=PATH)
@click.option("--preset", type=PRESET, default="default", help="Settings: default, attention, paper or a YAML file.")
@click.option("--device", type=DEVICE, default="auto", help="Where to compute; auto: a GPU if there is one.")
@click.option("--seed", type=int, default=0, help="Seed of everything random.")
@click.option("--epochs", type=int, default=None, help="Most passes over the spots (default: the preset's).")
@click.option("--batch-size", type=int, default=None, help="Spots per step (default: the preset's).")
@click.option("--devices", type=int, default=1, help="Processes that train together, each on its own GPU.")
@click.option("--checkpoint", type=PATH, default=None, help="File to go on from (default: beside MODEL_DIR, hidden).")
@click.option("--checkpoint-every", type=float, default=60.0, help="Seconds between writings of the checkpoint.")
@click.option(
    "--resume/--no-resume", default=True, help="Go on from a checkpoint of the same data, settings and software."
)
@MEMORY_LIMIT
@click.option("--quiet", is_flag=True, default=False, help="Say nothing but warnings and errors.")
def train(input: Path, model_dir: Path, **options: Any) -> None:
    """Learn from the visible entries (paper, Algorithm 1) and write the model to the folder MODEL_DIR."""
    from stmcdi_cli.errors import in_file
    from stmcdi_cli.io.h5ad import open_h5ad
    from stmcdi_cli.io.output import check_model_dir
    from stmcdi_cli.steps.train import train

    check_model_dir(model_dir)
    with open_h5ad(input) as adata, in_file(input):
        train(adata, model_dir, **options)


@main.command(epilog=example("impute masked.h5ad model imputed.h5ad --n-samples 50"))
@click.argument("input", type=PATH)
@click.argument("model_dir", type=PATH)
@click.argument("output", type=PATH)
@click.option("--target", type=TARGET, default="auto", help=TARGET_HELP)
@click.option("--n-samples", type=int, default=50, help="Draws per entry.")
@click.option("--sampler", type=SAMPLER, default="dpm", help="How the reverse process is run.")
@click.option("--n-steps", type=int, default=None, help="Network passes per draw (default: by sampler and preset).")
@click.option("--seed", type=int, default=0, help="Seed of the draws.")
@click.option("--batch-size", type=int, default=256, help="Spots drawn at a time; does not change the result.")
@click.option("--device", type=DEVICE, default="auto", help="Where to compute; auto: a GPU if there is one.")
@GENES
@click.option(
    "--layers",
    default=None,
    callback=split_names,
    help="Layers to write, such as imputed,imputed_sd (default: all five). Quantiles take the most time and memory.",
)
@click.option("--shard", default=None, help="I/N: fill the I-th of N parts of the spots alone; see merge.")
@click.option(
    "--parts",
    type=PATH,
    default=None,
    help="Folder for finished batches, to go on with (default: beside OUTPUT, hidden).",
)
@MEMORY_LIMIT
@click.option("--quiet", is_flag=True, default=False, help="Say nothing but warnings and errors.")
def impute(input: Path, model_dir: Path, output: Path, **options: Any) -> None:
    """Draw the entries that have no value from noise (paper, Algorithm 2); write their mean and spread."""
    from stmcdi_cli.cli.files import impute_file

    impute_file(input, model_dir, output, **options)


@main.command(epilog=example("baseline masked.h5ad imputed.h5ad --method factor-analysis"))
@click.argument("input", type=PATH)
@click.argument("output", type=PATH)
@click.option("--method", type=BASELINE, required=True, help="What to impute with.")
@click.option("--target", type=click.Choice(["missing", "all"]), default="missing", help="Entries to fill.")
@click.option(
    "--n-neighbors", type=int, default=None, help="Spots that a neighbour method averages (default: its own)."
)
@click.option("--section-key", default=None, help="Column of obs with the section (default: the graph's, if any).")
@click.option("--seed", type=int, default=0, help="Seed of everything random.")
def baseline(input: Path, output: Path, **options: Any) -> None:
    """Impute with a method to compare with: from each gene's mean to factor analysis and appendix F's networks."""
    from stmcdi_cli.cli.files import transform
    from stmcdi_cli.steps.baseline import baseline

    transform(baseline, input, output, **options)


@main.command(epilog=example("merge shard_1.h5ad shard_2.h5ad imputed.h5ad"))
@click.argument("inputs", type=PATH, nargs=-1, required=True)
@click.argument("output", type=PATH)
@MEMORY_LIMIT
def merge(inputs: tuple[Path, ...], output: Path) -> None:
    """Put the shards that impute --shard wrote together: the same content as without shards."""
    from stmcdi_cli.cli.files import transform_many
    from stmcdi_cli.steps.merge import merge

    transform_many(merge, inputs, output)


@main.command(epilog=example("evaluate imputed.h5ad truth.h5ad metrics.json"))
@click.argument("imputed", type=PATH)
@click.argument("truth", type=PATH)
@click.argument("metrics", type=PATH)
@click.option("--layer", default="imputed", help="Layer with the imputed values.")
@click.option("--tsv", type=PATH, default=None, help="Table with a row per gene (default: METRICS with suffix .tsv).")
@MEMORY_LIMIT
def evaluate(imputed: Path, truth: Path, metrics: Path, tsv: Path | None, **options: Any) -> None:
    """Compare imputed values with the hidden true ones (paper, eq. 25-28, and more)."""
    from stmcdi_cli.errors import in_file
    from stmcdi_cli.io.h5ad import open_h5ad
    from stmcdi_cli.io.output import check_output
    from stmcdi_cli.steps.evaluate import write_metrics

    tsv = tsv or metrics.with_suffix(".tsv")
    check_output(metrics, imputed, truth)
    check_output(tsv, imputed, truth, metrics)
    with open_h5ad(imputed) as result, open_h5ad(truth) as answer, in_file(imputed):
        write_metrics(result, answer, metrics, tsv, **options)


@main.command(epilog=example("report imputed.h5ad report.html --model-dir model --truth truth.h5ad"))
@click.argument("input", type=PATH)
@click.argument("output", type=PATH)
@click.option("--model-dir", type=PATH, default=None, help="Folder of the model: adds the training curve.")
@click.option("--truth", type=PATH, default=None, help="Hidden values (hold-out): adds what was measured on them.")
@click.option(
    "--baseline", type=PATH, multiple=True, default=(), help="Output of baseline to compare with; may be repeated."
)
@GENES_TO_SHOW
@click.option("--title", default=None, help="Heading and sample name (default: OUTPUT without _report).")
@click.option(
    "--sample-info",
    type=PATH,
    default=None,
    callback=read_sample_info,
    help="YAML or JSON file of what is known of the sample (patient: P1); shown below the heading.",
)
@click.option("--multiqc/--no-multiqc", default=True, help="Write *_mqc.json files for MultiQC beside OUTPUT.")
@MEMORY_LIMIT
def report(input: Path, output: Path, truth: Path | None, baseline: tuple[Path, ...], **options: Any) -> None:
    """Say in one page (HTML) what was imputed and which genes to trust; OUTPUT.tsv has the table of genes."""
    from contextlib import ExitStack

    from stmcdi_cli.errors import in_file
    from stmcdi_cli.io.h5ad import open_h5ad
    from stmcdi_cli.io.output import check_output
    from stmcdi_cli.steps.report import report

    inputs = [path for path in (input, truth, *baseline) if path is not None]
    check_output(output, *inputs)
    check_output(output.with_suffix(".tsv"), *inputs, output)
    with ExitStack() as files:
        adata, *others = (files.enter_context(open_h5ad(path)) for path in (input, *baseline))
        answer = None if truth is None else files.enter_context(open_h5ad(truth))
        with in_file(input):
            report(adata, output, truth=answer, baseline=others, **options)


@main.command(epilog=example("run raw.h5ad imputed.h5ad --evaluate metrics.json"))
@click.argument("input", type=PATH)
@click.argument("output", type=PATH)
@click.option("--model-dir", type=PATH, default=None, help="Folder for the model (default: OUTPUT with suffix .model).")
@click.option("--model", type=PATH, default=None, help="Folder of a trained model to apply; nothing is trained then.")
@counts_options
@click.option("--reference", type=PATH, default=None, help="Cells with genes that INPUT lacks: see add-reference.")
@click.option("--reference-genes", type=PATH, callback=read_genes, help="File with names of genes to add from it.")
@click.option("--n-reference-genes", type=NumberOrAll(), default=None, help="Genes to add, or all (default: 1000).")
@reference_options
@click.option("--section-key", default=None, help="Column of obs with the section: no edge crosses sections.")
@genes_options
@click.option("--n-neighbors", type=int, default=5, help="Neighbours per spot.")
@click.option("--preset", type=PRESET, default="default", help="Settings: default, attention, paper or a YAML file.")
@click.option("--target", type=TARGET, default="auto", help=TARGET_HELP)
@click.option("--n-samples", type=int, default=50, help="Draws per entry.")
@click.option(
    "--evaluate",
    type=PATH,
    default=None,
    help="Hide entries first; write metrics to this JSON file and a TSV, what was hidden to OUTPUT.truth.h5ad.",
)
@click.option("--fraction", type=float, default=0.0, help="Share of entries to hide (with --evaluate: 0.2).")
@click.option("--seed", type=int, default=0, help="Seed of every step.")
@click.option("--device", type=DEVICE, default="auto", help="Where to compute; auto: a GPU if there is one.")
@click.option("--quiet", is_flag=True, default=False, help="Say nothing but warnings and errors.")
def run(input: Path, output: Path, **options: Any) -> None:
    """All steps in one process: normalise, choose genes, build the graph, train, impute."""
    from stmcdi_cli.cli.files import run_files

    if options["evaluate"] is None and options["fraction"]:
        raise click.UsageError("--fraction needs --evaluate METRICS.json, or what was hidden would be lost.")
    run_files(input, output, **options)


main.add_command(presets)
