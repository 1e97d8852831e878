"""stMCDI: a masked conditional diffusion model over a spatial graph.

The files map to the paper: ``schedule`` (eq. 1, 9-16, 24), ``samplers`` (Algorithm 2, A.3, A.6), ``noise`` (keyed random
numbers), ``tissue`` (what a model may see), ``base`` (what every variant offers) and one file per variant.
"""
