"""What a GPU is worth to flexseg, measured in the order of what is worth knowing."""
