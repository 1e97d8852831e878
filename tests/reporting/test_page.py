"""The templates: every value is escaped, every name must exist, all of them are in the package."""

from importlib import resources

import jinja2
import pytest

from stmcdi_cli.reporting.page import _environment


def test_values_are_escaped():
    template = _environment().from_string("<p title='{{ name }}'>{{ name }}</p>{{ {'key': name} | tojson }}")
    escaped, in_json = "&lt;/script&gt;&#39;", "\\u003c/script\\u003e\\u0027"
    assert template.render(name="</script>'") == f'<p title=\'{escaped}\'>{escaped}</p>{{"key":"{in_json}"}}'


def test_a_name_that_does_not_exist_is_an_error():
    with pytest.raises(jinja2.UndefinedError):
        _environment().from_string("{{ nothing }}").render()


def test_all_templates_can_be_read():
    names = _environment().list_templates(extensions=["j2"])
    sections = {"data", "maps", "genes", "calibration", "methods", "training", "provenance"}
    assert {"template.html.j2", "macros.html.j2", *(f"sections/{name}.html.j2" for name in sections)} == set(names)
    for name in names:
        _environment().get_template(name)


def test_only_pictures_style_and_script_are_marked_as_safe():
    folder = resources.files("stmcdi_cli.reporting")
    found = []
    for name in _environment().list_templates(extensions=["j2"]):
        found += [line.strip() for line in (folder / name).read_text("utf-8").splitlines() if "safe }}" in line]
    assert sorted(found) == ["{{ chart.svg | safe }}", "{{ script | safe }}", "{{ style | safe }}"]
