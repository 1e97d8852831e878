"""Which genes of two files are the same: by Ensembl identifier, by name, or by name without regard to case."""

import logging
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from stmcdi_cli import validation
from stmcdi_cli.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

LEAST_SHARED = 20
"""Genes that two files have to share: fewer say neither how deep a spot is nor what is in it."""
NAME_COLUMNS = ("feature_name", "gene_name", "gene_names", "gene_symbol", "gene_symbols", "symbol", "name")
"""Columns of ``var`` that may hold the names of genes, where the index holds identifiers."""
_IDENTIFIER = re.compile(r"(ENS[A-Z]*G\d+)(?:\.\d+)?")
BY_IDENTIFIER, BY_NAME, BY_CASE = "by Ensembl identifier", "by name", "by name without regard to case"


class Matches(NamedTuple):
    """Genes of one file found in another.

    Attributes
    ----------
    position
        Position in the other file of each gene of the one, -1 where it is not there, int [G].
    n_by
        How many were found in which way.
    ambiguous
        Names, without regard to case, of genes that are not matched because a file has several of that name.
    """

    position: np.ndarray
    n_by: dict[str, int]
    ambiguous: list[str]


class GeneNames(NamedTuple):
    """What genes are called; both [G].

    Attributes
    ----------
    name
        Their names.
    identifier
        Their Ensembl identifiers without version; "" where there is none.
    """

    name: np.ndarray
    identifier: np.ndarray

    @classmethod
    def of(cls, adata: "AnnData") -> "GeneNames":
        """Find names and identifiers in the index and the columns of ``var``."""
        columns = [adata.var_names, *(adata.var[column] for column in adata.var)]
        identifier, of_index = np.full(adata.n_vars, "", dtype=object), False
        for number, column in enumerate(columns):
            if number == 0 or _is_text(column):
                found = _identifiers(column)
                if 2 * np.count_nonzero(found != "") > adata.n_vars:
                    identifier, of_index = found, number == 0
                    break
        name = adata.var_names.to_numpy().astype(str).astype(object)
        column = next((column for column in NAME_COLUMNS if column in adata.var), None)
        if of_index and column is not None:
            other = adata.var[column].astype(str).to_numpy().astype(object)
            usable = adata.var[column].notna().to_numpy() & (other != "") & ~pd.Series(other).duplicated(keep=False)
            name = np.where(usable & ~np.isin(other, name), other, name)
        return cls(name, identifier)

    @classmethod
    def of_list(cls, names: Sequence[str]) -> "GeneNames":
        """Take names, some of which may be identifiers; each once."""
        name = np.array(list(dict.fromkeys(map(str, names))), dtype=object)
        return cls(name, _identifiers(name))

    def take(self, chosen: np.ndarray) -> "GeneNames":
        """Give some of the genes (bool or positions)."""
        return GeneNames(self.name[chosen], self.identifier[chosen])

    def plus(self, others: "GeneNames") -> "GeneNames":
        """Give these genes, then others."""
        return GeneNames(*(np.concatenate(pair) for pair in zip(self, others, strict=True)))

    def find_in(self, other: "GeneNames") -> Matches:
        """Find these genes in another file. Each is found at most once, and only where nothing is ambiguous."""
        position, n_by = np.full(self.name.size, -1), {}
        here, there = _upper(self.name), _upper(other.name)
        pairs = {
            BY_IDENTIFIER: (self.identifier, other.identifier),
            BY_NAME: (self.name, other.name),
            BY_CASE: (here, there),
        }
        taken: set[int] = set()
        for way, (mine, theirs) in pairs.items():
            places, before = _places(theirs), len(taken)
            for name, gene in _places(mine).items():
                place = places.get(name)
                if position[gene] < 0 and place is not None and place not in taken:
                    position[gene] = place
                    taken.add(place)
            n_by[way] = len(taken) - before
        left = np.setdiff1d(np.arange(other.name.size), position)
        ambiguous = sorted(set(here[position < 0]) & set(there[left]))
        return Matches(position, n_by, ambiguous)


