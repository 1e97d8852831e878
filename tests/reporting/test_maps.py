"""Maps show every spot at its place and in its color, as small PNG files."""

import base64
import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from stmcdi_cli.reporting import maps


def picture(panel):
    return Image.open(io.BytesIO(base64.b64decode(panel.png)))


def draw(layout, values, known=None, colors="expression", limits=(0, 5)):
    known = np.ones(len(values), bool) if known is None else known
    return maps.draw(layout, np.asarray(values, float), known, colors, limits, "a map")


def test_every_spot_is_a_disc_where_it_lies_and_the_second_axis_runs_down():
    xy = np.array([[0.0, 0], [10, 0], [0, 10], [10, 10], [5, 5]])
    layout = maps.lay_out(xy, np.zeros(5, int), ["one"])
    (shown,) = layout.shown
    assert shown.shape[0] == shown.shape[1]
    rows, columns = zip(*(np.nonzero(shown == spot) for spot in range(5)), strict=True)
    centres = np.array([[column.mean(), row.mean()] for column, row in zip(columns, rows, strict=True)])
    np.testing.assert_allclose(centres, layout.pixel, atol=0.5)
    sizes = [len(row) for row in rows]
    diameter = np.ptp(rows[0]) + 1
    assert min(sizes) == max(sizes) == pytest.approx(np.pi / 4 * diameter**2, rel=0.05)
    assert (shown[0] == -1).any()


def test_sections_share_one_scale_and_overlap_nowhere():
    square = np.array([[x, y] for x in range(5) for y in range(5)], float)
    layout = maps.lay_out(np.concatenate([square, square / 2]), np.repeat([0, 1], 25), ["large", "small"])
    sides = [np.ptp(layout.pixel[spots], axis=0) for spots in layout.spots]
    np.testing.assert_allclose(sides[0], 2 * sides[1], atol=1)


@pytest.mark.parametrize("xy", [[[0, 0]], [[1, 1], [1, 1]], [[0, 0], [5, 0], [9, 0]]], ids=["one", "same", "line"])
def test_odd_tissues_are_drawn_too(xy):
    xy = np.array(xy, float)
    layout = maps.lay_out(xy, np.zeros(len(xy), int), ["one"])
    assert picture(draw(layout, np.zeros(len(xy)), limits=(0, 0)).panels[0]).size == layout.shown[0].shape[::-1]


def test_many_spots_are_told_apart_and_seen():
    """More than 2^16 spots, each of a pixel or so: the number of a spot takes three bytes of a color."""
    xy = np.stack(np.meshgrid(np.arange(300.0), np.arange(300.0)), axis=-1).reshape(-1, 2)
    layout = maps.lay_out(xy, np.zeros(len(xy), int), ["one"])
    column, row = layout.pixel.T
    np.testing.assert_array_equal(layout.shown[0][row, column], np.arange(len(xy)))


def test_values_become_colors_and_absent_ones_grey_on_transparent_paper():
    xy = np.array([[0.0, 0], [1, 0], [2, 0], [0, 3]])
    layout = maps.lay_out(xy, np.zeros(4, int), ["one"])
    known = np.array([True, True, False, True])
    image = picture(draw(layout, [0, 7, np.nan, 2.5], known).panels[0])
    assert image.mode == "P"
    image = image.convert("RGBA")
    found = [image.getpixel(tuple(int(v) for v in pixel)) for pixel in layout.pixel]
    assert found[:3] == [(0x44, 0x01, 0x54, 255), (0xFD, 0xE7, 0x25, 255), (0xD9, 0xD9, 0xD9, 255)]
    np.testing.assert_allclose(np.array(found[3][:3]) / 255, matplotlib.colormaps["viridis"](0.5)[:3], atol=0.02)
    assert image.getpixel((image.width - 1, image.height - 1))[3] == 0


def test_the_colour_bar_runs_over_the_colormap():
    layout = maps.lay_out(np.eye(2), np.zeros(2, int), ["one"])
    for name, ends in {
        "expression": ("#440154", "#f"),
        "spread": ("#f7f4f9", "#6"),
        "depth": ("#f7fbff", "#08"),
    }.items():
        ramp = draw(layout, [0, 1], colors=name).ramp
        assert ramp[0] == ends[0] and ramp[-1].startswith(ends[1]) and len(set(ramp)) == len(ramp) == 12


def test_names_of_sections_are_given_where_there_are_several():
    xy = np.array([[0.0, 0], [1, 0], [0, 0], [1, 0]])
    one, two = maps.lay_out(xy, np.zeros(4, int), ["one"]), maps.lay_out(xy, np.array([0, 0, 1, 1]), ["<a>", "b"])
    assert [panel.name for panel in draw(one, np.zeros(4)).panels] == [""]
    assert [panel.name for panel in draw(two, np.zeros(4)).panels] == ["<a>", "b"]


def test_the_same_numbers_give_the_same_bytes():
    xy, values = np.random.default_rng(0).random((50, 2)), np.arange(50)
    one, other = (draw(maps.lay_out(xy, np.zeros(50, int), ["one"]), values) for _ in range(2))
    assert one == other
