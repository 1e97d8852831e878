"""From file to file: open the input, run a step's stream, write the output."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmcdi_cli.errors import InputError, in_file
from stmcdi_cli.io.elements import check_parts
from stmcdi_cli.io.h5ad import open_h5ad, read_h5ad, write_h5ads
from stmcdi_cli.io.output import check_model_dir, check_output
from stmcdi_cli.io.partial import kept_in
from stmcdi_cli.io.stream import Block, Stream, write
from stmcdi_cli.provenance import checksum, note_input, record_of
from stmcdi_cli.steps._step import Step

if TYPE_CHECKING:
    from anndata import AnnData


def impute_file(
    input: str | os.PathLike[str],
    model_dir: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    parts: str | os.PathLike[str] | None = None,
    **options: Any,
) -> None:
    """Run :func:`impute` from file to file; if it is killed, the same call continues from the finished batches."""
    from stmcdi_cli.steps.impute import impute

    output = Path(output)
    with kept_in(output.with_name(f".{output.name}.parts") if parts is None else parts) as kept:
        transform(impute, input, output, model_dir=model_dir, parts=kept, **options)


def run_files(
    input: Path,
    output: Path,
    *,
    model_dir: Path | None,
    model: Path | None,
    evaluate: Path | None,
    reference: Path | None,
    **options: Any,
) -> None:
    """Run :func:`run` on files; ``evaluate`` is the file of the metrics."""
    from stmcdi_cli.steps.evaluate import write_metrics
    from stmcdi_cli.steps.run import run

    inputs = [input] if reference is None else [input, reference]
    check_output(output, *inputs)
    if model is None:
        model_dir = model_dir or output.with_suffix(".model")
        check_model_dir(model_dir)
    truth_path = output.with_suffix(".truth.h5ad")
    if evaluate is not None:
        options["fraction"] = options["fraction"] or 0.2
        check_output(evaluate, *inputs, output)
        check_output(evaluate.with_suffix(".tsv"), *inputs, output, evaluate)
        check_output(truth_path, *inputs, output)
    adata = read_h5ad(input, for_import=False)
    with ExitStack() as stack:
        stack.enter_context(in_file(input) if reference is None else in_panel_or_reference(input, reference))
        check_parts(adata)  # before minutes of training, not after
        cells = None if reference is None else stack.enter_context(open_h5ad(reference))
        imputed, truth = run(adata, model_dir, model=model, reference=cells, **options)
    _note_inputs(imputed, input, reference)
    files = {output: imputed, truth_path: truth}
    write_h5ads({path: file for path, file in files.items() if file is not None})
    if evaluate is not None:
        write_metrics(imputed, truth, evaluate, evaluate.with_suffix(".tsv"))


def add_reference_file(
    panel: str | os.PathLike[str],
    reference: str | os.PathLike[str],
    output: str | os.PathLike[str],
    **options: Any,
) -> None:
    """Run :func:`add_reference` from files to a file."""
    from stmcdi_cli.steps.add_reference import add_reference

    check_output(output, panel, reference)
    with open_h5ad(panel) as target, open_h5ad(reference) as cells:
        with in_panel_or_reference(panel, reference):
            stream = add_reference.stream(target, cells, **options)
        _note_inputs(stream.header, panel, reference)
        write({Path(output): replace(stream, blocks=named(panel, stream.blocks))})


def _note_inputs(made: "AnnData", input: str | os.PathLike[str], reference: str | os.PathLike[str] | None) -> None:
    """Add the checksums of what was read to the record of the first step."""
    note_input("normalize" if reference is None else "add-reference", input, made)
    if reference is not None:
        record_of(made, "add-reference")["reference_sha256"] = checksum(reference)


@contextmanager
def in_panel_or_reference(panel: str | os.PathLike[str], reference: str | os.PathLike[str]) -> Iterator[None]:
    """Name the file in errors of :func:`add_reference`, which calls the reference so."""
    try:
        with in_file(panel):
            yield
    except InputError as error:
        about_reference = str(error).removeprefix(f"{panel}: reference: ")
        if about_reference == str(error):
            raise
        raise InputError(f"{reference}: {about_reference}") from error


def named(path: str | os.PathLike[str], blocks: Iterable[Block]) -> Iterator[Block]:
    """Put the input's name before errors that come up while blocks are made."""
    with in_file(path):
        yield from blocks


def transform(
    step: Step[..., Any, Stream | tuple[Stream, ...]],
    input: str | os.PathLike[str],
    *outputs: str | os.PathLike[str],
    **options: Any,
) -> None:
    """Open ``input``, make streams of it, add the input's checksum to the step's record, write a file for each."""
    for i, output in enumerate(outputs):
        check_output(output, input, *outputs[:i])
    with open_h5ad(input) as adata:
        with in_file(input):
            made = step.stream(adata, **options)
        streams = made if isinstance(made, tuple) else (made,)
        note_input(step.__name__.replace("_", "-"), input, *(stream.header for stream in streams))
        streams = tuple(replace(stream, blocks=named(input, stream.blocks)) for stream in streams)
        write(dict(zip(map(Path, outputs), streams, strict=True)))


def transform_many(
    step: Step[..., Any, Stream],
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    **options: Any,
) -> None:
    """Open several inputs, make one stream of them, write ``output``."""
    check_output(output, *inputs)
    with ExitStack() as stack:
        parts = [stack.enter_context(open_h5ad(path)) for path in inputs]
        write({Path(output): step.stream(parts, **options)})
