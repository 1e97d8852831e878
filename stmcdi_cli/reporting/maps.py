"""Maps of a number over the tissue, sections side by side, as PNG pictures.

Where every spot lies is drawn once, by matplotlib. Each map then only colours the spots.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from PIL import Image

ROW = 1000
"""Pixels of a row of sections, about."""
MOST_PER_ROW = 4
WIDE = 3.0
"""Width over height from which a map takes the full width of the page."""
COLORMAPS = {"expression": "viridis", "spread": "PuRd", "depth": "Blues"}
NO_VALUE = (0xD9, 0xD9, 0xD9)
_LEVELS = 200
_NO_VALUE, _PAPER = _LEVELS, _LEVELS + 1


@dataclass(frozen=True)
class Layout:
    """Where every spot lies in the picture of its section; all sections are at one scale.

    Attributes
    ----------
    names
        Name of each section.
    spots
        Indices of each section's spots.
    pixel
        Column and row of each spot in the picture of its section.
    shown
        For each section the spot that each pixel shows, rows x columns, counted within the section; -1 for none.
    """

    names: tuple[str, ...]
    spots: tuple[np.ndarray, ...]
    pixel: np.ndarray
    shown: tuple[np.ndarray, ...]

    @property
    def row(self) -> int:
        """Width of the widest row of sections, in pixels."""
        widths = [shown.shape[1] for shown in self.shown]
        return max(sum(widths[k : k + MOST_PER_ROW]) for k in range(0, len(widths), MOST_PER_ROW))

    @property
    def wide(self) -> bool:
        """Whether maps are too wide to stand three beside each other."""
        return self.row / max(len(shown) for shown in self.shown) > WIDE


@dataclass(frozen=True)
class Panel:
    """Picture of one section: PNG in base64, its size in pixels, its share of the row's width.

    The name is empty where there is only one section.
    """

    name: str
    png: str
    width: int
    height: int
    percent: str


@dataclass(frozen=True)
class TissueMap:
    """A number over the tissue: a picture per section, and the ends and colours of the colour bar."""

    description: str
    panels: list[Panel]
    low: float
    high: float
    ramp: list[str]

    @property
    def size(self) -> int:
        """Bytes of the pictures."""
        return sum(len(panel.png) for panel in self.panels)


def lay_out(xy: np.ndarray, sections: np.ndarray, names: Sequence[str]) -> Layout:
    """Place the spots; the second coordinate runs downwards, as in images.

    Parameters
    ----------
    xy
        Spot coordinates, spots x 2.
    sections
        Integer code of each spot's section.
    names
        Name of each section.
    """
    spots = tuple(np.flatnonzero(sections == code) for code in range(len(names)))
    extents = [np.ptp(xy[here], axis=0) for here in spots]
    panel = ROW // min(len(names), MOST_PER_ROW) if len(names) > 1 else 600
    scale = (panel - 1) / (max(float(extent.max()) for extent in extents) or 1.0)
    spacing = [_spacing(xy[here]) for here in spots if len(here) > 1]
    diameter = 1.2 * np.clip(scale * (np.median(spacing) if spacing else 0.0), 1.0, panel / 6)  # discs touch
    margin = int(np.ceil(diameter / 2))
    pixel = np.empty((len(xy), 2), dtype=int)
    shown = []
    for here, extent in zip(spots, extents, strict=True):
        pixel[here] = np.rint((xy[here] - xy[here].min(0)) * scale).astype(int) + margin
        width, height = (np.ceil(extent * scale).astype(int) + 2 * margin + 1).tolist()
        shown.append(_draw_spots(pixel[here], diameter, width, height))
    return Layout(tuple(names), spots, pixel, tuple(shown))


def _spacing(xy: np.ndarray) -> float:
    """Distance between neighbouring spots of a section."""
    from scipy.spatial import cKDTree

    distance = cKDTree(xy).query(xy, k=2)[0][:, 1]
    area = float(np.prod(np.ptp(xy, axis=0)))
    return max(float(np.median(distance)), 0.6 * float(np.sqrt(area / len(xy))))  # the area counts where cells cluster


def _draw_spots(pixel: np.ndarray, diameter: float, width: int, height: int) -> np.ndarray:
    """Draw a disc per spot and give the spot that each pixel shows, -1 for none: the colour of a disc is its number."""
    figure = Figure(figsize=(width, height), dpi=1)  # so that sizes in pixels are exact
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    figure.patch.set_facecolor("black")
    number = np.arange(1, len(pixel) + 1)
    color = np.stack([number >> 16, number >> 8 & 255, number & 255], axis=1) / 255
    x, y = pixel.T + 0.5
    inner = max(diameter - 1, 0.5)  # without antialiasing every pixel that a disc touches is drawn
    axes.scatter(x, y, s=(72 * inner) ** 2, c=color, linewidths=0, antialiased=False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    red, green, blue = np.moveaxis(np.asarray(canvas.buffer_rgba())[..., :3].astype(int), 2, 0)
    return (red << 16 | green << 8 | blue) - 1


def draw(
    layout: Layout, values: np.ndarray, known: np.ndarray, colors: str, limits: tuple[float, float], description: str
) -> TissueMap:
    """Draw one map: a picture per section, and a colour bar.

    Parameters
    ----------
    layout
        Where the spots lie.
    values
        A number for every spot.
    known
        False where there is none: such spots are grey.
    colors
        A name in `COLORMAPS`.
    limits
        Values of the lowest and the highest colour; values outside are shown as the nearest of both.
    description
        What a reader who cannot see the map is told.
    """
    low, high = limits
    share = Normalize(low, high if high > low else low + 1, clip=True)(np.where(known, values, low))
    level = np.where(known, np.rint(share * (_LEVELS - 1)), _NO_VALUE).astype(np.uint8)
    colors_of_levels = matplotlib.colormaps[COLORMAPS[colors]](np.linspace(0, 1, _LEVELS))
    panels = []
    for name, here, shown in zip(layout.names, layout.spots, layout.shown, strict=True):
        picture = _png(np.append(level[here], np.uint8(_PAPER))[shown], colors_of_levels)
        height, width = shown.shape
        label = name if len(layout.names) > 1 else ""
        panels.append(Panel(label, picture, width, height, f"{98 * width / layout.row:.1f}"))
    return TissueMap(description, panels, low, high, [to_hex(color) for color in colors_of_levels[::18]])


def _png(image: np.ndarray, colors: np.ndarray) -> str:
    """Levels, rows x columns, as a PNG file in base64; with a palette, as it is a third of the size."""
    picture = Image.fromarray(image)
    picture.putpalette([*np.rint(255 * colors[:, :3]).astype(np.uint8).ravel().tolist(), *NO_VALUE, 255, 255, 255])
    file = BytesIO()
    picture.save(file, "png", optimize=True, transparency=_PAPER)
    return base64.b64encode(file.getvalue()).decode("ascii")
