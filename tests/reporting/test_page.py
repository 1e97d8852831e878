"""The templates: every value is escaped, every name must exist, all of them are in the package."""

import re
import subprocess
import sys
from importlib import resources

import jinja2
import matplotlib
import numpy as np
import pandas as pd
import pytest

from stmcdi_cli.errors import InputError
from stmcdi_cli.reporting.page import _environment, page
from stmcdi_cli.reporting.sections import tissue
from stmcdi_cli.reporting.sections.genes import genes
from stmcdi_cli.reporting.statistics import gather


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


@pytest.fixture
def found(imputed_run):
    return gather(imputed_run.imputed, truth=imputed_run.truth, model_dir=imputed_run.model)


def test_maps_are_left_out_before_the_page_grows_too_large(found, monkeypatch):
    whole = page(found, title="t", genes=["gene_1", "gene_2", "gene_3"])
    assert whole.count('<article class="gene">') == 3 + tissue.N_MAPS and "Left out to keep" not in whole
    one = sum(map(len, re.findall('base64,([^"]+)', whole))) / (3 + tissue.N_MAPS)
    monkeypatch.setattr(tissue, "MAP_BYTES", 2.5 * one)
    text = page(found, title="t", genes=["gene_1", "gene_2", "gene_3"])
    assert text.count('<article class="gene">') == 2 and "Left out to keep this file small: gene_3, " in text


def test_the_table_of_20000_genes_leaves_room_for_maps(found):
    text = _environment().from_string("{{ table | tojson }}").render(table=genes(found)["table"])
    assert 20_000 * len(text) / len(found.genes) + tissue.MAP_BYTES + 300_000 < 5_000_000


def test_a_page_without_maps_says_why(found):
    found.genes["verdict"] = "don't"
    text = page(found, title="t")
    assert "No gene gained enough to be shown" in text and '<article class="gene">' not in text


HISTORIES = [
    ("No validation loss was recorded", {"epoch": [1, 2], "loss": [3, 2]}),
    ("No validation loss was recorded", {"epoch": [0, 1], "loss": [np.nan, np.nan]}),
    ("after epoch 2 of 2.", {"epoch": [1, 2], "validation_loss": [3, 2]}),
    ("no later epoch was better than the linear encoder", {"epoch": [0, 1], "validation_loss": [2, 3]}),
    ("after epoch 1 of 1, 50.0% below that of the encoder alone", {"epoch": [0, 1], "validation_loss": [2, 1]}),
]


@pytest.mark.parametrize(("expected", "history"), HISTORIES)
def test_training_is_summed_up(found, expected, history):
    found.history = {name: np.array(values, float) for name, values in history.items()}
    assert expected in page(found, title="t")


def test_more_sections_than_colors_share_one_histogram(imputed_run):
    adata = imputed_run.imputed.copy()
    adata.obs["section"] = pd.Categorical([f"part {k % 8}" for k in range(adata.n_obs)])
    text = page(gather(adata), title="t")
    assert "gene_1: imputed, part 7" in page(gather(adata), title="t", genes=["gene_1"])
    assert "</i>part 7</span>" not in text and text.count("<span>part 7</span>") > 1  # in no legend, over every map


def test_the_same_numbers_give_the_same_page_whatever_the_settings_of_matplotlib(found, monkeypatch):
    first = page(found, title="t")
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30)
    monkeypatch.setitem(matplotlib.rcParams, "image.cmap", "gray")
    assert page(found, title="t") == first


def test_pictures_need_no_display():
    code = "import sys; import stmcdi_cli.reporting.page; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "matplotlib.figure" in loaded and "matplotlib.pyplot" not in loaded


def test_only_the_report_waits_for_matplotlib_and_jinja2():
    code = "import sys, stmcdi_cli.cli, stmcdi_cli.steps.report; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"matplotlib", "jinja2", "PIL"} & set(loaded)


def test_a_baseline_that_saw_the_hidden_values_is_refused(imputed_run):
    leaky = imputed_run.imputed.copy()
    del leaky.layers["missing"]
    leaky.X, leaky.uns["stmcdi"] = imputed_run.truth.X, {"baseline": {"version": "1", "parameters": {"method": "idw"}}}
    with pytest.raises(InputError, match="baseline idw: expected .* found them in X"):
        gather(imputed_run.imputed, truth=imputed_run.truth, baseline=[leaky])
