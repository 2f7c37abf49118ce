"""Training of flexseg's own tiny Stable-Diffusion-layout generator, from rendered scenes to shipped weights."""
