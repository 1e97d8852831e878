"""Files in and out: h5ad in memory and as streams, outputs that are complete or absent, checks of foreign files."""
