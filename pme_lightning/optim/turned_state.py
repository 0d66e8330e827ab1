"""What optimizers keep of the rows of a table, where these are turned into other axes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from pme_lightning.sixteen_bits import widened

# What torch's optimizers call them; whatever else they keep of each value is of squares of gradients, or like it.
_MEANS_OF_GRADIENTS = ("exp_avg", "momentum_buffer", "grad_avg")


@torch.no_grad()
def turn_state(optimizer: Optimizer, table: Tensor, basis: Tensor) -> None:
    """Turns what an optimizer keeps of rows with them: means of gradients exactly, squares as a diagonal can.

    Args:
        optimizer: It may have nothing of the table.
        table: ``(V, D)``, one of its parameters.
        basis: Orthogonal ``Q (D, D)``; row ``w`` becomes ``w Q``.
    """
    for name, kept in optimizer.state.get(table, {}).items():
        if isinstance(kept, Tensor) and kept.shape == table.shape:
            turn = basis if name in _MEANS_OF_GRADIENTS else basis.square()
            kept.copy_(widened(kept) @ turn)
