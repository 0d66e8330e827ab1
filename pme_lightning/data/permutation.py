"""A permutation of row numbers that is computed, not stored."""

from __future__ import annotations

import numpy as np

_ROUNDS = 4


class Permutation:
    """A pseudo-random permutation of ``0 ... n - 1`` in constant memory: where any row goes costs the same.

    A Feistel network over the least even number of bits that hold ``n``, with numbers that fall outside put through it
    again until they fall inside (cycle walking, Black and Rogaway 2002): at most four times on average.

    Args:
        n: how many numbers.
        seed: other seeds give other permutations.
    """

    def __init__(self, n: int, seed: int) -> None:
        self.n = n
        half = max(1, ((n - 1).bit_length() + 1) // 2)
        self._half = np.uint64(half)
        self._mask = np.uint64((1 << half) - 1)
        self._keys = np.random.SeedSequence(seed).generate_state(_ROUNDS, np.uint64)

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Where each number goes, int64, of the same shape; numbers lie in ``[0, n)``."""
        moved = self._walk(numbers.astype(np.uint64))
        outside = np.flatnonzero(moved >= self.n)
        while len(outside):
            moved[outside] = self._walk(moved[outside])
            outside = outside[moved[outside] >= self.n]
        return moved.astype(np.int64)

    def _walk(self, numbers: np.ndarray) -> np.ndarray:
        left, right = numbers >> self._half, numbers & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right, key) & self._mask)
        return (left << self._half) | right


def _mixed(numbers: np.ndarray, key: np.uint64) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele et al. 2014), which changes about half the bits for a bit that changes."""
    mixed = numbers + key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
