"""Tensors that have another length in every process."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def lengths_of(own: Tensor) -> list[int]:
    """Returns the length of every process's tensor, by rank; it lies where the processes can exchange it."""
    counts = [torch.zeros(1, dtype=torch.int64, device=own.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, counts[0].new_tensor([len(own)]))
    return [int(count) for count in torch.cat(counts).tolist()]


def pieces_of(own: Tensor, lengths: list[int]) -> list[Tensor]:
    """Returns every process's tensor ``(n, ...)``, by rank.

    An all-gather of dense tensors of one length is what gloo and NCCL both have.

    Args:
        own: That of this process, which lies where the processes can exchange it.
        lengths: The length of each (:func:`lengths_of`).
    """
    padded = own.new_zeros(max(lengths), *own.shape[1:])
    padded[: len(own)] = own
    pieces = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(pieces, padded)
    return [piece[:length] for piece, length in zip(pieces, lengths, strict=True)]
