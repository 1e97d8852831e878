"""stMCDI: a masked conditional diffusion model over a spatial graph.

The files map to the paper: ``schedule`` (eq. 1, 9-16, 24), ``samplers`` (Algorithm 2, A.3, A.6), ``noise`` (keyed
random numbers), ``trainer`` (Algorithm 1), ``tissue`` (what a model may see), ``base`` (what every variant offers) and
one file per variant: ``attention`` (the paper's) and ``latent`` (the default), with their graph encoders.
"""
