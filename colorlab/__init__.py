"""colorlab: a notebook laboratory for diffusion colorization."""
