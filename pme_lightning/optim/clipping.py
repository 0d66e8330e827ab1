"""Gradient clipping that knows sparse gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import get_total_norm

from pme_lightning.optim.sparse_gradients import coalesced
from pme_lightning.sixteen_bits import widened


@torch.no_grad()
def clip_gradients(
    parameters: Iterable[Tensor], limit: float, algorithm: str = "norm", split: Sequence[Tensor] = ()
) -> None:
    """Clips gradients in place as :func:`torch.nn.utils.clip_grad_norm_` and ``clip_grad_value_`` do, sparse ones too.

    What a sparse gradient does not hold is zero, which changes no norm and is within any limit. Of gradients of 16 bits
    the norm has 32 all the same: it scales those of the network too.

    Args:
        parameters: Those whose gradients are clipped together; ones without a gradient are passed over.
        limit: The largest norm of all gradients together, or the largest absolute value.
        algorithm: ``"norm"`` or ``"value"``.
        split: Those among them that are split over processes, each of which has another part: the norm is that of all
            parts. With it this is a call that all processes make together.
    """
    split_ids = {id(parameter) for parameter in split}
    whole: list[Tensor] = []
    parts: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            # Rows that occur twice are added up first: the norm of summands is not that of their sum.
            parameter.grad = coalesced(parameter.grad)
        values = parameter.grad._values() if parameter.grad.is_sparse else parameter.grad
        (parts if id(parameter) in split_ids else whole).append(values)
    if algorithm == "value":
        for value in whole + parts:
            value.clamp_(-limit, limit)
        return
    norm = get_total_norm([widened(value) for value in whole])
    if split:
        # The same type in all processes, also where no row of one was in a batch.
        like = widened(split[0].new_empty(0))
        square = get_total_norm([widened(value) for value in parts]).to(like).square()
        dist.all_reduce(square)
        norm = (norm.to(square).square() + square).sqrt()
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)
    for value in whole + parts:
        value.mul_(factor.to(value.device))
