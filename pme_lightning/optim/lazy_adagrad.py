"""Adagrad that works on the rows of a batch alone, as embedding tables want it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pme_lightning.errors import BadInput
from pme_lightning.optim.sparse_gradients import coalesced

# Values worked on at a time where all of a parameter is gone through: no intermediate result as large as the table.
_CHUNK = 1 << 20


class LazyAdagrad(Optimizer):
    r"""Adagrad (Duchi et al., 2011) whose step costs as much as the batch has tokens, however many the table has.

    Each value ``w`` with a gradient ``g`` in the batch takes the step of :class:`torch.optim.Adagrad`,
    ``s += g²; w -= lr · g / (√s + eps)``; the others stay, as they do there. Sparse gradients, as those of
    :class:`~pme_lightning.embedding.FullEmbedding` with ``sparse=True``, are used as they are; dense ones do too.

    Weight decay would touch every row in every step. Here it comes in arrears: every ``decay_interval`` steps each
    value shrinks by what that many steps of decay amount to, ``w *= max(0, 1 - lr · weight_decay / (√s + eps)) ^
    decay_interval``. The decay is decoupled (Loshchilov and Hutter, 2019): it does not enter ``s``.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate.
        eps: Keeps the division sound.
        initial_accumulator_value: What ``s`` starts from.
        weight_decay: Strength of the decay a step.
        decay_interval: Steps between two decays. With 1 every row is touched in every step.

    Raises:
        BadInput: An argument is out of range.
    """

    # Gradients may be sparse: the module asks its optimizer.
    takes_sparse_gradients = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        eps: float = 1e-10,
        initial_accumulator_value: float = 0.0,
        weight_decay: float = 0.0,
        decay_interval: int = 64,
    ) -> None:
        defaults = {
            "lr": lr,
            "eps": eps,
            "initial_accumulator_value": initial_accumulator_value,
            "weight_decay": weight_decay,
            "decay_interval": decay_interval,
        }
        for name, value in defaults.items():
            if not value >= (1 if name == "decay_interval" else 0):
                least = "1 or more" if name == "decay_interval" else "0 or more"
                raise BadInput(f"LazyAdagrad: {name} is {value}; it must be {least}")
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step.

        Args:
            closure: Computes gradients and returns the loss.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    # Apart from the sum, so that a step count on the processor never waits for the device.
                    state["step"] = torch.tensor(0.0)
                    state["sum"] = torch.full_like(parameter, group["initial_accumulator_value"])
                state["step"] += 1
                _update(parameter, parameter.grad, state["sum"], group)
                if group["weight_decay"] and int(state["step"]) % group["decay_interval"] == 0:
                    _decay(parameter, state["sum"], group)
        return loss


def _update(parameter: Tensor, grad: Tensor, total: Tensor, group: dict[str, Any]) -> None:
    lr, eps = group["lr"], group["eps"]
    if not grad.is_sparse:
        total.addcmul_(grad, grad)
        # A value that never had a gradient has nothing to divide by.
        parameter.addcdiv_(grad, (total.sqrt() + eps).clamp_(min=torch.finfo(total.dtype).tiny), value=-lr)
        return
    grad = coalesced(grad)
    rows, values = grad._indices()[0], grad._values()
    if parameter.shape[1:].numel() == 1:
        # Rows of one value, such as first-order weights, are single values: faster, and views of the same memory.
        parameter, total, values = parameter.view(-1), total.view(-1), values.view(-1)
    sums = total.index_select(0, rows).addcmul_(values, values)
    _write(total, rows, sums)
    steps = parameter.index_select(0, rows)
    steps.addcdiv_(values, sums.sqrt_().add_(eps).clamp_(min=torch.finfo(sums.dtype).tiny), value=-lr)
    _write(parameter, rows, steps)


def _write(table: Tensor, rows: Tensor, values: Tensor) -> None:
    # On single values scatter runs in parallel, index_copy does not; on rows it is the other way round.
    table.scatter_(0, rows, values) if table.ndim == 1 else table.index_copy_(0, rows, values)


def _decay(parameter: Tensor, total: Tensor, group: dict[str, Any]) -> None:
    strength, interval = group["lr"] * group["weight_decay"], group["decay_interval"]
    for values, sums in zip(_chunks(parameter), _chunks(total), strict=True):
        shrink = sums.sqrt().add_(group["eps"]).clamp_(min=torch.finfo(sums.dtype).tiny).reciprocal_()
        values.mul_(shrink.mul_(-strength).add_(1).clamp_(min=0).pow_(interval))


def _chunks(table: Tensor) -> Iterator[Tensor]:
    rows = max(1, _CHUNK * len(table) // max(1, table.numel()))
    return iter(table.split(rows))
