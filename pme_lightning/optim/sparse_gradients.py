"""Sparse gradients: which optimizers take them, and as autograd leaves them on a parameter."""

from __future__ import annotations

import torch
from torch import Tensor

from pme_lightning.class_path import import_class


def takes_sparse_gradients(optimizer: str) -> bool:
    """Whether an optimizer takes sparse gradients: its class says so by an attribute of this name, or is SparseAdam.

    Args:
        optimizer: Import path of the class.

    Raises:
        BadInput: There is no such class.
    """
    cls = import_class(optimizer)
    return getattr(cls, "takes_sparse_gradients", False) or issubclass(cls, torch.optim.SparseAdam)


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
