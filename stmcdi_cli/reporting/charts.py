"""The report's charts, drawn with matplotlib, as SVG for the inside of the page.

Sections call `axes_of`, draw with matplotlib's own methods, and end with `drawing_of`, all within `style`. The same
numbers give the same bytes, whatever the user's matplotlib settings.
"""

import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from stmcdi_cli.reporting.reliability import CAUTION, DONT, TRUST, UNFILLED

COLORS = {
    "main": "#2a788e",
    "second": "#d1722e",
    "third": "#7a5aa6",
    "other": "#aab6c2",
    "guide": "#9aa3ad",
    TRUST: "#2a7f4f",
    CAUTION: "#d9a03f",
    DONT: "#c65f5f",
    UNFILLED: "#9aa3ad",
}
"""Colour of each verdict and of the other things in charts."""
INK, PALE_INK, GRID = "#1c2430", "#5b6573", "#eceff2"
GUIDE: dict[str, Any] = {"color": COLORS["guide"], "lw": 1.3, "ls": (0, (4, 3))}
"""A dashed line to compare with."""
WIDTH, HEIGHT = 460, 300
"""Size of a chart in points, which are the units of its SVG; the page scales it."""
STYLE: dict[str, Any] = {
    "axes.edgecolor": COLORS["guide"],
    "axes.labelcolor": INK,
    "axes.labelpad": 9.0,
    "axes.labelsize": 12.5,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib; measures text, which the page shows in its own font
    "font.size": 12.5,
    "grid.color": GRID,
    "grid.linewidth": 1.0,
    "lines.linewidth": 2.0,
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # a name with dollar signs is not a formula
    "xtick.bottom": False,
    "xtick.color": PALE_INK,
    "xtick.labelsize": 11.5,
    "ytick.color": PALE_INK,
    "ytick.labelsize": 11.5,
    "ytick.left": False,
}
LONGEST_NAME = 20


@dataclass(frozen=True)
class Key:
    """An entry of a chart's legend."""

    label: str
    color: str
    dashed: bool


@dataclass(frozen=True)
class Drawing:
    """A chart as the page shows it: an SVG element, and the legend below it."""

    svg: str
    legend: list[Key]


@contextmanager
def style() -> Iterator[None]:
    """Draw with the settings of the report; the user's are restored afterwards."""
    with matplotlib.style.context(["default", STYLE]):
        yield


def axes_of(x_label: str, y_label: str, x_range: tuple[float, float], y_range: tuple[float, float]) -> Axes:
    """Empty axes in a figure of their own."""
    axes = _axes(HEIGHT, (56, 46, WIDTH - 70, HEIGHT - 60))
    axes.set(xlabel=x_label, ylabel=y_label, xlim=x_range, ylim=y_range)
    axes.grid(axis="y")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter("{x:g}")
    axes.yaxis.set_label_coords(-43 / (WIDTH - 70), 0.5)
    return axes


def _axes(height: int, box: tuple[int, int, int, int]) -> Axes:
    """Axes at left, bottom, width and height of a chart, all in points, without background."""
    figure = Figure(figsize=(WIDTH / 72, height / 72))
    axes = figure.add_axes((box[0] / WIDTH, box[1] / height, box[2] / WIDTH, box[3] / height))
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    return axes


def drawing_of(axes: Axes, description: str) -> Drawing:
    """Finish a chart: its SVG, and a legend of all that has a label.

    Parameters
    ----------
    axes
        The axes of the chart, the only ones of their figure.
    description
        What a reader who cannot see the chart is told; no two charts of a page have the same.
    """
    legend = []
    for artist, label in zip(*axes.get_legend_handles_labels(), strict=True):
        if isinstance(artist, Line2D):
            legend.append(Key(label, to_hex(artist.get_color()), artist.is_dashed()))
        elif isinstance(artist, Patch):
            legend.append(Key(label, to_hex(artist.get_facecolor()), False))
    text = StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": description}):
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # browsers have more fonts
        axes.figure.savefig(text, format="svg", metadata=no_metadata)  # type: ignore[union-attr]
    return Drawing(_inline(text.getvalue(), description), legend)


