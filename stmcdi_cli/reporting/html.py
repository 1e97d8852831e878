"""Pieces of HTML that every part of the page is made of."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from stmcdi_cli.reporting.reliability import CAUTION, DONT, TRUST, UNFILLED

STYLES = {TRUST: "trust", CAUTION: "caution", DONT: "dont", UNFILLED: "none"}
"""Class in ``page.css`` of each verdict."""


def figure(picture: str, caption: str, note: str = "") -> str:
    """A picture with its caption."""
    small = f"<small>{escape(note)}</small>" if note else ""
    return f"<figure><figcaption>{escape(caption)}{small}</figcaption>{picture}</figure>"


def badge(verdict: str) -> str:
    """A verdict in its colour."""
    return f'<span class="badge {STYLES[verdict]}">{escape(verdict)}</span>'


def table_of(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    own: int | None = None,
    words: Sequence[int] = (),
    style: str = "",
) -> str:
    """A table; `own` is the row to set off, `words` the columns of running text."""
    kind = ["words" if k in words else "" for k in range(len(head))]
    top = "".join(f'<th class="{"text" if k in words else ""}">{escape(name)}</th>' for k, name in enumerate(head))
    body = "".join(
        f"<tr{' class=own' if n == own else ''}>"
        + "".join(f'<td class="{kind[k]}">{escape(cell)}</td>' for k, cell in enumerate(row))
        + "</tr>"
        for n, row in enumerate(rows)
    )
    return (
        f"<table class='{style}'>{f'<thead><tr>{top}</tr></thead>' if any(head) else ''}<tbody>{body}</tbody></table>"
    )


def _column(layer: Any) -> np.ndarray:
    return np.asarray(layer.toarray() if hasattr(layer, "toarray") else layer, dtype=np.float64).ravel()


def number(value: float | int | None) -> str:
    """A score with three decimals, a dash where there is none."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.3f}"


def share(value: Any) -> str:
    """A share in per cent."""
    return f"{value:.1%}"


def plain(value: Any) -> str:
    """Text as it is, whole numbers with separators, others with three digits."""
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}" if value < 10 else f"{value:,.0f}"


def column_of(layer: Any) -> np.ndarray:
    """A layer of one gene as a vector, sparse or not."""
    return np.asarray(layer.toarray() if hasattr(layer, "toarray") else layer, dtype=np.float64).ravel()


def jsonable(value: Any) -> Any:
    """A cell as JSON can hold it: no NaN, four decimals."""
    if isinstance(value, float | np.floating):
        return None if not np.isfinite(value) else round(float(value), 4)
    return int(value) if isinstance(value, np.integer) else value
