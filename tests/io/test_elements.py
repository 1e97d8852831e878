"""Parts of a file are written so that every AnnData reads them, or are refused by their names before the work."""

import fcntl
import importlib
import logging
from collections.abc import Mapping

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata.io import write_elem
from helpers import make_raw

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli.cli.files import transform
from stmcdi_cli.errors import InputError
from stmcdi_cli.io import elements
from stmcdi_cli.io.h5ad import open_h5ad, read_h5ad, write_h5ad
from stmcdi_cli.steps.normalize import normalize


def text(*values):
    return pd.array(values, dtype="string")


def with_texts() -> ad.AnnData:
    """Every kind of text that AnnData 0.13 writes."""
    adata = make_raw(6, 4)
    adata.obs = adata.obs.assign(
        unique=text(*"abcdef"),
        some=text("a", None, "c", "d", "e", "f"),
        none=text(*[None] * 6),
        kind=pd.Categorical(text("x", "y", None, "x", "y", "x")),
        number=pd.array([1, None] * 3, dtype="Int64"),
    )
    adata.obsm["table"] = pd.DataFrame({"label": text(*"uvwxyz"), "value": 1.0}, index=adata.obs_names)
    adata.uns["table"] = pd.DataFrame({"name": text("b", None, "a")}, index=text("x", "y", "z"))
    adata.uns["deep"] = {"names": text("p", "q"), "some": text("p", None)}
    adata.raw = adata.copy()
    return adata


@pytest.fixture
def file_of_today(tmp_path):
    """As AnnData 0.13 with pandas 3 writes it, by whatever version is here; opened for it, names are strings, too."""
    path = tmp_path / "today.h5ad"
    adata = with_texts()
    with h5py.File(path, "w") as file, ad.settings.override(allow_write_nullable_strings=True):
        elements.begin(file, adata)
        write_elem(file, "X", adata.X)
        write_elem(file["raw"], "X", adata.raw.X)
        parts = {(file, name): getattr(adata, name) for name in ("obs", "var", "obsm", "uns")}
        for (group, name), part in (parts | {(file["raw"], "var"): adata.raw.var}).items():
            write_elem(group, name, of_today(part))
    return path


def of_today(part):
    """Names of rows as pandas 3 has them."""
    if isinstance(part, pd.DataFrame):
        return part.set_axis(text(*part.index))
    return {key: of_today(item) for key, item in part.items()} if isinstance(part, Mapping) else part


def encodings(path) -> set[str]:
    found = set()
    with h5py.File(path) as file:
        file.visititems(lambda _, thing: found.add(thing.attrs.get("encoding-type")))
    return found


def check_texts(adata: ad.AnnData) -> None:
    assert list(adata.obs_names) == [f"s{i}" for i in range(6)] and list(adata.var_names) == [f"g{i}" for i in range(4)]
    assert list(adata.raw.var_names) == list(adata.var_names)
    obs = adata.obs.astype(object).where(adata.obs.notna(), None)
    assert list(obs["unique"]) == list("abcdef") and list(obs["some"]) == ["a", None, *"cdef"]
    assert list(obs["none"]) == [None] * 6 and list(obs["kind"]) == ["x", "y", None, "x", "y", "x"]
    assert list(obs["number"]) == [1, None] * 3 and list(adata.obsm["table"]["label"]) == list("uvwxyz")
    table, deep = adata.uns["table"], adata.uns["deep"]
    assert list(table.index) == ["x", "y", "z"] and list(table["name"].astype(object).fillna("-")) == ["b", "-", "a"]
    assert list(deep["names"]) == ["p", "q"] and deep["some"][0] == "p" and pd.isna(deep["some"][1])


def test_a_file_of_today_is_read_and_written_for_older_versions(file_of_today, tmp_path):
    assert "nullable-string-array" in encodings(file_of_today)
    check_texts(read_h5ad(file_of_today))
    transform(normalize, file_of_today, tmp_path / "stream.h5ad")
    write_h5ad(read_h5ad(file_of_today), tmp_path / "whole.h5ad")
    for name in ("stream.h5ad", "whole.h5ad"):
        assert not encodings(tmp_path / name) & {"nullable-string-array", "null"}
        check_texts(ad.read_h5ad(tmp_path / name))


