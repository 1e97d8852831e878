import xml.etree.ElementTree as ET

import numpy as np
import pytest

from stmcdi_cli.reporting import charts


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.1, 1), (0, 317), (1e-6, 2e-6), (0.98, 1.007), (-5, 12000)])
def test_ticks_are_round_few_and_inside(low, high):
    values = charts.ticks(low, high)
    assert 2 <= len(values) <= 7
    assert all(low - 1e-9 * abs(low) <= value <= high * (1 + 1e-6) for value in values)
    assert len({round(b - a, 12) for a, b in zip(values, values[1:], strict=False)}) == 1
    assert all(len(f"{value:g}") <= 8 for value in values) and "-0" not in [f"{value:g}" for value in values]


def test_a_chart_is_valid_xml_and_places_points_rightly():
    chart = charts.Chart("x <1>", "y & z", (0, 10), (0, 1), 'says "so"')
    chart.points([0, 10, 11], [0, 1, 0.5], "main", "dots")
    chart.line([0, 5, 10], [0, 0.5, 1], "guide")
    drawing = chart.drawing()
    root = ET.fromstring(drawing.svg)
    dots = [element for element in root.iter() if element.tag == "circle"]
    assert len(dots) == 2  # what lies outside is not drawn
    first, last = ((float(dot.get("cx")), float(dot.get("cy"))) for dot in dots)
    assert first == (charts.LEFT, charts.HEIGHT - charts.BOTTOM) and last == (charts.WIDTH - charts.RIGHT, charts.TOP)
    assert drawing.legend == [("main", "dots")]


def test_bars_and_histograms_take_odd_numbers():
    ET.fromstring(charts.bars([("a", 0.2, "main"), ("a rather long name & more", -0.1, "other")], "d").svg)
    ET.fromstring(charts.bars([("a", 0.0, "main")], "d").svg)
    text = charts.histogram({"a": np.array([1.0, 1, np.nan]), "b": np.array([])}, {"a": "x", "b": "y"}, "x", "y", "d")
    root = ET.fromstring(text.svg)
    assert sum(element.get("class", "").startswith("bar") for element in root.iter()) == 1


def test_a_histogram_holds_every_value_once():
    values = np.random.default_rng(0).random(500)
    text = charts.histogram({"a": values}, {"a": "main"}, "x", "y", "d", (0, 1))
    root = ET.fromstring(text.svg)
    heights = [float(e.get("height")) for e in root.iter() if e.get("class") == "bar main"]
    tallest = np.histogram(values, np.linspace(0, 1, 41))[0].max()
    unit = (charts.HEIGHT - charts.TOP - charts.BOTTOM) / (tallest * 1.05)
    assert sum(heights) / unit == pytest.approx(500, rel=0.01)
