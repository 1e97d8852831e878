import inspect

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
from helpers import same

import stmcdi_cli as stmcdi
from stmcdi_cli.errors import InputError, OptionError
from stmcdi_cli.io.stream import Stream, to_memory
from stmcdi_cli.steps import normalize

STEPS = [
    "add_reference",
    "baseline",
    "build_graph",
    "hold_out",
    "impute",
    "join",
    "merge",
    "normalize",
    "select_hvg",
    "simulate",
]


@pytest.mark.parametrize("name", STEPS)
def test_a_step_keeps_its_name_parameters_and_docstring(name):
    step = getattr(stmcdi, name)
    assert step.__name__ == name and "Parameters\n" in inspect.getdoc(step)
    signature, of_stream = inspect.signature(step), inspect.signature(step.stream)
    assert signature.parameters == of_stream.parameters
    assert signature.return_annotation == ("tuple[AnnData, AnnData]" if name == "hold_out" else "AnnData")
    assert of_stream.return_annotation in (Stream, tuple[Stream, Stream])


def test_a_stream_gives_what_the_step_gives(raw):
    stream = normalize.normalize.stream(raw, log=False)
    assert isinstance(stream, Stream)
    result = stmcdi.normalize(raw, log=False)
    assert isinstance(result, ad.AnnData)
    same(to_memory(stream), result)


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Calls that give what steps make of a tissue with every kind of part, and that tissue."""
    raw = stmcdi.simulate(n_spots=40, n_genes=30, n_sections=2, seed=3)
    raw.raw = raw.copy()
    raw.layers["dense"] = raw.X.toarray()
    raw.obsm["table"] = raw.obs[["section"]].copy()
    raw.varm["loading"], raw.uns["nested"] = np.ones((30, 2)), {"list": [1], "array": np.ones(3)}
    prepared = stmcdi.build_graph(stmcdi.normalize(raw))
    masked, _ = stmcdi.hold_out(prepared)
    model = stmcdi.train(masked, tmp_path_factory.mktemp("model") / "model", epochs=2, quiet=True)
    part = stmcdi.impute(masked, model, n_samples=2, shard="1/1", quiet=True)
    return {
        "normalize": (stmcdi.normalize, raw),
        "normalize --skip": (lambda data: stmcdi.normalize(data, skip=True, log=False), raw),
        "select-hvg": (lambda data: stmcdi.select_hvg(data, n_genes=10, subset=False), prepared),
        "build-graph": (stmcdi.build_graph, raw),
        "hold-out": (stmcdi.hold_out, prepared),
        "impute": (lambda data: stmcdi.impute(data, model, n_samples=2, quiet=True), masked),
        "baseline": (lambda data: stmcdi.baseline(data, method="gene-mean"), masked),
        "merge": (lambda data: stmcdi.merge([data]), part),
        "join": (lambda data: stmcdi.join([data, data], names=["a", "b"]), raw),
        "add-reference": (lambda data: stmcdi.add_reference(data, raw), raw[:, :25].copy()),
    }


def _add_one(value) -> None:
    """Change a value in place, however deep."""
    if isinstance(value, dict):
        for part in value.values():
            _add_one(part)
    elif isinstance(value, list):
        value.append(1)
    elif sp.issparse(value):
        value.data[:] = value.data + 1
    elif isinstance(value, np.ndarray) and value.dtype.kind in "iuf":
        value += 1


KINDS = "normalize, normalize --skip, select-hvg, build-graph, hold-out, impute, baseline, merge, join, add-reference"


@pytest.mark.parametrize("name", KINDS.split(", "))
def test_what_is_done_to_a_result_changes_no_other_object(steps, name):
    step, data = steps[name]
    before, results = data.copy(), step(data)
    results = results if isinstance(results, tuple) else (results,)
    others = [result.copy() for result in results[1:]]
    sc.pp.log1p(results[0])
    for part in ("layers", "obsm", "varm", "obsp", "uns"):
        _add_one(dict(getattr(results[0], part)))
    if results[0].raw is not None:
        _add_one(results[0].raw.X)
    for one, other in zip([data, *results[1:]], [before, *others], strict=True):
        same(one, other)
        if one.raw is not None:
            np.testing.assert_array_equal(one.raw.X.toarray(), other.raw.X.toarray())
        assert repr(one.uns) == repr(other.uns)


def test_what_is_no_anndata_is_refused_by_its_name(raw, tmp_path):
    for call, name, kind in (
        (lambda: stmcdi.normalize("panel.h5ad"), "adata", "str"),
        (lambda: stmcdi.build_graph(raw.to_df()), "adata", "DataFrame"),
        (lambda: stmcdi.add_reference(raw, reference=None), "reference", "NoneType"),
        (lambda: stmcdi.join([raw, "b.h5ad"]), "tissues", "str"),
        (lambda: stmcdi.join(raw), "tissues", "AnnData"),
        (lambda: stmcdi.join("ab"), "tissues", "str"),
        (lambda: stmcdi.merge(None), "parts", "NoneType"),
        (lambda: stmcdi.train("masked.h5ad", tmp_path), "adata", "str"),
        (lambda: stmcdi.run(raw, tmp_path, reference="cells.h5ad"), "reference", "str"),
        (lambda: stmcdi.evaluate(raw, "truth.h5ad"), "truth", "str"),
        (lambda: stmcdi.report(None, tmp_path / "report.html"), "adata", "NoneType"),
    ):
        with pytest.raises(InputError, match=f"expected `{name}` to be .*, found {kind}"):
            call()


def test_tissues_may_be_the_values_of_a_dictionary(raw):
    tissues = {"a": raw, "b": raw}
    same(stmcdi.join(tissues.values(), names=list(tissues)), stmcdi.join([raw, raw], names=["a", "b"]))


def test_columns_that_are_there_twice_are_refused(raw):
    raw.obs = raw.obs[["section", "note", "note"]]
    with pytest.raises(InputError, match="each column of obs once, found 'note' twice"):
        stmcdi.normalize(raw)


def test_lazy_matrices_are_loaded(raw):
    da = pytest.importorskip("dask.array")
    expected = stmcdi.normalize(raw)
    for rows in (raw.X.toarray(), raw.X):
        lazy = raw.copy()
        lazy.X = da.from_array(rows, chunks=(20, 40), asarray=False)
        same(stmcdi.normalize(lazy), expected)


def test_a_lazy_file_is_loaded(raw, tmp_path):
    experimental = pytest.importorskip("anndata.experimental")
    raw.write_h5ad(tmp_path / "raw.h5ad")
    if not hasattr(experimental, "read_lazy"):
        pytest.skip("this AnnData reads nothing lazily")
    same(stmcdi.normalize(experimental.read_lazy(tmp_path / "raw.h5ad")), stmcdi.normalize(raw))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda data: stmcdi.build_graph(data, n_neighbors=2.5), "`n_neighbors` to be a whole number, found `2.5`"),
        (lambda data: stmcdi.build_graph(data, n_neighbors="5"), "`n_neighbors` to be a whole number, found `5`"),
        (lambda data: stmcdi.build_graph(data, section_key=["section"]), "name of a column of obs in `section_key`"),
        (lambda data: stmcdi.select_hvg(data, n_genes=10.0), "`n_genes` to be a whole number, found `10.0`"),
        (lambda data: stmcdi.select_hvg(data, n_genes=True), "`n_genes` to be a whole number, found `True`"),
        (lambda data: stmcdi.select_hvg(data, min_spots="0.1"), "`min_spots` to be a number, found `0.1`"),
        (lambda data: stmcdi.select_hvg(data, genes="genes.txt"), "a list of names in `genes`, found `genes.txt`"),
        (lambda data: stmcdi.select_hvg(data, genes=[]), "names of genes in `genes`, found none"),
        (lambda data: stmcdi.hold_out(data, seed=None), "`seed` to be a whole number, found `None`"),
        (lambda data: stmcdi.hold_out(data, fraction="0.2"), "`fraction` to be a number, found `0.2`"),
        (lambda data: stmcdi.join([data, data], names="ab"), "a list of names in `names`, found `ab`"),
        (lambda data: stmcdi.impute(data, "model", n_samples=2.5), "`n_samples` to be a whole number, found `2.5`"),
        (lambda data: stmcdi.impute(data, "model", layers="imputed"), "a list of names in `layers`, found `imputed`"),
        (
            lambda data: stmcdi.add_reference(data, data, max_reference_cells=50.0),
            "`max_reference_cells` to be a whole",
        ),
    ],
)
def test_options_of_another_type_are_refused(raw, call, said):
    with pytest.raises(OptionError, match=f"expected {said}|expected .*{said}"):
        call(raw)


def test_numbers_of_numpy_are_numbers(raw):
    same(stmcdi.build_graph(raw, n_neighbors=np.int64(4)), stmcdi.build_graph(raw, n_neighbors=4))
    with pytest.raises(InputError, match="expected 500 genes"):
        stmcdi.add_reference(raw[:, :25].copy(), raw, n_genes=np.int64(500))
