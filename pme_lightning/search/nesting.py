"""Axes along which most tokens need few values: all need the first ones, fewer and fewer the later ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pme_lightning.search.across import ALONE, Tokens
from pme_lightning.search.axes import facing_up

# How many tokens are used: those that say the most, and as many others, which represent all the rest.
_TOKENS = 1 << 12
_STEPS = 60


@torch.no_grad()
def nested_axes(weight: Tensor, precision: Tensor, axes: Tensor, tokens: Tokens = ALONE) -> Tensor:
    """Rotates axes so that most tokens need only few of the first ones.

    Principal axes concentrate the energy of all rows in the first values. But this energy is a sum that the most
    frequent tokens dominate, and it does not matter whether a token needs its later values at all. Here, what a token
    loses without its values from the ``d``-th on counts by its logarithm, as far as it can be told from noise::

        min_Q  Σ_v Σ_d log(1 + precision_v · Σ_{k ≥ d} (w_v · q_k)²)

    So a token with a tiny tail gains as much by losing the rest of it as a token with a long tail does. For tokens with
    few rows, whose tails are small compared with the noise, the sum is that of principal axes. Half of such a
    logarithm, to base 2, is the number of bits needed to state a number as precisely as the rows allow: along these
    axes, tails need the fewest bits.

    Minimized by L-BFGS over rotations ``Q = Q_0 exp(A - Aᵀ)``, in double precision, in main memory.

    Args:
        weight: ``(V, D)``, for the tokens held here.
        precision: ``(V,)``, at least 0: what the training rows of a token tell about one of its values, as the inverse
            of the variance that remains.
        axes: ``(D, D)`` orthogonal, one axis per column: ``Q_0``, for example principal axes.
        tokens: how processes agree if tokens are split over them.

    Returns:
        ``(D, D)`` orthogonal, the largest entry of each column positive; ``axes`` if there is nothing to optimize.
    """
    rows, weights = _looked_at(weight, precision, tokens)
    rows = rows @ axes.double().cpu()
    dim = len(axes)
    turn = torch.zeros(dim, dim, dtype=torch.float64, requires_grad=True)
    # Gradients and the loss are sums over processes, so all processes take the same steps.
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
    """Returns rows ``(n, D)`` in units of their noise, and how many tokens each of them represents ``(n,)``."""
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
