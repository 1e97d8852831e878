"""Stereo-seq's GEM in bins."""

import numpy as np
import pytest
from helpers import dense
from platforms import COUNTS, N_GENES, N_SPOTS, write_gem

import stmcdi_cli as stmcdi


@pytest.mark.parametrize("version", ["0", "0.1", "0.2"])
def test_bins_of_one_spot(version, tmp_path):
    path = write_gem(tmp_path / "chip.gem.gz", version)
    adata = stmcdi.import_(path, bin=1, quiet=True)
    places = [f"{100 + i % 8}_{200 + i // 8}" for i in range(N_SPOTS)]
    names = [f"G{i}" for i in range(N_GENES)]
    np.testing.assert_array_equal(dense(adata[places, names].X), COUNTS)
    assert adata.n_obs == N_SPOTS and adata[places[9]].obsm["spatial"].tolist() == [[101, 201]]
    if version == "0.2":
        assert adata.var.loc["G3", "gene_ids"] == "ENSG3"


def test_larger_bins_are_sums_and_lie_at_their_centres(tmp_path, caplog, monkeypatch):
    from stmcdi_cli.io.readers import bins

    caplog.set_level("INFO")
    write_gem(tmp_path / "chip.gem.gz")
    adata = stmcdi.import_(tmp_path, bin=4)  # the folder, with one such file
    inside = [i for i in range(N_SPOTS) if i % 8 >= 4 and i // 8 < 4]
    genes = [f"G{i}" for i in range(N_GENES)]
    np.testing.assert_array_equal(dense(adata["104_200", genes].X)[0], COUNTS[inside].sum(0))
    assert adata["104_200"].obsm["spatial"].tolist() == [[105.5, 201.5]] and adata.n_obs == 4
    assert "import: 4 bins of 4 x 4 spots of the chip (--bin)" in caplog.messages
    monkeypatch.setattr(bins, "LINES", 7)  # however many lines are read at a time
    np.testing.assert_array_equal(dense(stmcdi.import_(tmp_path, bin=4, quiet=True).X), dense(adata.X))


def test_refusals(tmp_path, refused):
    out, path = tmp_path / "a.h5ad", tmp_path / "chip.gem"
    path.write_text("gene\tcolumn\nA\t1\n")
    assert "expected columns geneID, x, y and MIDCount, found gene, column; give a GEM file" in refused(
        "import", path, out
    )
    path.write_text("geneID\tx\ty\tMIDCount\nA\t1\t2\tmany\n")
    assert "cannot be read as GEM" in refused("import", path, out)
    path.write_text("geneID\tx\ty\tMIDCount\nA\t-1\t2\t3\n")
    assert "places below 0" in refused("import", path, out)
    assert "expected `bin` to be at least 1, found `0`" in refused("import", path, out, "--bin", 0)
