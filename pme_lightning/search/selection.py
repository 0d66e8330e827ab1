"""Selects the items of largest slope that fit into a budget, so that larger budgets select supersets.

Items have the layout ``(K, V)``: row k holds every token's item at position k, and all items of a row cost the
same number of values. All functions here take items in the SAME order (by falling slope, then by falling priority of
the token, then by position, then by token index) and stop at the first item that does not fit. So a larger budget
takes a superset, and what is left over is less than the cost of one item.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from pme_lightning.search.across import ALONE, Tokens


def select(
    slopes: Tensor, costs: Sequence[int], budget: int, priority: Tensor | None = None, tokens: Tokens = ALONE
) -> Tensor:
    """Takes items in order until the next one does not fit.

    Nothing is sorted except the priorities of tokens that are tied at the slope where the budget runs out; the extra
    memory is a few bytes per item.

    Args:
        slopes: ``(K, V)``, finite.
        costs: number of values that an item of row k costs, at least 1; ``K`` of them.
        budget: number of values that may be spent.
        priority: ``(V,)``: of equal slopes, the token of higher priority goes first.
        tokens: how processes agree if tokens are split over them; ``V`` is then the number of tokens held here, while
            the budget is that of all.

    Returns:
        ``(K, V)`` bool: the items taken.
    """
    if sum(costs) * tokens.total(slopes.shape[1]) <= budget:
        return torch.ones_like(slopes, dtype=torch.bool)
    threshold = _threshold(slopes, costs, budget, tokens)
    taken = slopes > threshold
    _take_tied(taken, slopes == threshold, costs, budget - tokens.total(_cost(taken, costs)), priority, tokens)
    return taken


def select_by_field(
    slopes: Tensor,
    costs: Sequence[int],
    budget: int,
    priority: Tensor | None,
    field_tokens: Sequence[int],
    tokens: Tokens = ALONE,
) -> Tensor:
    """Takes the same fraction of every field's own items, in order within each field.

    Args:
        slopes: ``(K, V)``, with the tokens of a field consecutive.
        costs: as in :func:`select`.
        budget: number of values that may be spent in all fields together.
        priority: as in :func:`select`.
        field_tokens: the number of tokens of each field, over all processes.
        tokens: as in :func:`select`.

    Returns:
        ``(K, V)`` bool: the items taken. What is left of the budget is less than the cost of one item.
    """
    capacities = [count * sum(costs) for count in field_tokens]
    held = tokens.counts(field_tokens)
    slopes_of = slopes.split(held, dim=1)
    priority_of = priority.split(held) if priority is not None else [None] * len(field_tokens)

    def take(total: int) -> Tensor:
        shares = apportion(capacities, total)
        parts = zip(slopes_of, shares, priority_of, strict=True)
        return torch.cat([select(items, costs, share, first, tokens) for items, share, first in parts], dim=1)

    low = min(budget, sum(capacities))
    # Items wider than one value leave a remainder in every field: share out a little more, up to the budget.
    high = min(low + len(capacities) * max(costs, default=1), sum(capacities)) + 1
    while max(costs, default=1) > 1 and high - low > 1:
        middle = (low + high) // 2
        if tokens.total(_cost(take(middle), costs)) <= budget:
            low = middle
        else:
            high = middle
    return take(low)


def apportion(capacities: Sequence[int], total: int) -> list[int]:
    """Shares out ``total`` in proportion to the capacities, in whole numbers that add up to it exactly.

    Uses Sainte-Laguë's method: unlike rounding by largest remainder, no share ever falls when the total grows. So
    larger budgets give larger allocations everywhere.

    Args:
        capacities: at least 0 each; no share exceeds its capacity.
        total: at most the sum of the capacities.
    """
    whole = sum(capacities)
    shares = [(2 * total * capacity + whole) // (2 * whole) if whole else 0 for capacity in capacities]
    fields = [field for field, capacity in enumerate(capacities) if capacity]
    while (spent := sum(shares)) < total:
        shares[min(fields, key=lambda f: (Fraction(2 * shares[f] + 1, capacities[f]), f))] += 1
    for _ in range(spent - total):
        shares[max(fields, key=lambda f: (Fraction(2 * shares[f] - 1, capacities[f]), f))] -= 1
    return shares


def _threshold(slopes: Tensor, costs: Sequence[int], budget: int, tokens: Tokens) -> float:
    """Returns the smallest slope such that all items above it fit.

    Bisects over floating-point numbers, so that at most 32 passes are needed for float32. Once few items are still
    undecided, only these are examined.
    """
    blocks = _blocks(slopes, costs)
    low, high = (_float_key(bound) for bound in tokens.extremes(slopes))
    low -= 1
    # Items above `low` cost too much, items above `high` fit: they meet where the budget runs out.
    low_cost, high_cost = sum(costs) * tokens.total(slopes.shape[1]), 0
    doubtful, above_doubt = low_cost, 0
    while high - low > 1:
        middle = (low + high) // 2
        pivot = _key_float(middle, slopes.dtype)
        cost = above_doubt + tokens.total(sum(each * int(torch.count_nonzero(items > pivot)) for each, items in blocks))
        if cost <= budget:
            high, high_cost = middle, cost
        else:
            low, low_cost = middle, cost
        if low_cost - high_cost < doubtful // 4:
            bottom, top = _key_float(low, slopes.dtype), _key_float(high, slopes.dtype)
            blocks = [(each, items[(items > bottom) & (items <= top)]) for each, items in blocks]
            doubtful, above_doubt = low_cost - high_cost, high_cost
    return _key_float(high, slopes.dtype)


def _blocks(items: Tensor, costs: Sequence[int]) -> list[tuple[int, Tensor]]:
    """Groups adjacent rows of equal cost: counting in a block is many times faster than counting by row."""
    runs = [(cost, len(list(run))) for cost, run in itertools.groupby(costs)]
    parts = items.split([length for _, length in runs])
    return [(cost, part) for (cost, _), part in zip(runs, parts, strict=True)]


def _cost(taken: Tensor, costs: Sequence[int]) -> int:
    return sum(cost * int(torch.count_nonzero(part)) for cost, part in _blocks(taken, costs))


def _take_tied(
    taken: Tensor, tied: Tensor, costs: Sequence[int], remaining: int, priority: Tensor | None, tokens: Tokens
) -> None:
    """Adds to ``taken`` those of the items tied at one slope that still fit; overwrites ``tied``."""
    if priority is not None:
        cost = torch.zeros(tied.shape[1], dtype=torch.int64, device=tied.device)
        for row, width in zip(tied, costs, strict=True):
            cost.add_(row, alpha=width)
        levels = tokens.union(priority)
        level = len(levels) - 1 - torch.searchsorted(levels, priority)  # 0 is the highest priority
        spent = tokens.sum(cost.new_zeros(len(levels)).index_add_(0, level, cost)).cumsum(0)
        whole = int((spent <= remaining).sum())  # how many levels fit completely
        if whole:
            taken |= tied & (level < whole)
            remaining -= int(spent[whole - 1])
        tied &= level == whole
    for position, width in enumerate(costs):
        found = tied[position].nonzero().squeeze(1)
        count, fitting = tokens.total(len(found)), remaining // width
        taken[position, found if count <= fitting else tokens.lowest(found, fitting)] = True
        if count > fitting:
            return
        remaining -= count * width


# Maps floats to integers of the same order: the bits of positive floats count up, those of negative ones down.
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


def _float_key(number: Tensor) -> int:
    integer = _INTEGERS[number.dtype]
    bits = int(number.view(integer))
    return bits if bits >= 0 else bits ^ torch.iinfo(integer).max


def _key_float(key: int, dtype: torch.dtype) -> float:
    integer = _INTEGERS[dtype]
    bits = key if key >= 0 else key ^ torch.iinfo(integer).max
    return torch.tensor(bits, dtype=integer).view(dtype).item()
