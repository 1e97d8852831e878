import inspect

import anndata as ad
import pytest
from helpers import same

import stmcdi_cli as stmcdi
from stmcdi_cli.io.stream import Stream, to_memory
from stmcdi_cli.steps import normalize

STEPS = [
    "add_reference",
    "baseline",
    "build_graph",
    "hold_out",
    "impute",
    "join",
    "merge",
    "normalize",
    "select_hvg",
    "simulate",
]


@pytest.mark.parametrize("name", STEPS)
def test_a_step_keeps_its_name_parameters_and_docstring(name):
    step = getattr(stmcdi, name)
    assert step.__name__ == name and "Parameters\n" in inspect.getdoc(step)
    signature, of_stream = inspect.signature(step), inspect.signature(step.stream)
    assert signature.parameters == of_stream.parameters
    assert signature.return_annotation == ("tuple[AnnData, AnnData]" if name == "hold_out" else "AnnData")
    assert of_stream.return_annotation in (Stream, tuple[Stream, Stream])


def test_a_stream_gives_what_the_step_gives(raw):
    stream = normalize.normalize.stream(raw, log=False)
    assert isinstance(stream, Stream)
    result = stmcdi.normalize(raw, log=False)
    assert isinstance(result, ad.AnnData)
    same(to_memory(stream), result)
