"""Charts are SVG that fits into a page, show every value at its place, and are the same for the same numbers."""

import re
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest

from stmcdi_cli.reporting import charts

BOTTOM, TOP = 254, 14
"""Ends of the vertical axis in the SVG."""


@pytest.fixture(autouse=True)
def style():
    with charts.style():
        yield


def texts(drawing):
    return [element.text for element in ET.fromstring(drawing.svg).iter("text")]


def draw_some(description="says"):
    axes = charts.axes_of("x <1>", "y & z", (0, 10), (0, 1))
    axes.plot([0, 10], [0, 1], "o", color="#ff0000", label="dots <b>")
    axes.plot([0, 5, 10], [0, 0.5, 1], label="equal", **charts.GUIDE)
    return charts.drawing_of(axes, description)


def test_a_chart_is_one_element_that_describes_itself_and_changes_nothing_around_it():
    drawing = draw_some('says "so" & <so>')
    root = ET.fromstring(drawing.svg)
    assert root.tag == "svg" and root.get("role") == "img" and root.get("class") == "chart"
    assert root.get("aria-label") == root[0].text == 'says "so" & <so>' and root[0].tag == "title"
    assert "width" not in root.attrib and "<style" not in drawing.svg and "\n" not in drawing.svg
    assert all(f"#{name}" in drawing.svg for name in re.findall(r' id="(\w+)"', drawing.svg))  # others are gone


def test_two_charts_share_no_id():
    one, other = (set(re.findall(r' id="(\w+)"', draw_some(description).svg)) for description in ("one", "other"))
    assert one and other and not one & other


def test_text_stays_text_in_the_font_of_the_page():
    assert {"x <1>", "y & z"} <= set(texts(draw_some())) and "font-family" not in draw_some().svg


def test_points_lie_where_their_values_are():
    dots = [(float(dot.get("x")), float(dot.get("y"))) for dot in ET.fromstring(draw_some().svg).iter("use")]
    assert dots == [(56, BOTTOM), (446, TOP)]


def test_the_legend_names_what_has_a_label():
    dots, equal = draw_some().legend
    assert dots == charts.Key("dots <b>", "#ff0000", dashed=False)
    assert equal == charts.Key("equal", charts.COLORS["guide"], dashed=True)


def test_the_same_numbers_give_the_same_bytes_whatever_the_settings(monkeypatch):
    first = draw_some().svg
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 20)
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "path")
    with charts.style():
        assert draw_some().svg == first
    assert matplotlib.rcParams["lines.linewidth"] == 20  # the user's settings are back


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.1, 1), (0, 317), (1e-6, 2e-6), (0.98, 1.007), (-5, 12000)])
def test_ticks_are_round_and_few(low, high):
    axes = charts.axes_of("", "", (low, high), (0, 1))
    found = [float(text) for text in texts(charts.drawing_of(axes, "d")) if text][:-6]
    assert 2 <= len(found) <= 7 and all(low <= value <= high for value in found)
    assert len({round((b - a) / (high - low), 6) for a, b in zip(found, found[1:], strict=False)}) == 1
    assert not any(text.startswith("-0") and float(text) == 0 for text in texts(charts.drawing_of(axes, "d")) if text)


def test_bars_take_odd_numbers_and_names():
    rows = [
        ("a", 0.2, "#2a788e"),
        ("a rather long name & $more$ <b>", -0.1, "#aab6c2"),
        ("tab\tand \x01 中", 0, "#aab6c2"),
    ]
    found = texts(charts.bars(rows, "d"))
    assert found == ["a", "a rather long name …", "tab and   中", "0.200", "-0.100", "0.000"]
    assert texts(charts.bars([("$\\frac$", 0.0, "#2a788e")], "d")) == ["$\\frac$", "0.000"]


def test_a_histogram_takes_nan_and_empty_groups():
    groups = {"a": (np.array([1.0, 1, np.nan]), "#2a788e"), "b": (np.array([]), "#aab6c2")}
    drawing = charts.histogram(groups, "x", "y", "d")
    assert [key.label for key in drawing.legend] == ["a", "b"]
    charts.histogram({"b": groups["b"]}, "x", "y", "d")


def test_a_histogram_holds_every_value_once():
    values = np.random.default_rng(0).random(500)
    drawing = charts.histogram({"a": (values[:200], "#ff0000"), "b": (values[200:], "#00ff00")}, "x", "y", "d", (0, 1))
    area = 0.0
    for path in ET.fromstring(drawing.svg).iter("path"):
        if re.search("fill: #(ff0000|00ff00)", path.get("style")):
            x, y = np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path.get("d")), dtype=float).T
            area += abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    tallest = np.histogram(values, np.linspace(0, 1, 41))[0].max()
    one = (BOTTOM - TOP) / (tallest * 1.05) * (446 - 56) / 40
    assert area / one == pytest.approx(500, rel=0.01)
