import anndata as ad
import numpy as np
import pandas as pd
import pytest

from stmcdi_cli.errors import InputError
from stmcdi_cli.steps._gene_names import GeneNames, check_shared


def names_of(names, **columns) -> GeneNames:
    return GeneNames.of(ad.AnnData(np.zeros((1, len(names))), var=pd.DataFrame(columns, index=list(names))))


def test_by_identifier_then_name_then_case():
    panel = names_of(["Actb", "Gapdh", "Old", "Sox2"], gene_ids=[f"ENSMUSG0000000000{i}.{i}" for i in range(4)])
    cells = names_of(
        ["New", "GAPDH", "Sox2", "Other"],
        ensembl=["ENSMUSG00000000002.7", "ENSMUSG00000000011", "ENSMUSG00000000012", "ENSMUSG00000000013"],
    )
    matches = cells.find_in(panel)
    assert matches.position.tolist() == [2, 1, 3, -1]
    assert list(matches.n_by.values()) == [1, 1, 1] and matches.ambiguous == []


def test_names_that_differ_in_case_alone_are_not_matched_by_case():
    matches = names_of(["ACTB", "SOX2"]).find_in(names_of(["Actb", "actb", "Sox2"]))
    assert matches.position.tolist() == [-1, 2]
    assert matches.ambiguous == ["ACTB"]
    assert names_of(["actb", "Actb"]).find_in(names_of(["Actb", "ACTB"])).position.tolist() == [-1, 0]


def test_identifiers_in_the_index_and_names_in_a_column():
    """The layout of CELLxGENE."""
    cells = names_of(
        ["ENSG00000000001", "ENSG00000000002", "ENSG00000000003"], feature_name=pd.Categorical(["A", "B", "B"])
    )
    assert cells.name.tolist() == ["A", "ENSG00000000002", "ENSG00000000003"]  # two genes called B keep theirs
    assert cells.find_in(names_of(["x", "A"])).position.tolist() == [1, -1, -1]


def test_other_species_are_refused_by_their_identifiers():
    human, mouse = names_of(["ENSG00000000001"]), names_of(["ENSMUSG00000000001"])
    with pytest.raises(InputError) as error:
        check_shared(0, human, mouse, "the panel", "the reference")
    assert str(error.value) == (
        "expected genes of one species, found ENSMUSG identifiers in the reference and ENSG in the panel; give files "
        "of the same species, or map the genes to their orthologues first"
    )
