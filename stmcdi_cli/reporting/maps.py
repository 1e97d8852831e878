"""Maps of a number over the tissue, sections side by side, as small palette pictures (PNG)."""

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ROW = 1000
"""Pixels of a row of sections, about."""
MOST_PER_ROW = 4
WIDE = 3.0
"""Width over height from which a map wants the page to itself."""
COLOURS = {  # from low to high
    "expression": "440154 482475 414487 355f8d 2a788e 21918c 22a884 44bf70 7ad151 bddf26 fde725",
    "spread": "f7f4f9 e7e1ef d4b9da c994c7 df65b0 e7298a ce1256 980043 67001f",
    "depth": "f7fbff deebf7 c6dbef 9ecae1 6baed6 4292c6 2171b5 08519c 08306b",
}
_PAPER, _NO_VALUE, _FIRST = 0, 1, 2
_LEVELS = 200


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
    sizes
        Width and height of each section's picture.
    stamp
        Columns and rows, relative to a spot's own, that its disc covers.
    """

    names: tuple[str, ...]
    spots: tuple[np.ndarray, ...]
    pixel: np.ndarray
    sizes: tuple[tuple[int, int], ...]
    stamp: np.ndarray

    @property
    def row(self) -> int:
        """Width of the widest row of sections, in pixels."""
        widths = [width for width, _ in self.sizes]
        return max(sum(widths[k : k + MOST_PER_ROW]) for k in range(0, len(widths), MOST_PER_ROW))

    @property
    def wide(self) -> bool:
        """Whether maps are so wide that three beside each other would be strips."""
        return self.row / max(height for _, height in self.sizes) > WIDE


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
    from scipy.spatial import cKDTree

    spots = tuple(np.flatnonzero(sections == code) for code in range(len(names)))
    starts = [xy[here].min(0) for here in spots]
    extents = [np.ptp(xy[here], axis=0) for here in spots]
    panel = ROW // min(len(names), MOST_PER_ROW) if len(names) > 1 else 600
    scale = (panel - 1) / (max(float(extent.max()) for extent in extents) or 1.0)
    spacing = []
    for here in spots:
        if len(here) > 1:
            distance = cKDTree(xy[here]).query(xy[here], k=2)[0][:, 1]
            area = float(np.prod(np.ptp(xy[here], axis=0)))
            spacing.append(max(float(np.median(distance)), 0.6 * np.sqrt(area / len(here))))  # cells lie in clumps
    diameter = np.clip(scale * (np.median(spacing) if spacing else 0.0), 1.0, panel / 6)
    radius = diameter * 0.6  # discs touch, whatever the rounding
    reach = int(np.ceil(radius))
    offset = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T[:, ::-1]
    stamp = offset[(offset**2).sum(1) <= max(radius**2, 0.5)]

    pixel = np.empty((len(xy), 2), dtype=int)
    sizes = []
    for here, start, extent in zip(spots, starts, extents, strict=True):
        pixel[here] = np.rint((xy[here] - start) * scale).astype(int) + reach
        width, height = (np.ceil(extent * scale).astype(int) + 2 * reach + 1).tolist()
        sizes.append((width, height))
    return Layout(tuple(names), spots, pixel, tuple(sizes), stamp)


def draw(
    layout: Layout, values: np.ndarray, known: np.ndarray, colours: str, limits: tuple[float, float], description: str
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
    colours
        A name in `COLOURS`.
    limits
        Values of the lowest and the highest colour; others are cut off there.
    description
        What a reader who cannot see the map is told.
    """
    low, high = limits
    level = np.clip((values - low) / ((high - low) or 1), 0, 1)
    index = np.where(known, _FIRST + np.rint(np.nan_to_num(level) * (_LEVELS - 1)).astype(int), _NO_VALUE)
    table = palette(colours)
    panels = []
    for name, here, (width, height) in zip(layout.names, layout.spots, layout.sizes, strict=True):
        image = np.full((height, width), _PAPER, dtype=np.uint8)
        column = layout.pixel[here, 0, None] + layout.stamp[None, :, 0]
        row = layout.pixel[here, 1, None] + layout.stamp[None, :, 1]
        image[row, column] = index[here, None]
        picture = base64.b64encode(png(image, table)).decode("ascii")
        label = name if len(layout.names) > 1 else ""
        panels.append(Panel(label, picture, width, height, f"{98 * width / layout.row:.1f}"))
    ramp = [f"#{bytes(colour.tolist()).hex()}" for colour in table[_FIRST : _FIRST + _LEVELS : 18]]
    return TissueMap(description, panels, low, high, ramp)


def palette(colours: str) -> np.ndarray:
    """Colours by index, 256 x 3, uint8: paper, no value, then `_LEVELS` from low to high."""
    anchors = np.array([list(bytes.fromhex(code)) for code in COLOURS[colours].split()], dtype=float)
    at = np.linspace(0, len(anchors) - 1, _LEVELS)
    ramp = np.stack([np.interp(at, range(len(anchors)), anchors[:, k]) for k in range(3)], axis=1)
    table = np.full((256, 3), 255, dtype=np.uint8)
    table[_NO_VALUE] = (0xD9, 0xD9, 0xD9)
    table[_FIRST : _FIRST + _LEVELS] = np.rint(ramp)
    return table


def png(image: np.ndarray, colours: np.ndarray) -> bytes:
    """Encode indices, rows x columns, uint8, and their colours as a PNG file; index 0 is transparent."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows, columns = image.shape
    lines = np.zeros((rows, columns + 1), dtype=np.uint8)  # each line starts with its filter: none
    lines[:, 1:] = image
    header = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)
    parts = (
        (b"IHDR", header),
        (b"PLTE", colours.tobytes()),
        (b"tRNS", b"\0"),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts) + chunk(b"IEND", b"")
