"""Sums over rows that each process has gathered of its own: brought together before scores are made of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from pme_lightning.embedding.exchange import meeting_device
from pme_lightning.search import Criterion, Scores, SplitTokens


def spans_processes() -> bool:
    """Whether there is more than one process."""
    return dist.is_initialized() and dist.get_world_size() > 1


def sum_over_processes(number: int) -> int:
    """Returns the sum of what each process has; called by all of them together."""
    if not spans_processes():
        return number
    total = torch.tensor(number, device=meeting_device())
    dist.all_reduce(total)
    return int(total)


def add_up(criterion: Criterion) -> None:
    """Gives the accumulators of every process their sum over processes, in place.

    Only those of criteria that need rows differ between processes: batch gradients are the same in each of them.
    """
    if spans_processes() and criterion.needs_rows:
        for tensor in _own_sums(criterion):
            dist.all_reduce(tensor)


def keep_on_main(criterion: Criterion) -> None:
    """Leaves what is the same in every process to the main one, so that adding up again counts it once."""
    if spans_processes() and criterion.needs_rows and dist.get_rank() != 0:
        for tensor in _own_sums(criterion):
            tensor.zero_()


def _own_sums(criterion: Criterion) -> list[Tensor]:
    """Returns what each process has gathered for itself: all, but what belongs to tokens that are split over them."""
    owned = criterion.per_token if isinstance(criterion.tokens, SplitTokens) else ()
    return [tensor for name, tensor in criterion.state().items() if name not in owned]


@contextmanager
def added_up(criterion: Criterion) -> Iterator[None]:
    """Within it the accumulators hold the sums over all processes; afterwards the main process has them."""
    add_up(criterion)
    yield
    keep_on_main(criterion)


def same_on_all(scores: Scores) -> Scores:
    """Returns the main process's scores in every process.

    They are the same but for the last bit, which machines of two kinds may round in two ways, and sizes that differ by
    one value would be tables that do not fit together.
    """
    if not spans_processes():
        return scores
    return Scores(
        _mains(scores.table),
        None if scores.linear is None else _mains(scores.linear),
        None if scores.basis is None else _mains(scores.basis),
        None if scores.spectrum is None else _mains(scores.spectrum),
    )


def _mains(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().contiguous()
    dist.broadcast(tensor, 0)
    return tensor
