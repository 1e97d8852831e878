"""What a reader is: how a format is recognised, and how it is read."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stmcdi_cli import validation
from stmcdi_cli.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Options:
    """Options of ``stmcdi import`` that a reader may need.

    Attributes
    ----------
    coordinates
        ``--coordinates`` as it was given: a file, a key of ``obsm``, or two columns of ``obs``.
    bin_um
        Side of the bins of Visium HD, in micrometres.
    bin
        Side of the bins of Stereo-seq, in spots of the chip.
    table
        Name of the table of a SpatialData store.
    notes
        Lines on what was left out, renamed or chosen; they are printed at the end, if the input is not refused.
    """

    coordinates: str | None = None
    bin_um: int = 16
    bin: int = 50
    table: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def coordinates_file(self) -> Path | None:
        """The table that ``--coordinates`` names, None where it names something within the input."""
        return Path(self.coordinates) if self.coordinates and os.path.isfile(self.coordinates) else None

    def note(self, text: str) -> None:
        """Add a line on what was left out, renamed or chosen."""
        self.notes.append(text)


class Reading(NamedTuple):
    """What a reader gives.

    Attributes
    ----------
    adata
        Counts, spots x genes; coordinates in ``obsm['spatial']``, or under a name that `coordinates` finds.
    source
        The file or folder that holds the counts.
    section_key
        Column of ``obs`` whose sections must not share edges, where the format says so.
    """

    adata: "AnnData"
    source: Path
    section_key: str | None = None


def only(found: Iterable[Path], path: Path, what: str) -> Path | None:
    """Give the one file that was found at a path, None where there is none.

    Raises
    ------
    InputError
        There are several.
    """
    files = sorted(found)
    if len(files) > 1:
        names = validation.first_few([file.name for file in files])
        raise InputError(f"{path}: expected one {what}, found {names}; give one of them as INPUT")
    return files[0] if files else None


@dataclass(frozen=True)
class Reader:
    """A format of ``stmcdi import``.

    Attributes
    ----------
    name
        What ``--format`` calls it.
    recognises
        Whether a path is of this format; reads little of it. Raises `InputError` where a folder holds several inputs.
    read
        Reads it.
    """

    name: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Options], Reading]
