"""Random generators that depend on nothing but their seed and the names of what they are used for."""

import hashlib

import numpy as np


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from the text of `parts`: the same on every machine, in every process, in every order of work."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def random_generator(*parts: object) -> np.random.Generator:
    """A NumPy random generator seeded by `derive_seed(*parts)`."""
    return np.random.default_rng(derive_seed(*parts))
