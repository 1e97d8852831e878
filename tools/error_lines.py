"""List every error line of the project, from its source; ``--write`` renews the list in docs/troubleshooting.md."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
BEGIN, END = "<!-- every error line: tools/error_lines.py --write -->", "<!-- end of every error line -->"
ERRORS = {"InputError", "OptionError", "DeviceMemoryError", "StmcdiError", "Stopped", "UsageError"}
GROUPS = (  # where a message can come from, and what its part of the page is called
    ("stmcdi_cli/validation.py", "Data and options, any step"),
    ("stmcdi_cli/resources.py", "Data and options, any step"),
    ("stmcdi_cli/sparse.py", "Files, any step"),
    ("stmcdi_cli/io/readers/", "import"),
    ("stmcdi_cli/io/shards.py", "merge"),
    ("stmcdi_cli/io/", "Files, any step"),
    ("stmcdi_cli/cli/", "Command line"),
    ("stmcdi_cli/metrics.py", "evaluate"),
    ("stmcdi_cli/graph.py", "build-graph"),
    ("stmcdi_cli/steps/import_.py", "import"),
    ("stmcdi_cli/steps/_settings.py", "presets"),
    ("stmcdi_cli/model/", "train and impute"),
    ("stmcdi_cli/baselines/", "baseline"),
    ("stmcdi_cli/reporting/", "report"),
    ("workflows/", "Workflow"),
    ("modules/", "Workflow"),
    ("main.nf", "Workflow"),
)


def lines() -> dict[str, list[str]]:
    """Error lines by the part of the page they belong to; what varies in a line is in angle brackets."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "stmcdi_cli").rglob("*.py")):
        for line in _python_lines(ast.parse(path.read_text("utf-8"))):
            found.setdefault(_group(path), set()).add(line)
    scripts = [path for folder in ("workflows", "modules") for path in sorted((ROOT / folder).rglob("*.nf"))]
    for path in (ROOT / "main.nf", *scripts):
        for line in _groovy_lines(path.read_text("utf-8")):
            found.setdefault(_group(path), set()).add(line)
    return {group: sorted(found[group]) for group in sorted(found, key=str.lower)}


def _group(path: Path) -> str:
    name = path.relative_to(ROOT).as_posix()
    known = next((title for start, title in GROUPS if name.startswith(start)), None)
    return known or path.stem.strip("_").replace("_", "-")


def _python_lines(tree: ast.AST) -> Iterator[str]:
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        assigned = {
            target.id: node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "in_file" and len(node.args) == 3:
                path, wrong, remedy = (_text(argument, {}) for argument in node.args)
                yield f"{path}: {wrong} (<reason>); {remedy}"
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                name = (
                    node.exc.func.attr if isinstance(node.exc.func, ast.Attribute) else getattr(node.exc.func, "id", "")
                )
                if name in ERRORS:
                    line = " ".join(_text(node.exc.args[0], assigned).split())
                    if len(re.findall(r"[a-z]", re.sub(r"<[^>]*>", "", line))) > 8:  # others only pass a line on
                        yield line


def _text(node: ast.expr, assigned: dict[str, ast.expr]) -> str:
    """A message with its variable parts in angle brackets."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, {}) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _variable(node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left, assigned) + _text(node.right, assigned)
    if isinstance(node, ast.Name) and node.id in assigned:
        return _text(assigned[node.id], {})
    return _variable(node)


def _variable(node: ast.expr) -> str:
    """What stands in for a value: constants of ours as they are, else its name."""
    if isinstance(node, ast.Attribute) and node.attr.isupper():
        from stmcdi_cli import anndata_keys

        return str(getattr(anndata_keys, node.attr, f"<{node.attr.lower()}>"))
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "one_line":
        return "<reason>"
    if isinstance(node, ast.Attribute):
        return f"<{node.attr.strip('_').replace('_', ' ')}>"
    names = [part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)]
    names += [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]
    return f"<{names[0].lower().strip('_').replace('_', ' ')}>" if len(names) == 1 else "<...>"


def _groovy_lines(text: str) -> Iterator[str]:
    """Messages of the workflow: strings that are an ``error(...)`` or begin as its refusals do."""
    for match in re.finditer(r'(error\()?"((?:\$\{[^}]*\}|[^"\n])*)"', text):
        line = re.sub(r"\$\{([^}]*)\}|\$(\w+)", lambda m: f"<{re.split(r'[^A-Za-z]', m[1] or m[2])[0]}>", match[2])
        if match[1] or re.match(r"--<?\w+>? ('<value>' )?(is|needs|must|does)\b|--\w+ <\w+>: no such|unknown ", line):
            yield " ".join(line.split())


def listing() -> str:
    """The list as it stands in the page."""
    parts = [BEGIN, ""]
    for group, messages in lines().items():
        parts += [f"### {group}", "", "```text", *messages, "```", ""]
    return "\n".join([*parts, END])


def main() -> None:
    """Print the list, or put it into the page."""
    if "--write" not in sys.argv[1:]:
        print(listing())
        return
    page = PAGE.read_text("utf-8")
    start, end = page.index(BEGIN), page.index(END) + len(END)
    PAGE.write_text(page[:start] + listing() + page[end:], "utf-8")


if __name__ == "__main__":
    main()
