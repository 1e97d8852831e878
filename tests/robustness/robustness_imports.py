"""Everything a step may import, for the process that the others are forked from."""

import importlib
import pkgutil

import stmcdi_cli

for name in ("anndata", "anndata.io", "torch", "zarr"):
    importlib.import_module(name)
for module in pkgutil.walk_packages(stmcdi_cli.__path__, "stmcdi_cli."):
    importlib.import_module(module.name)
