import io

import numpy as np
import pytest
from PIL import Image

from stmcdi_cli.reporting import maps


def test_png_is_read_back_by_another_program():
    image = np.arange(256, dtype=np.uint8).reshape(8, 32)
    colours = maps.palette("expression")
    read = Image.open(io.BytesIO(maps.png(image, colours)))
    assert read.size == (32, 8) and read.mode == "P" and read.info["transparency"] in (0, b"\0")
    np.testing.assert_array_equal(np.asarray(read.convert("RGB")), colours[image])


def test_palettes_run_from_their_first_colour_to_their_last():
    for name, codes in maps.COLOURS.items():
        table = maps.palette(name)
        assert bytes(table[2].tolist()).hex() == codes.split()[0]
        assert bytes(table[201].tolist()).hex() == codes.split()[-1]
    assert len({tuple(colour) for colour in maps.palette("expression")[2:202]}) == 200  # told apart


def test_spots_lie_where_they_are_and_the_second_axis_runs_down():
    xy = np.array([[0.0, 0], [10, 0], [0, 10], [10, 10], [5, 5]])
    layout = maps.lay_out(xy, np.zeros(5, int), ["one"])
    (width, height), pixel = layout.sizes[0], layout.pixel
    assert width == height and (pixel >= 0).all() and (pixel < width).all()
    assert pixel[0, 0] < pixel[4, 0] < pixel[1, 0] and pixel[0, 1] < pixel[4, 1] < pixel[2, 1]
    assert layout.stamp.min() >= -pixel.min() and len(layout.stamp) > 50  # a disc, inside the picture


def test_sections_share_one_scale_and_overlap_nowhere():
    square = np.array([[x, y] for x in range(5) for y in range(5)], float)
    layout = maps.lay_out(np.concatenate([square, square / 2]), np.repeat([0, 1], 25), ["large", "small"])
    sides = [np.ptp(layout.pixel[spots], axis=0) for spots in layout.spots]
    np.testing.assert_allclose(sides[0], 2 * sides[1], atol=1)


@pytest.mark.parametrize("xy", [[[0, 0]], [[1, 1], [1, 1]], [[0, 0], [5, 0], [9, 0]]], ids=["one", "same", "line"])
def test_odd_tissues_are_drawn_too(xy):
    xy = np.array(xy, float)
    layout = maps.lay_out(xy, np.zeros(len(xy), int), ["one"])
    drawn = maps.draw(layout, np.zeros(len(xy)), np.ones(len(xy), bool), "depth", (0, 0), "flat")
    assert drawn.size > 0


def test_values_become_colours_and_absent_ones_grey():
    import base64

    xy = np.array([[0.0, 0], [1, 0], [2, 0]])
    layout = maps.lay_out(xy, np.zeros(3, int), ["one"])
    drawn = maps.draw(layout, np.array([0, 5, np.nan]), np.array([True, True, False]), "expression", (0, 5), "a <b>")
    picture = Image.open(io.BytesIO(base64.b64decode(drawn.panels[0].png))).convert("RGBA")
    found = [picture.getpixel(tuple(int(v) for v in pixel))[:3] for pixel in layout.pixel]
    assert found == [(0x44, 0x01, 0x54), (0xFD, 0xE7, 0x25), (0xD9, 0xD9, 0xD9)]
