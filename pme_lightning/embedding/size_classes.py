"""Classes of tokens that own the same number of values, and the numbering by falling size, in which each is a range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SizeClass:
    """The tokens that own the same number of values.

    Attributes:
        size: Number of embedding values of each token, ``0 ... D``.
        linear: Whether each token also owns a first-order weight.
        count: Number of tokens.
    """

    size: int
    linear: bool
    count: int

    @property
    def width(self) -> int:
        """Number of values of each token, the first-order weight included."""
        return self.size + int(self.linear)


def size_ranks(sizes: Tensor, linear: Tensor | None) -> Tensor:
    """Returns a rank for each token ``(V,)``: higher for larger sizes, and of equal sizes, for a first-order weight.

    Args:
        sizes: ``(V,)`` integers.
        linear: ``(V,)``: which tokens own a first-order weight; None without them.
    """
    return sizes.long() * 2 + (0 if linear is None else linear.bool().long())


def size_order(ranks: Tensor) -> Tensor:
    """Returns the tokens ``(V,)`` by falling size, those with a first-order weight first, then by id."""
    return ranks.argsort(descending=True, stable=True)


def size_classes(ranks: Tensor) -> list[SizeClass]:
    """Returns the classes that occur, in :func:`size_order`."""
    found, counts = ranks.unique(return_counts=True)
    pairs = zip(found.tolist(), counts.tolist(), strict=True)
    return [SizeClass(rank // 2, bool(rank % 2), count) for rank, count in pairs][::-1]


def class_ends(classes: Sequence[SizeClass]) -> Tensor:
    """Returns the position after the last token of each class, int64 ``(C,)``, in the numbering by size."""
    return torch.tensor([c.count for c in classes]).cumsum(0)
