"""Sums over rows that each process has gathered by itself: combined before scoring."""

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
    """Returns the sum over processes; all of them must call it together."""
    if not spans_processes():
        return number
    total = torch.tensor(number, device=meeting_device())
    dist.all_reduce(total)
    return int(total)


def add_up(criterion: Criterion) -> None:
    """Replaces the accumulators of every process by their sum over processes, in place.

    Only accumulators of criteria that need rows differ between processes: batch gradients are the same in all.
    """
    if spans_processes() and criterion.needs_rows:
        for tensor in _own_sums(criterion):
            dist.all_reduce(tensor)


def keep_on_main(criterion: Criterion) -> None:
    """Zeroes the sums, the same in all processes now, in all but the main one: adding up again counts them once."""
    if spans_processes() and criterion.needs_rows and dist.get_rank() != 0:
        for tensor in _own_sums(criterion):
            tensor.zero_()


def _own_sums(criterion: Criterion) -> list[Tensor]:
    """Returns what each process has gathered for itself: all accumulators, except per-token ones of split tokens."""
    owned = criterion.per_token if isinstance(criterion.tokens, SplitTokens) else ()
    return [tensor for name, tensor in criterion.state().items() if name not in owned]


@contextmanager
def added_up(criterion: Criterion) -> Iterator[None]:
    """Within this context, the accumulators hold the sums over all processes; afterwards, only the main one does."""
    add_up(criterion)
    yield
    keep_on_main(criterion)


def same_on_all(scores: Scores) -> Scores:
    """Returns the main process's scores in every process.

    They agree up to the last bit, which different machines may round differently; and if sizes differed by one value,
    the tables would not fit together.
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
