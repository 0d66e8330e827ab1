"""Axes in which most tokens need few values: the first ones for all, each further one for fewer."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pme_lightning.search.across import ALONE, Tokens
from pme_lightning.search.axes import facing_up

# Tokens that are looked at: those that say the most, and as many others, which stand for all the rest.
_TOKENS = 1 << 12
_STEPS = 60


@torch.no_grad()
def nested_axes(weight: Tensor, precision: Tensor, axes: Tensor, tokens: Tokens = ALONE) -> Tensor:
    """Turns axes until most tokens need few of the first ones.

    Principal axes put as much of all rows as they can into the first values: of a sum in which the most frequent tokens
    have nearly all to say. Whether a token needs its later values at all does not count there. Here what a token loses
    without its values from the ``d``-th on counts by its logarithm, once that can be told from noise::

        min_Q  Σ_v Σ_d log(1 + precision_v · Σ_{k ≥ d} (w_v · q_k)²)

    A token whose tail is next to nothing gains as much by losing the rest of it as others do whose tail is long; of
    tokens with few rows, whose tails are little beside the noise, the sum is that of principal axes. Half of such a
    logarithm, to base 2, is the bits that it takes to tell a number as precisely as the rows allow: these are the axes
    along which tails take the fewest.

    Minimized by L-BFGS over rotations ``Q = Q_0 exp(A - Aᵀ)``, in double precision, in main memory.

    Args:
        weight: ``(V, D)``, of the tokens that are here.
        precision: ``(V,)``, at least 0: what the training rows of a token tell about a value of it, the inverse of the
            variance that they leave.
        axes: ``(D, D)`` orthogonal, one axis a column: ``Q_0``, principal ones, say.
        tokens: how processes agree, where tokens are split over them.

    Returns:
        ``(D, D)`` orthogonal, the largest entry of each column positive; ``axes`` where there is nothing to tell.
    """
    rows, weights = _looked_at(weight, precision, tokens)
    rows = rows @ axes.double().cpu()
    dim = len(axes)
    turn = torch.zeros(dim, dim, dtype=torch.float64, requires_grad=True)
    # Gradients are sums over processes, and so is the loss: all of them take the same steps.
    optimizer = torch.optim.LBFGS([turn], max_iter=_STEPS, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> float:
        with torch.enable_grad():
            squares = (rows @ _rotation(turn)).square()
            tails = squares.flip(1).cumsum(1)
            loss = (weights * torch.log1p(tails).sum(1)).sum()
            (gradient,) = torch.autograd.grad(loss, turn)
        both = tokens.sum(torch.cat([loss.detach().reshape(1), gradient.reshape(-1)]))
        turn.grad = both[1:].view_as(turn)
        return float(both[0])

    optimizer.step(closure)
    found = axes.double().cpu() @ _rotation(turn.detach())
    if not bool(found.isfinite().all()):
        return axes
    return tokens.same(facing_up(found).to(axes))


def _rotation(turn: Tensor) -> Tensor:
    return torch.linalg.matrix_exp(turn - turn.T)


def _looked_at(weight: Tensor, precision: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Returns rows ``(n, D)`` in units of their noise, and how many tokens each of them stands for ``(n,)``."""
    energy = precision.double() * torch.linalg.vector_norm(weight, dim=1).double().square()
    known = int((energy > 0).sum())
    most = min(known, math.ceil(_TOKENS * known / max(1, tokens.total(known))))
    first = energy.topk(most).indices
    energy[first] = 0
    rest = energy.nonzero().squeeze(1)
    stride = max(1, len(rest) // max(1, most))
    some = rest[stride // 2 :: stride]
    taken = torch.cat([first, some])
    stands = torch.ones(len(taken), dtype=torch.float64)
    if len(some):
        stands[most:] = len(rest) / len(some)
    rows = weight[taken].double() * precision[taken].double().sqrt().unsqueeze(1)
    return rows.cpu(), stands
