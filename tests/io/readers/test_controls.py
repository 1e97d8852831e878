"""Names of control probes."""

import pytest

from stmcdi_cli.io.readers.controls import CONTROL


@pytest.mark.parametrize(
    "name",
    [
        *("Blank-1", "Blank_12", "BLANK_0006", "NegPrb3", "NegPrb01", "Negative10", "SystemControl1", "FalseCode2"),
        *("NegControlProbe_00042", "NegControlCodeword_0500", "UnassignedCodeword_0001", "DeprecatedCodeword_0018"),
        *("antisense_PROKR2", "Intergenic_Region_123"),
    ],
)
def test_controls(name):
    assert CONTROL.fullmatch(name)


@pytest.mark.parametrize("name", ["NEGR1", "BLNK", "BLANK", "NEGATIVE", "SYSTEM", "FALZ", "CONTROL", "Neg"])
def test_genes(name):
    assert not CONTROL.fullmatch(name)
