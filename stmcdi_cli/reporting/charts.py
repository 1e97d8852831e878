"""Small charts as SVG text: no script, no plotting library, sharp on screen and in print.

Every chart is drawn in a box of its own units and scales with the page; colours are classes of ``page.css``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

import numpy as np

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 14, 46


@dataclass(frozen=True)
class Drawing:
    """A chart as the page shows it: an inline SVG element, and (style, label) of its legend."""

    svg: str
    legend: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Chart:
    """Axes with marks on them.

    Attributes
    ----------
    x_label, y_label
        What the axes show.
    x_range, y_range
        Data ranges; points outside are not drawn.
    description
        What a reader who cannot see the chart is told.
    """

    x_label: str
    y_label: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    description: str
    marks: list[str] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)

    def x(self, value: float) -> float:
        """Place of a value on the horizontal axis."""
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Place of a value on the vertical axis."""
        low, high = self.y_range
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def line(self, x: Iterable[float], y: Iterable[float], style: str, label: str | None = None) -> None:
        """Join points in order."""
        points = " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in zip(x, y, strict=True))
        self.marks.append(f'<polyline class="line {style}" points="{points}"/>')
        if label:
            self.legend.append((style, label))

    def points(
        self, x: Iterable[float], y: Iterable[float], style: str, label: str | None = None, radius: float = 2.5
    ) -> None:
        """Draw points within the axes."""
        for a, b in zip(x, y, strict=True):
            if self.x_range[0] <= a <= self.x_range[1] and self.y_range[0] <= b <= self.y_range[1]:
                self.marks.append(
                    f'<circle class="dot {style}" cx="{self.x(a):.1f}" cy="{self.y(b):.1f}" r="{radius}"/>'
                )
        if label:
            self.legend.append((style, label))

    def bar(self, left: float, right: float, bottom: float, top: float, style: str) -> None:
        """Fill a box given in data units."""
        width, height = self.x(right) - self.x(left), self.y(bottom) - self.y(top)
        if width > 0 and height > 0:
            self.marks.append(
                f'<rect class="bar {style}" x="{self.x(left):.1f}" y="{self.y(top):.1f}" '
                f'width="{width:.1f}" height="{height:.1f}"/>'
            )

    def drawing(self) -> "Drawing":
        """The chart as an inline SVG element, with its legend."""
        grid = []
        for value in ticks(*self.y_range):
            at = self.y(value)
            grid.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
            grid.append(f'<text class="tick end" x="{LEFT - 7}" y="{at + 4:.1f}">{value:g}</text>')
        for value in ticks(*self.x_range):
            at = self.x(value)
            grid.append(f'<text class="tick middle" x="{at:.1f}" y="{HEIGHT - BOTTOM + 17}">{value:g}</text>')
        base = HEIGHT - BOTTOM
        grid.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        names = [
            f'<text class="name middle" x="{middle}" y="{HEIGHT - 8}">{escape(self.x_label)}</text>',
            f'<text class="name middle" transform="translate(13 {(TOP + base) / 2}) rotate(-90)">'
            f"{escape(self.y_label)}</text>",
        ]
        return Drawing(_svg(WIDTH, HEIGHT, self.description, [*grid, *self.marks, *names]), self.legend)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two values, `most` at most."""
    rough = (high - low) / (most - 1)
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first = np.ceil(low / step - 1e-9)
    values = [float(round(step * k, 10)) + 0.0 for k in np.arange(first, first + 2 * most)]  # + 0.0: no -0
    return [value for value in values if value <= high + step * 1e-6]


def histogram(
    groups: Mapping[str, np.ndarray],
    styles: Mapping[str, str],
    x_label: str,
    y_label: str,
    description: str,
    limits: tuple[float, float] | None = None,
) -> "Drawing":
    """Stacked histogram of one number in several groups, over the limits or whatever range they have."""
    everything = np.concatenate([values[np.isfinite(values)] for values in groups.values()])
    low, high = limits or padded(everything, share=0)
    edges = np.linspace(low, high, 41)
    stacks = {name: np.histogram(values[np.isfinite(values)], edges)[0] for name, values in groups.items()}
    tallest = max(1, int(sum(stacks.values()).max()))  # type: ignore[union-attr]
    chart = Chart(x_label, y_label, (low, high), (0, tallest * 1.05), description)
    bottom = np.zeros(40)
    for name, heights in stacks.items():
        for k, (left, right) in enumerate(pairwise(edges)):
            chart.bar(left, right, bottom[k], bottom[k] + heights[k], styles[name])
        bottom += heights
        if len(groups) > 1:
            chart.legend.append((styles[name], name))
    return chart.drawing()


def bars(rows: Sequence[tuple[str, float, str]], description: str, digits: int = 3) -> "Drawing":
    """Horizontal bars with their numbers, one per (name, value, style); values may be negative."""
    row, left, right = 30, 150, 60
    height = row * len(rows) + 12
    low, high = min(0.0, *(value for _, value, _ in rows)), max(0.0, *(value for _, value, _ in rows))
    scale = (WIDTH - left - right) / ((high - low) or 1)
    zero = left - low * scale
    marks = []
    for k, (name, value, style) in enumerate(rows):
        y = 6 + k * row
        start, width = (zero, value * scale) if value >= 0 else (zero + value * scale, -value * scale)
        label = name if len(name) <= 20 else name[:19] + "…"
        marks.append(f'<text class="name end" x="{left - 8}" y="{y + 19}">{escape(label)}</text>')
        marks.append(
            f'<rect class="bar {style}" x="{start:.1f}" y="{y + 4}" width="{max(width, 1):.1f}" height="{row - 10}"/>'
        )
        end = max(start + width, zero)
        marks.append(f'<text class="tick" x="{end + 6:.1f}" y="{y + 19}">{value:.{digits}f}</text>')
    marks.append(f'<line class="axis" x1="{zero:.1f}" x2="{zero:.1f}" y1="4" y2="{height - 4}"/>')
    return Drawing(_svg(WIDTH, height, description, marks))


def padded(values: np.ndarray, share: float = 0.05) -> tuple[float, float]:
    """Range of some values with room around, never empty."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    room = (high - low) * share if high > low else max(abs(high), 1) * 0.05
    return low - room, high + room


def _svg(width: int, height: int, description: str, content: Sequence[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(description)}">'
        f"{''.join(content)}</svg>"
    )
