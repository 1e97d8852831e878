"""The documentation: its examples run, its links lead somewhere, its site builds, and every error line is in it."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import click
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "benchmarks").glob("*.md")])


def blocks(page):
    """(language, code, line) of each block of a page that is to be run."""
    text = page.read_text("utf-8")
    for match in re.finditer(r"^```(sh|python)\n(.*?)^```", text, re.M | re.S):
        yield match[1], match[2], text[: match.start()].count("\n") + 2


@pytest.mark.parametrize("name", ["quickstart", "tutorial", "python"])
def test_the_examples_run(name, cli, tmp_path, monkeypatch):
    """In order, in one folder, Python blocks in one namespace; no figure is shown."""
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": name}
    ran = 0
    for language, code, line in blocks(DOCS / f"{name}.md"):
        if language == "sh":
            for command in code.replace("\\\n", " ").splitlines():
                program, *arguments = shlex.split(command, comments=True)
                assert program == "stmcdi", command  # in this process: each new one would load torch again
                result = cli(*arguments)
                assert result.exit_code == 0, f"{name}.md, line {line}: {result.stderr}"
        else:
            exec(compile("\n" * (line - 1) + code, f"{name}.md", "exec"), namespace)
        ran += 1
    assert ran >= 2
    import matplotlib.pyplot as plt

    if name == "tutorial":
        assert len(plt.get_fignums()) >= 2 and (tmp_path / "tissue_report.html").stat().st_size > 50_000
    plt.close("all")


def anchors(page):
    """Names of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        path, _, anchor = unquote(target).partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name} links to {target}"


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="SITE NOT BUILT: no mkdocs here; pip install 'stmcdi[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    built = {str(path.parent.relative_to(tmp_path / "site")) for path in (tmp_path / "site").rglob("index.html")}
    for page in DOCS.rglob("*.md"):
        name = str(page.relative_to(DOCS).with_suffix(""))
        assert (name if name != "index" else ".") in built, name
    api = (tmp_path / "site" / "api" / "index.html").read_text("utf-8")
    assert "section_key" in api  # signatures, not headings alone
    home = (tmp_path / "site" / "index.html").read_text("utf-8")
    assert "fonts.googleapis" not in home


def test_every_function_is_on_the_api_page():
    import stmcdi_cli

    page = (DOCS / "api.md").read_text("utf-8")
    assert sorted(re.findall(r"^::: stmcdi_cli\.(\w+)$", page, re.M)) == sorted([*stmcdi_cli.__all__, "errors"])


def test_every_step_has_a_page_that_names_its_options():
    from stmcdi_cli.cli import main

    common = (DOCS / "command-line.md").read_text("utf-8")
    absent = []
    for name, command in main.commands.items():
        text = (DOCS / "steps" / f"{name}.md").read_text("utf-8")
        assert text.startswith(f"# {name}\n") and f"stmcdi {name} " in text, name
        named = set(re.findall(r"--[a-z-]+", text + common))
        options = [option for option in command.params if isinstance(option, click.Option)]
        absent += [f"{name} {option.opts}" for option in options if not named & {*option.opts, *option.secondary_opts}]
    assert not absent


def test_every_error_line_is_in_the_page():
    """Collected from the source; `tools/error_lines.py --write` renews the list."""
    import error_lines

    found = error_lines.lines()
    page = error_lines.PAGE.read_text("utf-8")
    absent = [line for messages in found.values() for line in messages if line not in page]
    assert not absent, f"run tools/error_lines.py --write; not in docs/troubleshooting.md: {absent}"
    assert page[page.index(error_lines.BEGIN) : page.index(error_lines.END)].count("\n") >= sum(
        map(len, found.values())
    )
    assert sum(map(len, found.values())) > 80


def test_error_lines_are_found_whatever_they_are_made_of():
    """The collector itself: every `raise` of ours that carries words is seen."""
    import ast

    import error_lines

    code = """
def f(a):
    message = f"first {a} is wrong here"
    raise InputError(message)
def g(a):
    raise errors.OptionError("second is " + f"wrong {a.b} and {keys.SPATIAL}")
def h(a):
    raise ValueError("a defect, not for users")
"""
    lines = list(error_lines._python_lines(ast.parse(code)))
    assert lines == ["first <a> is wrong here", "second is wrong <b> and spatial"]


def test_the_citation_is_valid_and_of_this_version():
    from stmcdi_cli import __version__

    content = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert content["cff-version"] == "1.2.0" and content["version"] == __version__
    assert {"message", "title", "authors"} <= set(content)
    assert all(author.get("family-names") or author.get("name") for author in content["authors"])
    assert content["preferred-citation"]["type"] == "article"


def test_the_readme_fits_one_screen_and_shows_a_result():
    text = (ROOT / "README.md").read_text("utf-8")
    assert text.count("\n") <= 60
    image = re.search(r"!\[[^\]]+\]\((docs/images/[^)]+)\)", text)
    assert image and 10_000 < (ROOT / image[1]).stat().st_size < 500_000
