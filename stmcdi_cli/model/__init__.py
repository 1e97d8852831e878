"""stMCDI: a masked conditional diffusion model over a spatial graph.

The files map to the paper: ``diffusion.schedule`` (eq. 1, 9-16, 24), ``diffusion.loss`` (eq. 8), ``diffusion.samplers``
(Algorithm 2, A.3, A.6), ``training.trainer`` (Algorithm 1). ``tissue`` holds what a model may see, ``base`` what every
variant offers; the variants are ``attention`` (the paper's) and ``latent`` (the default), with their graph encoders.
"""