def _is_text(column: pd.Series) -> bool:
    dtype = column.cat.categories.dtype if isinstance(column.dtype, pd.CategoricalDtype) else column.dtype
    return bool(pd.api.types.is_object_dtype(dtype) or pd.api.types.is_string_dtype(dtype))


def _identifiers(names: Iterable[object]) -> np.ndarray:
    """Ensembl identifiers without version; "" where a name is none."""
    found = (_IDENTIFIER.fullmatch(str(name)) for name in names)
    return np.array([match[1] if match else "" for match in found], dtype=object)


def _upper(names: np.ndarray) -> np.ndarray:
    return np.array([name.upper() for name in names], dtype=object)


def _places(names: np.ndarray) -> dict[str, int]:
    """Positions of the names that occur once."""
    once = pd.Series(np.arange(names.size), index=names)
    once = once[~once.index.duplicated(keep=False) & (names != "")]
    return {str(name): int(place) for name, place in once.items()}


def check_shared(
    n_shared: int, genes: GeneNames, others: GeneNames, who: str, whose: str, least: int = LEAST_SHARED
) -> None:
    """Refuse files that share too few genes, or whose identifiers are those of different species.

    Parameters
    ----------
    n_shared
        How many genes they share.
    genes, others
        The genes of both.
    who, whose
        What messages call both.
    least
        How many they have to share.

    Raises
    ------
    InputError
        They cannot be used together.
    """
    prefixes = [_prefix(each.identifier) for each in (genes, others)]
    if all(prefixes) and prefixes[0] != prefixes[1]:
        raise InputError(
            f"expected genes of one species, found {prefixes[1]} identifiers in {whose} and {prefixes[0]} in {who}; "
            "give files of the same species, or map the genes to their orthologues first"
        )
    if n_shared < least:
        raise InputError(
            f"expected at least {least} genes that {who} and {whose} share, found {n_shared or 'none'}: {who} "
            f"has {_some(genes)}, {whose} has {_some(others)}; give both the same names, or Ensembl identifiers in a "
            "column of var"
        )


def _prefix(identifier: np.ndarray) -> str:
    """Give the letters that most identifiers begin with, such as ENSG or ENSMUSG; "" where there are none."""
    letters = pd.Series([name.rstrip("0123456789") for name in identifier if name], dtype=object)
    return "" if letters.empty else str(letters.mode()[0])


def _some(genes: GeneNames) -> str:
    return validation.first_few(genes.name)


def log_matches(step: str, matches: Matches, genes: GeneNames, others: GeneNames, who: str, whose: str) -> None:
    """Say how genes were matched, and warn where most differ in case, as those of mouse and human do.

    Parameters
    ----------
    step
        Name of the step.
    matches
        Of `genes` in `others`.
    genes, others, who, whose
        See `check_shared`.
    """
    found = np.flatnonzero(matches.position >= 0)
    ways = ", ".join(f"{n} {way}" for way, n in matches.n_by.items() if n)
    logger.info("%s: %s and %s share %d genes (%s)", step, who, whose, found.size, ways)
    if 2 * matches.n_by[BY_CASE] > found.size:
        differ = next(i for i in found if genes.name[i] != others.name[matches.position[i]])
        logger.warning(
            "%s: %d of the %d shared genes differ in case (%s has %s, %s has %s), as those of human and mouse do; make "
            "sure that both are of one species",
            step,
            matches.n_by[BY_CASE],
            found.size,
            who,
            genes.name[differ],
            whose,
            others.name[matches.position[differ]],
        )
    if matches.ambiguous:
        logger.info(
            "%s: not matched, since there are several of these names without regard to case: %s",
            step,
            validation.first_few(matches.ambiguous),
        )