def test_columns_with_a_slash_are_kept(tmp_path):
    adata = make_raw(6, 4)
    adata.obs["CD4/CD8"] = np.arange(6.0)
    adata.obs["a/b/c"] = pd.Categorical(list("xyxyxy"))
    adata.raw = adata.copy()
    adata.raw.var["x/y"] = list("abcd")
    adata.obs.index.name = "spot/id"
    write_h5ad(adata, tmp_path / "a.h5ad")
    transform(normalize, tmp_path / "a.h5ad", tmp_path / "b.h5ad")
    back = ad.read_h5ad(tmp_path / "b.h5ad")
    assert list(back.obs)[:4] == ["section", "note", "CD4/CD8", "a/b/c"] and back.obs.index.name == "spot/id"
    assert list(back.obs["CD4/CD8"]) == list(range(6)) and list(back.obs["a/b/c"]) == list("xyxyxy")
    assert list(back.raw.var["x/y"]) == list("abcd")


def test_what_is_none_is_left_out_and_said(tmp_path, caplog):
    adata = make_raw(6, 4)
    adata.uns["log1p"] = {"base": None}
    with caplog.at_level(logging.INFO):
        write_h5ad(adata, tmp_path / "a.h5ad")
    assert caplog.messages[-1:] == ["uns['log1p']['base'] is None and left out, since older AnnData cannot read it"]
    assert ad.read_h5ad(tmp_path / "a.h5ad").uns["log1p"] == {}


def put(part, key, value):
    def change(adata):
        getattr(adata, part)[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (put("uns", "f", {"a": {"b": len}}), "uns['f']['a']['b']"),
        (put("uns", "a/b", 1), "uns['a/b']"),
        (put("uns", "f", {1: 2}), "uns['f'][1]"),
        (put("obsm", "a/b", np.ones((60, 2))), "obsm['a/b']"),
        (put("obs", "mixed", [1, "a"] * 30), "obs['mixed']"),
        (put("obs", "/a", 1.0), "obs['/a']"),
        (put("var", "f", [len] * 40), "var['f']"),
        (put("uns", "t", pd.DataFrame({"good": [1], "bad": [len]})), "uns['t']['bad']"),
    ],
)
def test_what_cannot_be_written_is_named_before_the_work(raw, change, where):
    change(raw)
    with pytest.raises(InputError) as refused:
        elements.check_parts(raw)
    assert str(refused.value).startswith(f"{where} cannot be written to h5ad (")
    assert str(refused.value).endswith(f"); remove it from the input (del adata.{where})")
    exec(f"del adata.{where}", {"adata": raw})
    elements.check_parts(raw)


def test_a_layer_with_a_slash_is_refused_by_its_name(raw, tmp_path):
    raw.layers["a/b"] = raw.X
    with pytest.raises(InputError, match=r"layers\['a/b'\] cannot be written to h5ad \(its name has a /"):
        write_h5ad(raw, tmp_path / "a.h5ad")
    assert not list(tmp_path.iterdir())


def test_run_refuses_before_the_training(raw, tmp_path, monkeypatch, refused):
    def refuse(adata):
        raise InputError("uns['x'] cannot be written")

    raw.write_h5ad(tmp_path / "a.h5ad")
    monkeypatch.setattr("stmcdi_cli.cli.files.check_parts", refuse)
    monkeypatch.setattr(
        importlib.import_module("stmcdi_cli.steps.run"), "train", lambda *_, **__: pytest.fail("trained")
    )
    assert "a.h5ad: uns['x'] cannot be written" in refused("run", tmp_path / "a.h5ad", tmp_path / "b.h5ad")
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5ad"]


def test_a_locked_file_is_read(raw, tmp_path):
    raw.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad") as new, h5py.File(tmp_path / "old.h5ad", "w") as old:
        for key in new:
            new.copy(key, old)  # without the attributes of the whole, as before 2022
    for name in ("a.h5ad", "old.h5ad"):
        with open(tmp_path / name, "rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(BlockingIOError):
                h5py.File(tmp_path / name)
            assert read_h5ad(tmp_path / name).shape == raw.shape
            with open_h5ad(tmp_path / name) as adata:
                assert adata.shape == raw.shape and keys.SPATIAL in adata.obsm