def histogram(
    groups: Mapping[str, tuple[np.ndarray, str]],
    x_label: str,
    y_label: str,
    description: str,
    limits: tuple[float, float] | None = None,
) -> Drawing:
    """Stacked histogram of one number in several groups, over the limits or whatever range the values have.

    Parameters
    ----------
    groups
        Values and colour of each group, by its name.
    x_label, y_label
        What the axes show.
    description
        What a reader who cannot see the chart is told.
    limits
        Range of the horizontal axis.
    """
    known = {name: values[np.isfinite(values)] for name, (values, _) in groups.items()}
    low, high = limits or padded(np.concatenate(list(known.values())), share=0)
    axes = axes_of(x_label, y_label, (low, high), (0, 1))
    below = np.zeros(40)
    for name, values in known.items():
        count, edges = np.histogram(values, len(below), (low, high))
        label = name if len(groups) > 1 else None
        axes.stairs(below + count, edges, baseline=below, fill=True, color=groups[name][1], label=label)
        below = below + count
    axes.set_ylim(0, 1.05 * max(1, below.max()))
    return drawing_of(axes, description)


def bars(rows: Sequence[tuple[str, float, str]], description: str) -> Drawing:
    """Horizontal bars with their numbers, one per (name, value, colour); values may be negative."""
    names, values, colors = zip(*rows, strict=True)
    height = 30 * len(rows) + 12
    axes = _axes(height, (150, 0, WIDTH - 210, height))
    axes.barh(range(len(rows)), values, 2 / 3, color=list(colors))
    axes.set_yticks(range(len(rows)), [_short(name) for name in names], color=INK, size=12.5)
    low, high = min(0.0, *values), max(0.0, *values)
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlim=(low, high if high > low else 1), xticks=[])
    axes.spines.bottom.set_visible(False)
    axes.axvline(0, color=COLORS["guide"], lw=1)
    for k, value in enumerate(values):
        text = f"{value:.3f}"
        axes.annotate(
            text, (max(value, 0), k), (6, 0), textcoords="offset points", va="center", color=PALE_INK, size=11.5
        )
    return drawing_of(axes, description)


def padded(values: np.ndarray, share: float = 0.05) -> tuple[float, float]:
    """Range of some values with room around, never empty."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    room = (high - low) * share if high > low else max(abs(high), 1) * 0.05
    return low - room, high + room


def _short(name: str) -> str:
    """A name as a label: one line, no control characters (XML has none), not too long."""
    name = "".join(character if character.isprintable() else " " for character in name)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _inline(svg: str, description: str) -> str:
    """Turn matplotlib's SVG file into an element for the page.

    What would reach beyond the chart goes: the style sheet, and names of groups, which must be unique in a page. Text
    takes the page's font. Numbers get two decimals, and the style that all dots of a line share is written once.
    """
    root = ET.fromstring(svg)
    used = set(re.findall(r"#(\w+)", svg))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.tail = None
        if element.tag != "text":
            element.text = None
        element.attrib = {
            name.rpartition("}")[2]: _brief(value)
            for name, value in element.items()
            if (name != "id" or value in used) and not value.startswith("rotate(-0 ")
        }
        styles = {child.get("style", "") for child in element if child.tag.endswith("}use")}
        if len(styles) == 1 and len(element) > 1:
            element.set("style", styles.pop())
            for child in element:
                child.attrib.pop("style", None)
    for element in root.findall("defs/style/.."):
        root.remove(element)
    root.attrib = {"class": "chart", "viewBox": root.attrib["viewBox"], "role": "img", "aria-label": description}
    title = ET.Element("title")
    title.text = description
    root.insert(0, title)
    return ET.tostring(root, encoding="unicode")


def _brief(value: str) -> str:
    """An attribute on one line, its numbers with two decimals, without a font of its own."""
    value = re.sub(r"font-family: [^;]*; |font: (?=\d)", "", " ".join(value.split()))
    return re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), value)
