"""Axes along which values are scored: principal axes of a table, or of the tokens of a field."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pme_lightning.embedding.row_chunks import FEW_ROWS, row_chunks
from pme_lightning.errors import BadInput, did_you_mean
from pme_lightning.search.across import ALONE, Tokens

# Far below the energy of a table along an axis in use, far above what rounding leaves along an unused one.
_WHERE_EMPTY = 1e-6


@torch.no_grad()
def principal_axes(
    weight: Tensor, frequencies: Tensor, tokens: Tokens = ALONE, where_empty: Tensor | None = None
) -> Tensor:
    """Eigenvectors of ``Σ_v freq_v w_v w_vᵀ``, by falling eigenvalue.

    Args:
        weight: ``(V, D)``.
        frequencies: ``(V,)``, at least 0.
        tokens: how processes agree if tokens are split over them.
        where_empty: ``(D, D)`` symmetric, positive semidefinite: determines the axes along which the table has no
            energy, for example if it has fewer than ``D`` tokens; without it, these axes are arbitrary.

    Returns:
        ``(D, D)`` orthogonal, one axis per column, the largest entry of each positive; the identity if the
        weighted table is all zeros.

    Raises:
        BadInput: the table holds NaN or infinity.
    """
    energy = torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.float64, device=weight.device)
    for part in row_chunks(0, len(weight)):
        rows = weight[part].double()
        energy += rows.T @ (rows * frequencies[part].to(rows).unsqueeze(1))
    energy = tokens.sum(energy)
    if not bool(energy.isfinite().all()):
        raise BadInput("the embedding table holds NaN or infinity: the search diverged; lower the learning rate")
    if where_empty is not None and bool(where_empty.any()):
        energy += where_empty * (_WHERE_EMPTY * energy.trace() / where_empty.trace())
    if not bool(energy.any()):
        return torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    return tokens.same(facing_up(torch.linalg.eigh(energy).eigenvectors.flip(1)).to(weight.dtype))


def axes_by_worth(weight: Tensor, frequencies: Tensor, information: Tensor, tokens: Tokens = ALONE) -> Tensor:
    """Principal axes of the tokens of a field, ordered by how much its rows depend on them, the most first.

    Args:
        weight: ``(n, D)``: the rows of the tokens.
        frequencies: ``(n,)``.
        information: ``(D, D)``: sum of the products of the gradients of the field's rows.
        tokens: how processes agree if tokens are split over them.

    Returns:
        ``(D, D)`` orthogonal, one axis per column.
    """
    found = principal_axes(weight, frequencies.double(), tokens, information)
    axes, energy = found.double(), information.new_zeros(len(found))
    for part in row_chunks(0, len(weight), FEW_ROWS):
        energy += frequencies[part].double() @ (weight[part].double() @ axes).square()
    worth = tokens.sum(energy) * ((information @ axes) * axes).sum(0)
    return found[:, worth.argsort(descending=True, stable=True)]


def facing_up(axes: Tensor) -> Tensor:
    """Returns axes ``(D, D)``, one per column, each with the sign that makes its largest entry positive.

    Eigenvectors come in column-major order. They are returned in row-major order, as they are read from a file, because
    the rounding of products depends on it.
    """
    return (axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()).contiguous()


def squares_along(weight: Tensor, basis: Tensor | None) -> Tensor:
    """Returns the squares of a table ``(V, D)`` along axes ``(D, D)``; None for its own axes."""
    return weight.square() if basis is None else (weight @ basis).square_()


def known_axes(owner: str, axes: str, known: Sequence[str] = ("original", "principal")) -> str:
    """Returns ``axes``; raises BadInput, with the name of the owner, if there are no such axes."""
    if axes not in known:
        raise BadInput(f"{owner}: axes {axes!r} are unknown; {did_you_mean(str(axes), known)}")
    return axes
