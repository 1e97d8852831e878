"""The paper's variant: diffusion over gene tokens with attention."""
