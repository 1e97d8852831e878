"""``stmcdi merge``: put the shards that ``impute --shard I/N`` wrote together, as if there had been one task."""

from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import validation
from stmcdi_cli.errors import InputError
from stmcdi_cli.io import shards
from stmcdi_cli.io.stream import Stream
from stmcdi_cli.provenance import parameters_of, record_of
from stmcdi_cli.steps._step import step

if TYPE_CHECKING:
    from anndata import AnnData

_OF_SHARD = ("shard", "shard_spots")
"""Parameters that shards have and their sum has not."""


@step
def merge(parts: "Sequence[AnnData]") -> Stream:
    """Put shards together.

    Parameters
    ----------
    parts
        What `impute` gave for each of the shards 1/N to N/N, in any order.

    Returns
    -------
    What `impute` gives without shards, records included (where shards ran on different devices, all are named; their
    seconds are added up).

    Raises
    ------
    InputError
        A shard is missing, there twice, no shard, has other spots than `impute` wrote, or was made from other data or
        with other options than the rest.
    """
    if not parts:
        raise InputError("expected shards, found none; name the files that `impute --shard` wrote")
    by_number: dict[int, AnnData] = {}
    counts = set()
    for part in parts:
        shard = parameters_of(part, "impute").get("shard")
        if not isinstance(shard, str):
            raise InputError("expected a file that `impute --shard` wrote, found another; leave it out")
        number, n = shards.parse(shard)
        if number in by_number:
            raise InputError(f"expected each shard once, found {shard} twice; leave one out")
        by_number[number] = part
        counts.add(n)
    if len(counts) > 1:
        raise InputError(
            f"expected shards of one division, found some of {validation.first_few(sorted(counts))}; run them again"
        )
    n = counts.pop()
    absent = [f"{number}/{n}" for number in range(1, n + 1) if number not in by_number]
    if absent:
        raise InputError(f"expected all {n} shards, but {validation.first_few(absent)} is not there; name its file too")

    ordered = [by_number[number] for number in sorted(by_number)]
    for number, part in enumerate(ordered, start=1):
        written = parameters_of(part, "impute").get("shard_spots")  # shards of earlier versions have none
        if isinstance(written, str) and written != shards.digest_of_spots(part):
            raise InputError(
                f"expected the spots of shard {number}/{n} as impute wrote them, found others or another order; "
                "merge what impute wrote, then choose spots"
            )
    for number, part in enumerate(ordered[1:], start=2):
        other = _difference(ordered[0], part)
        if other:
            raise InputError(
                f"shard {number}/{n} has another {other} than shard 1/{n}; impute both again, the same way"
            )

    joined = shards.join(ordered)
    result = joined.header
    shared = {name: value for name, value in parameters_of(result, "impute").items() if name not in _OF_SHARD}
    merged = {**record_of(result, "impute"), "parameters": shared | _combined(ordered)}
    result.uns[keys.PROVENANCE] = {**result.uns[keys.PROVENANCE], "impute": merged}
    return joined


def _combined(ordered: "Sequence[AnnData]") -> dict[str, Any]:
    """Parameters in which shards may differ, for all of them together; what a record lacks is left out."""
    each = [parameters_of(part, "impute") for part in ordered]
    named = {name: [str(one[name]) for one in each if name in one] for name in ("device", "cpu_fallback")}
    seconds = [one["seconds"] for one in each if isinstance(one.get("seconds"), Real)]
    found: dict[str, Any] = {"seconds": round(float(sum(seconds)), 1)}
    if named["device"]:
        found["device"] = ", ".join(sorted(set(named["device"])))
    if named["cpu_fallback"]:
        found["cpu_fallback"] = named["cpu_fallback"][0]
    return found


def _difference(one: "AnnData", other: "AnnData") -> str | None:
    """Name what two shards of one tissue should share and do not."""
    if not one.var_names.equals(other.var_names):
        return "set of genes"
    entries = [record_of(part, "impute") for part in (one, other)]
    if entries[0].get("input_sha256") != entries[1].get("input_sha256"):
        return "input"
    mine, theirs = (
        {name: str(value) for name, value in parameters_of(part, "impute").items()} for part in (one, other)
    )
    different = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
    different = [name for name in different if name not in (*_OF_SHARD, "device", "cpu_fallback", "seconds")]
    return f"`{different[0]}`" if different else None
