"""What `import stmcdi_cli` offers, also to type checkers and editors."""

import ast
import inspect
from pathlib import Path

import pytest

import stmcdi_cli


def test_type_checkers_see_every_step():
    """They read the imports under TYPE_CHECKING; py.typed tells them that the package has types."""
    path = Path(stmcdi_cli.__file__)
    assert path.with_name("py.typed").is_file()
    block = next(node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == {name: f"stmcdi_cli.steps.{name}" for name in stmcdi_cli.__all__}


@pytest.mark.parametrize("name", stmcdi_cli.__all__)
def test_every_parameter_and_result_of_a_step_has_a_type(name):
    signature = inspect.signature(getattr(stmcdi_cli, name))
    assert signature.return_annotation is not signature.empty
    assert all(parameter.annotation is not parameter.empty for parameter in signature.parameters.values())


def test_a_misspelt_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'normalise'"):
        getattr(stmcdi_cli, "normalise")  # noqa: B009 - as typed
