"""Completes the site: a page per step in the order of the work, pages that nobody listed, links out of docs/."""

import posixpath
import re
from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Complete the navigation; called by mkdocs with its configuration, see mkdocs.yml."""
    from stmcdi_cli.cli import main

    docs = Path(config["docs_dir"])
    order = list(main.commands)
    steps = sorted((docs / "steps").glob("*.md"), key=lambda page: ([*order, page.stem]).index(page.stem))
    for section in config["nav"]:
        if "Steps" in section:
            section["Steps"] = [{page.stem: f"steps/{page.name}"} for page in steps]
    listed = set(_pages(config["nav"]))
    others = [page.name for page in sorted(docs.glob("*.md")) if page.name not in listed]
    for section in config["nav"]:
        if "Background" in section:
            section["Background"] += others
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn a link to a file outside docs/, which is not on the site, into its name in the repository."""

    def outside(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), match[2]))
        return f"{match[1]} (`{target[3:]}` in the repository)" if target.startswith("../") else match[0]

    return re.sub(r"(?<!!)\[([^\]]+)\]\((\.\./[^)#]+)[^)]*\)", outside, markdown)


def _pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in _pages(part)]
