"""Drops fields of rows at random, as if their tokens said nothing; the same ones in every process and every rerun."""

from __future__ import annotations

import torch
from torch import Tensor

# Products wrap around in 64 bits. The constants are those of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) without
# their highest bit, for which signed numbers have no room.
_STEP = 0x1E3779B97F4A7C15
_MIXERS = (0x3F58476D1CE4E5B9, 0x14D049BB133111EB)
_BITS = 24


def _mixed(values: Tensor) -> Tensor:
    """Returns a hash of each of int64 values."""
    for mixer in _MIXERS:
        values = (values ^ (values >> 30)) * mixer
    return values ^ (values >> 31)


def fields_left(ids: Tensor, share: float, salt: int) -> Tensor:
    """Returns which fields of each row are left when a share of them is dropped at random.

    The choice depends on a hash of the row, the field and the salt, not on the state of a generator: it is the same in
    every process, for every split of the rows into batches, and after an interruption.

    Args:
        ids: ``(B, F)`` integers, the tokens of the rows.
        share: The probability that a field of a row is dropped, in [0, 1).
        salt: A number, such as that of the step; another salt drops other fields.

    Returns:
        ``(B, F)`` bool.
    """
    places = torch.arange(1, ids.shape[1] + 1, device=ids.device) * _STEP
    row = _mixed(ids.long() * _STEP + places).sum(1, keepdim=True)
    mixed = _mixed(row + places + (salt + 1) * _MIXERS[0] % (1 << 62))
    return (mixed & ((1 << _BITS) - 1)) >= int(share * (1 << _BITS))
