"""The default variant: diffusion of the latents of a spatial factor model."""
