"""Sparse gradients as autograd leaves them on a parameter."""

from __future__ import annotations

from torch import Tensor


def coalesced(grad: Tensor) -> Tensor:
    """Returns a sparse gradient in which every row occurs once, in rising order.

    Autograd drops the mark that says so when it stores a gradient on its parameter, and ``coalesce()`` would then
    sort and add up what is sorted and added up already: looking at the rows is some fifty times cheaper.

    Args:
        grad: Sparse COO with one sparse dimension.
    """
    if not grad.is_coalesced():
        rows = grad._indices()[0]
        if not bool((rows[1:] > rows[:-1]).all()):
            return grad.coalesce()  # of several batches, one after the other
        grad._coalesced_(True)
    return grad
