import re

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from helpers import make_raw, same, untimed

import stmcdi_cli as stmcdi
from stmcdi_cli.errors import InputError, OptionError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[ad.AnnData, str]:
    """Data with something of every kind, some of it in few spots alone; and a model."""
    raw = make_raw(70, 30)
    raw.obs["rare"] = ["first" if i == 0 else "other" for i in range(70)]
    raw.obs["rare"] = raw.obs["rare"].astype("category")
    masked, _ = stmcdi.hold_out(stmcdi.build_graph(stmcdi.select_hvg(stmcdi.normalize(raw))))
    masked.raw = raw.copy()
    folder = str(tmp_path_factory.mktemp("merge") / "model")
    stmcdi.train(masked, folder, epochs=2, quiet=True)
    return masked, folder


OPTIONS = {"n_samples": 4, "quiet": True}


@pytest.fixture(scope="module", params=["missing", "all"])
def target(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def pieces(prepared, target) -> list[ad.AnnData]:
    masked, model = prepared
    return [stmcdi.impute(masked, model, target=target, shard=f"{i}/5", **OPTIONS) for i in range(1, 6)]


def test_shards_are_as_one_task_bit_by_bit(prepared, target, pieces):
    whole = stmcdi.impute(*prepared, target=target, **OPTIONS)
    merged = stmcdi.merge([pieces[i] for i in (3, 0, 4, 1, 2)])
    same(merged, whole)
    assert merged.uns["stmcdi"]["impute"]["parameters"]["seconds"] == pytest.approx(
        sum(piece.uns["stmcdi"]["impute"]["parameters"]["seconds"] for piece in pieces)
    )
    assert untimed(merged) == untimed(whole)
    np.testing.assert_array_equal(merged.raw.X.toarray(), whole.raw.X.toarray())
    assert {layer: type(value) for layer, value in merged.layers.items()} == {
        layer: type(value) for layer, value in whole.layers.items()
    }


def test_by_way_of_files(prepared, target, pieces, cli, h5ad, tmp_path):
    masked, model = prepared
    options = ["--target", target, "--n-samples", 4, "--quiet"]
    source = h5ad(masked)
    assert cli("impute", source, model, tmp_path / "whole.h5ad", *options).exit_code == 0
    files = []
    for i in (2, 1, 3):
        files.append(tmp_path / f"{i}.h5ad")
        assert cli("impute", source, model, files[-1], *options, "--shard", f"{i}/3").exit_code == 0
    assert cli("merge", *files, tmp_path / "merged.h5ad").exit_code == 0
    merged, whole = ad.read_h5ad(tmp_path / "merged.h5ad"), ad.read_h5ad(tmp_path / "whole.h5ad")
    same(merged, whole)
    np.testing.assert_equal(untimed(merged), untimed(whole))


def test_a_shard_holds_its_spots_alone(prepared, pieces):
    names = [name for piece in pieces for name in piece.obs_names]
    assert names == list(prepared[0].obs_names)
    assert [piece.n_obs for piece in pieces] == [14] * 5
    assert list(pieces[3].obs["rare"].cat.categories) == ["first", "other"]


@pytest.mark.parametrize("found", [None, "text", np.zeros(3), b"bytes"], ids=["absent", "text", "array", "bytes"])
def test_records_that_were_tampered_with_end_in_success_or_one_line(pieces, found):
    """A record says how a shard was made; without a part of it the shards still are what they are."""
    names = pieces[0].uns["stmcdi"]["impute"]["parameters"]
    merged = 0
    for name in names:
        parts = [piece.copy() for piece in pieces]
        for part in parts:
            parameters = part.uns["stmcdi"]["impute"]["parameters"]
            if found is None:
                del parameters[name]
            else:
                parameters[name] = found
        try:
            result = stmcdi.merge(parts)
        except InputError:
            assert name == "shard" or (name == "shard_spots" and found == "text")
        else:
            np.testing.assert_array_equal(result.X.toarray(), stmcdi.merge(pieces).X.toarray())
            merged += 1
    assert merged == len(names) - (2 if isinstance(found, str) else 1)


@pytest.mark.parametrize("damage", ["absent", "narrow", "bytes", "damaged sparse"])
def test_tables_of_the_spots_that_do_not_fit_are_refused_by_name(pieces, damage):
    parts = [piece.copy() for piece in pieces]
    key = "shard_obsp_spatial_distances" if damage == "damaged sparse" else "spatial"
    value = parts[1].obsm[key]
    if damage == "absent":
        del parts[1].obsm[key]
    elif damage == "narrow":
        parts[1].obsm[key] = value[:, :1]
    elif damage == "bytes":
        parts[1].obsm[key] = np.full(value.shape, b"no", dtype="S2")
        parts[0].obsm[key] = sp.csr_matrix(value)
    else:
        value.indptr = value.indptr[:0]
    with pytest.raises(InputError, match=re.escape(f"obsm['{key}'] is not in every shard in the same form")):
        stmcdi.merge(parts)


def test_refusals(pieces, prepared):
    with pytest.raises(InputError, match="2/5 is not there"):
        stmcdi.merge([pieces[0], *pieces[2:]])
    with pytest.raises(InputError, match="1/5 twice"):
        stmcdi.merge([pieces[0], *pieces])
    with pytest.raises(InputError, match="`impute --shard` wrote, found another"):
        stmcdi.merge([prepared[0]])
    with pytest.raises(InputError, match="found none"):
        stmcdi.merge([])


@pytest.mark.parametrize("spots", [slice(0, 5), slice(None, None, -1)], ids=["some", "reversed"])
def test_spots_that_were_chosen_or_turned_after_imputing_are_refused(pieces, spots):
    with pytest.raises(InputError, match="spots of shard 2/5 as impute wrote them, found others or another order"):
        stmcdi.merge([pieces[0], pieces[1][spots].copy(), *pieces[2:]])


@pytest.mark.parametrize(("change", "named"), [({"seed": 1}, "`seed`"), ({"n_samples": 3}, "`n_samples`")])
def test_shards_made_otherwise_are_refused_by_the_option_s_name(prepared, change, named):
    masked, model = prepared
    one = stmcdi.impute(masked, model, shard="1/2", **OPTIONS)
    other = stmcdi.impute(masked, model, shard="2/2", **(OPTIONS | change))
    with pytest.raises(InputError, match=f"shard 2/2 has another {named}"):
        stmcdi.merge([one, other])
    fewer = stmcdi.impute(masked, model, shard="2/3", **OPTIONS)
    with pytest.raises(InputError, match="one division"):
        stmcdi.merge([one, fewer])


@pytest.mark.parametrize("shard", ["0/5", "6/5", "1", "a/b", "71/71"])
def test_shards_that_cannot_be_are_refused(prepared, shard):
    with pytest.raises(OptionError, match="`shard`|shards"):
        stmcdi.impute(*prepared, shard=shard, **OPTIONS)
