"""Every format of ``stmcdi import``; ``auto`` takes the first that recognises the path."""

from pathlib import Path

from stmcdi_cli.io.readers import (
    cosmx,
    gef,
    gem,
    h5ad,
    loom,
    merscope,
    segmented,
    space_ranger,
    spatialdata,
    table,
    xenium,
    zarr,
)
from stmcdi_cli.io.readers.reader import Options, Reader, Reading


def _stereo_seq(path: Path, options: Options) -> Reading:
    return gef.read(path, options) if gef.recognises(path) else gem.read(path, options)


READERS = (
    Reader("visium-hd", lambda path: bool(space_ranger.bins(path)), space_ranger.read_hd),
    Reader("visium-cells", segmented.recognises, segmented.read),
    Reader("xenium", xenium.recognises, xenium.read),
    Reader("space-ranger", space_ranger.recognises, space_ranger.read),
    Reader("merscope", merscope.recognises, merscope.read),
    Reader("cosmx", cosmx.recognises, cosmx.read),
    Reader("spatialdata", spatialdata.recognises, spatialdata.read),
    Reader("zarr", zarr.recognises, zarr.read),
    Reader("stereo-seq", lambda path: gef.recognises(path) or gem.recognises(path), _stereo_seq),
    Reader("loom", loom.recognises, loom.read),
    Reader("table", table.recognises, table.read),
    Reader("h5ad", h5ad.recognises, h5ad.read),
)
BY_NAME = {reader.name: reader for reader in READERS}
