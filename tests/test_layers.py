"""The rooms of the package: imports point downwards, without a circle; files and functions stay small."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "stmcdi_cli"
LAYERS = (  # from the bottom to the top; rooms of one layer do not import each other
    {"small modules"},
    {"io"},
    {"model", "reporting"},
    {"baselines"},
    {"steps"},
    {"cli"},
)
MOST_LOOSE, MOST_LINES, MOST_FUNCTION_LINES = 12, 400, 60
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def room(module: str) -> str:
    """The folder directly below the package that a module lies in."""
    first = module.split(".")[1]
    return first if (PACKAGE / first).is_dir() else "small modules"


def imports(module: str) -> Iterator[str]:
    """Modules of the package that a module imports: at the top, within functions, and for types alone."""
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if node.module == "stmcdi_cli" and inner not in MODULES:
                    assert alias.name == "__version__", f"{module} imports {alias.name} from the top of the package"
                elif inner in MODULES or node.module in MODULES:
                    yield inner if inner in MODULES else str(node.module)


IMPORTS = {module: set(imports(module)) - {"stmcdi_cli"} for module in MODULES if module != "stmcdi_cli"}


def test_every_room_has_a_layer():
    assert {room(module) for module in IMPORTS} == set().union(*LAYERS)


def test_imports_point_downwards():
    level = {name: height for height, rooms in enumerate(LAYERS) for name in rooms}
    wrong = [
        f"{module} imports {imported}"
        for module, found in IMPORTS.items()
        for imported in found
        if room(imported) != room(module) and level[room(imported)] >= level[room(module)]
    ]
    assert not wrong


def test_no_imports_go_in_a_circle():
    try:
        tuple(TopologicalSorter(IMPORTS).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_rooms_within_the_model_do_not_go_in_a_circle():
    def folder(module: str) -> str:
        return ".".join(module.split(".")[:3])

    folders = {folder(module) for module in IMPORTS if module.count(".") == 3 and room(module) == "model"}
    graph: dict[str, set[str]] = {name: set() for name in folders}
    for module, found in IMPORTS.items():
        if folder(module) in folders:
            graph[folder(module)] |= {folder(name) for name in found} & folders - {folder(module)}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_few_modules_lie_loose():
    loose = sorted(path.name for path in PACKAGE.glob("*.py"))
    assert len(loose) <= MOST_LOOSE, loose


def test_files_are_short():
    assert not {path.name: n for path in FILES if (n := len(path.read_text("utf-8").splitlines())) > MOST_LINES}


def test_functions_are_short():
    """At most 60 lines; the docstring does not count."""
    long = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            n = node.end_lineno - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                n -= first.end_lineno - first.lineno + 1
            if n > MOST_FUNCTION_LINES:
                long[f"{path.relative_to(PACKAGE)}: {node.name}"] = n
    assert not long


def test_names_of_other_modules_are_public():
    """What starts with an underscore is for its own module."""
    private = []
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("stmcdi_cli"):
                private += [
                    f"{module}: {alias.name}"
                    for alias in node.names
                    if alias.name.startswith("_") and alias.name != "__version__"
                ]
    assert not private
