"""Stateless pseudo-random bits: the hash of a number, the same on every machine and in every thread."""

import numpy as np

from relrank.kernels.jit import njit


@njit(inline="always")
def hash64(x):  # type: ignore[no-untyped-def]
    """SplitMix64 (Steele, Lea & Flood 2014): one uint64 into another whose bits look random."""
    x = (x + np.uint64(0x9E3779B97F4A7C15)) & np.uint64(0xFFFFFFFFFFFFFFFF)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
