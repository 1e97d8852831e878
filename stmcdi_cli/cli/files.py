"""From file to file: open the input, run a step's stream, write the output."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from stmcdi_cli.errors import in_file
from stmcdi_cli.io.h5ad import open_h5ad
from stmcdi_cli.io.output import check_output
from stmcdi_cli.io.partial import kept_in
from stmcdi_cli.io.stream import Block, Stream, write
from stmcdi_cli.provenance import note_input
from stmcdi_cli.steps._step import Step


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
