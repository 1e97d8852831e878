"""How the page writes verdicts and numbers: the filters of its templates."""

from typing import Any

import numpy as np

from stmcdi_cli.reporting.reliability import CAUTION, DONT, TRUST, UNFILLED

STYLES = {TRUST: "trust", CAUTION: "caution", DONT: "dont", UNFILLED: "none"}
"""Class in ``page.css`` of each verdict."""


def number(value: float | int | None) -> str:
    """A metric with three decimals, a dash where there is none."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.3f}"


def share(value: float | None, digits: int = 1) -> str:
    """A share in per cent, a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}%}"


def plain(value: Any) -> str:
    """Text as it is, whole numbers with separators, others with three digits."""
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}" if value < 10 else f"{value:,.0f}"
