"""A message names only options that the command has, or says whose they are: `normalize --layer`.

Which functions a command may call is read from the source: names that are imported or defined in the module, and
methods of classes that are named. What is called in other ways is not seen.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from stmcdi_cli.cli.commands import main
from stmcdi_cli.cli.group import Step

PACKAGE = Path(__file__).parents[2] / "stmcdi_cli"
COMMANDS = "stmcdi_cli.cli.commands"
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
ELSEWHERE = {  # messages that the command cannot get to, or that speak of another command
    "import": {"--section-key": "where the graph is built"},
    "baseline": {"--radius": "its graphs are of nearest spots"},
    "run": {
        "--radius": "its graph is of nearest spots",
        "--method": "it ranks by cv2-trend",
        "--devices": "it trains with one",
        "--memory-limit": "its matrices are in memory",
    },
    "report": {"--target": "of the run that is reported", "--evaluate": "of the run that is reported"},
}

Key = tuple[str, str]
"""A module, and a function, class or method (Class.method) in it."""


def trees() -> dict[str, ast.Module]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text("utf-8"))
    return found


MODULES = trees()


def definitions() -> dict[Key, ast.AST]:
    found: dict[Key, ast.AST] = {}
    for module, tree in MODULES.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                found[module, node.name] = node
            elif isinstance(node, ast.ClassDef):
                methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
                found |= {(module, f"{node.name}.{method.name}"): method for method in methods}
                rest: list[ast.stmt] = [part for part in node.body if part not in methods]
                found[module, node.name] = ast.Module(rest + [ast.Expr(base) for base in node.bases], [])
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found |= {(module, target.id): node for target in targets if isinstance(target, ast.Name)}
    return found


DEFINED = definitions()


@cache
def imported(node: ast.AST) -> dict[str, tuple[str, str | None]]:
    """What names of the package stand for within a module or function: a module, or a name in a module."""
    found: dict[str, tuple[str, str | None]] = {}
    for part in ast.walk(node):
        if isinstance(part, ast.ImportFrom) and str(part.module).startswith("stmcdi_cli"):
            for alias in part.names:
                inner = f"{part.module}.{alias.name}"
                found[alias.asname or alias.name] = (
                    (inner, None) if inner in MODULES else (str(part.module), alias.name)
                )
    return found


def resolve(module: str, name: str) -> Key | None:
    while (module, name) not in DEFINED:
        where = imported(MODULES[module]).get(name)
        if where is None or where[1] is None:
            return None
        module, name = where[0], where[1]
    return module, name


@cache
def uses(key: Key) -> tuple[set[Key], set[str]]:
    """What a definition names, and its attributes of objects unknown."""
    module, node = key[0], DEFINED[key]
    known = imported(MODULES[module]) | imported(node)
    local = set()
    if isinstance(node, ast.FunctionDef):
        local = {part.arg for part in ast.walk(node) if isinstance(part, ast.arg)}
        local |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    found: set[Key | None] = {other for other in DEFINED if other[0] == module and other[1].startswith(f"{key[1]}.__")}
    attributes = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and part.id not in local:
            where = known.get(part.id, (module, part.id))
            found.add(resolve(where[0], where[1]) if where[1] else None)
        elif isinstance(part, ast.Attribute):
            base = known.get(part.value.id) if isinstance(part.value, ast.Name) else None
            if base is not None and base[1] is None:
                found.add(resolve(base[0], part.attr))
            else:
                attributes.add(part.attr)
    return {other for other in found if other is not None}, attributes


def reached(start: Key) -> set[Key]:
    """Everything that a function may call."""
    found, new = set(), {start}
    while new:
        found |= new
        named = set().union(*(uses(key)[0] for key in found))
        attributes = set().union(*(uses(key)[1] for key in found))
        methods = {
            (module, name)
            for module, name in DEFINED
            if "." in name and name.split(".")[1] in attributes and (module, name.split(".")[0]) in found
        }
        new = (named | methods) - found
    return found


def texts(node: ast.AST) -> Iterator[str]:
    """Its strings, without docstrings."""
    docstrings = {id(part.value) for part in ast.walk(node) if isinstance(part, ast.Expr)}
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and id(part) not in docstrings:
            yield part.value


def has(command: str) -> set[str]:
    return {name for parameter in main.commands[command].params for name in parameter.opts}


@pytest.mark.parametrize("command", [name for name, command in main.commands.items() if isinstance(command, Step)])
def test_messages_name_options_that_the_command_has(command):
    function = {"import": "import_"}.get(command, command.replace("-", "_"))
    keys = [key for key in reached((COMMANDS, function)) if not key[0].startswith("stmcdi_cli.cli")]
    assert len(keys) > 30
    allowed = has(command) | set(ELSEWHERE.get(command, ()))
    wrong = []
    for key in keys:
        for text in texts(DEFINED[key]):
            others = re.findall(r"`([a-z-]+) (--[a-z-]+)`", text)
            wrong += [f"{key}: {other} has no {option}" for other, option in others if option not in has(other)]
            own = re.sub(r"`[a-z-]+ --[a-z-]+`", "", text)
            wrong += [f"{key}: {option}" for option in OPTION.findall(own) if option not in allowed]
    assert not wrong
