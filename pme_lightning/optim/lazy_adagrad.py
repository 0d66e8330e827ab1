"""Adagrad that works on the rows of a batch alone, as embedding tables want it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pme_lightning.errors import BadInput
from pme_lightning.optim.decay import decay
from pme_lightning.optim.row_blocks import RowBlock, StepsByPlace, check_blocks, tables_of
from pme_lightning.optim.sparse_gradients import coalesced
from pme_lightning.optim.stored_values import chance_of, store, store_rows
from pme_lightning.sixteen_bits import Chance, widened

# How far from zero values of a table are expected, squared: the best on validation of what was tried on three sets.
_PRIOR_VARIANCE = 1 / 16
# Rates that suit so many fields make the first steps of more too long, and values that are expected to be so large make
# sums over pairs of more too large; of fewer nothing was found too long or too large.
_FIELDS = 7
# Of up to so many fields a rate that rises was found to do harm, of 20 and more to help.
_RISES_BEYOND = 14


def prior_variance(fields: int) -> float:
    """Returns how far from zero values of a table are expected, squared, given how many tokens a row has.

    A sum over pairs of ``F`` fields has ``F (F - 1) / 2`` terms, each a product of two values: for it to become as
    large whatever ``F`` is, the variance of values has to fall as ``1 / F``.

    Args:
        fields: How many.
    """
    return _PRIOR_VARIANCE * min(1.0, _FIELDS / fields)


class LazyAdagrad(Optimizer):
    r"""Adagrad (Duchi et al., 2011) whose steps cost what the batch has in tokens, not what the table has.

    Each value ``w`` with a gradient ``g`` in the batch takes the step of :class:`torch.optim.Adagrad`,
    ``s += g²; w -= lr · g / (√s + eps)``; all others stay unchanged, as they do there. Sparse gradients, such as those
    of :class:`~pme_lightning.embedding.FullEmbedding` with ``sparse=True``, are used as they are; dense ones work, too.

    Weight decay would touch every row in every step. Here it is applied in arrears: every ``decay_interval`` steps,
    each value shrinks by that many steps of decay at once, ``w *= max(0, 1 - lr · weight_decay / (√s + eps)) ^
    decay_interval``. The decay is decoupled (Loshchilov and Hutter, 2019): it does not enter ``s``.

    Steps of Adagrad have about the same length for all values, so a row of few values moves less than one of many. If a
    model says how rows are laid out in a parameter (:meth:`set_blocks`, as
    :class:`~pme_lightning.embedding.MultiSizeEmbedding` does), the steps and decays of each block are scaled as the
    model says.

    Weight decay ``λ``, added to the mean loss of ``N`` rows, corresponds to a normal prior of variance ``1 / (N λ)``
    (ridge regression; MacKay, 1992): a strength that suits some data is ten times too strong for ten times the rows.
    ``weight_decay=None`` fixes the prior instead, at :func:`prior_variance`, a standard deviation of 1/4 for up to 7
    fields. The decay is then ``16 / N``, with ``N`` from :meth:`set_training_rows`, and ``F / 7`` times that for ``F``
    fields if there are more than 7.

    Rates and priors that suit a sum over pairs of few fields are too large for many fields. If :meth:`set_fields` sets
    more than 7 fields, ``F``:

    - the variance of the prior is lower (:func:`prior_variance`);
    - the rate is ``√(7 / F)`` times ``lr``, as the prior's standard deviation is;
    - with more than 14 fields, it starts at ``(7 / F)²`` of that and rises over ``warmup_steps``. Adagrad's first step
      moves every value by the whole rate, whatever its gradient, and values of all fields in the same way. The sum over
      pairs moves by ``F²`` as much: with 39 fields, a first step of .1 makes logits of a hundred, and the resulting
      sums ``s`` would make all later steps short. Without such a sum (:meth:`set_sums_over_pairs`) there is no rise;
    - the factors of blocks are raised to the power ``7 / F``, so that they matter less.

    Parameters of 16 bits (bfloat16) have sums ``s`` of 16 bits. Steps are computed in 32 bits and rounded at random, so
    that small steps are not lost (:func:`~pme_lightning.sixteen_bits.rounded_at_random`). The random numbers depend on
    the number of the step: they are the same in every process, and after an interruption.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate.
        eps: Term added to the denominator for numerical stability.
        initial_accumulator_value: Initial value of ``s``.
        weight_decay: Strength of the decay per step (``None``: derived from the prior and the number of rows).
        decay_interval: Number of steps between two decays, at most those of an epoch (:meth:`set_epoch_steps`). With 1,
            every row is touched in every step.
        scale_by_size: Whether to scale blocks of rows as the model says.
        warmup_steps: Number of steps over which the rate rises if there are more than 14 fields and a sum over pairs of
            them; 0: no rise.
        scale_by_fields: Whether rate, warm-up, prior and the factors of blocks depend on the number of fields if there
            are more than 7.

    Raises:
        BadInput: An argument is out of range.
    """

    # Gradients may be sparse, values 16 bits wide: the module asks its optimizer.
    takes_sparse_gradients = True
    takes_sixteen_bits = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        eps: float = 1e-10,
        initial_accumulator_value: float = 0.0,
        weight_decay: float | None = 0.0,
        decay_interval: int = 64,
        scale_by_size: bool = True,
        warmup_steps: int = 200,
        scale_by_fields: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "eps": eps,
            "initial_accumulator_value": initial_accumulator_value,
            "weight_decay": weight_decay,
            "decay_interval": decay_interval,
            "warmup_steps": warmup_steps,
        }
        for name, value in defaults.items():
            if value is not None and not value >= (1 if name == "decay_interval" else 0):
                least = "1 or more" if name == "decay_interval" else "0 or more"
                raise BadInput(f"LazyAdagrad: {name} is {value}; it must be {least}")
        for name, steps in (("decay_interval", decay_interval), ("warmup_steps", warmup_steps)):
            if steps % 1 != 0:
                raise BadInput(f"LazyAdagrad: {name} is {steps}; it must be a whole number of steps")
        self.scale_by_size, self.scale_by_fields = scale_by_size, scale_by_fields
        self._fields = 1
        self._sums_over_pairs = True
        # As the model gave them, and as they are used with so many fields.
        self._given: dict[Tensor, Sequence[RowBlock]] = {}
        self._blocks: dict[Tensor, Sequence[RowBlock]] = {}
        self._steps: dict[Tensor, StepsByPlace] = {}
        super().__init__(params, defaults)

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles take along."""
        own = {
            "scale_by_size": self.scale_by_size,
            "scale_by_fields": self.scale_by_fields,
            "_fields": self._fields,
            "_sums_over_pairs": self._sums_over_pairs,
            "_given": self._given,
            "_blocks": self._blocks,
            "_steps": {},
        }
        return super().__getstate__() | own

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes over what a copy, a pickle or a checkpoint holds; one of an earlier version knows no rise."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("warmup_steps", 0)

    def set_training_rows(self, rows: int) -> None:
        """Sets the weight decay that is ``None`` until now to ``1 / (rows * prior_variance)``; any other stays.

        Args:
            rows: How many rows there are to train on, over all processes. :meth:`set_fields` comes before it.

        Raises:
            BadInput: There are none.
        """
        if rows < 1:
            raise BadInput(f"LazyAdagrad: there are {rows} rows to train on")
        for group in (*self.param_groups, self.defaults):
            if group["weight_decay"] is None:
                group["weight_decay"] = 1 / (rows * prior_variance(self._fields))

    def set_epoch_steps(self, steps: int) -> None:
        """Has decays come at least once in an epoch.

        Of little data an epoch has few steps, and the decay is strong. What a row has learned in several epochs would
        go all at once.

        Args:
            steps: Optimizer steps of an epoch.
        """
        for group in (*self.param_groups, self.defaults):
            group["decay_interval"] = min(group["decay_interval"], max(1, steps))

    def set_fields(self, fields: int) -> None:
        """Says how many tokens a row has: of many the rate is lower, and decay that is ``None`` until now stronger.

        It is part of the model, not of the optimizer's state: ``state_dict`` does not hold it.

        Args:
            fields: How many.

        Raises:
            BadInput: There are none.
        """
        if fields < 1:
            raise BadInput(f"LazyAdagrad: there are {fields} fields")
        if self.scale_by_fields:
            self._fields = fields
            for parameter in self._given:
                self._use_blocks(parameter)

    def set_sums_over_pairs(self, sums_over_pairs: bool) -> None:
        """Sets whether the model adds up products of values over all pairs of fields, as FM and DeepFM do.

        It is part of the model, not of the optimizer's state: ``state_dict`` does not hold it.

        Args:
            sums_over_pairs: Whether it does; until set, it is taken to.
        """
        self._sums_over_pairs = sums_over_pairs

    def set_blocks(self, parameter: Tensor, blocks: Sequence[RowBlock]) -> None:
        """Says how the rows of a flat parameter lie, and how their steps and decays are scaled.

        It is part of the model, not of the optimizer's state: ``state_dict`` does not hold it.

        Args:
            parameter: One of this optimizer's, ``(N,)``. A sparse gradient of it has whole rows.
            blocks: One after the other, ``N`` values in all.

        Raises:
            ValueError: The blocks do not fill the parameter.
        """
        check_blocks(parameter, blocks)
        self._given[parameter] = blocks
        self._use_blocks(parameter)

    def _use_blocks(self, parameter: Tensor) -> None:
        """Scales by blocks less where there are many fields."""
        few, given = self._few(), self._given[parameter]
        self._blocks[parameter] = given if few == 1 else [block.to_the_power(few) for block in given]
        self._steps.pop(parameter, None)

    def blocks_of(self, parameter: Tensor) -> Sequence[RowBlock]:
        """Returns the blocks that a parameter is scaled by; none, where it is not."""
        return self._blocks.get(parameter, ()) if self.scale_by_size else ()

    def _scale(self, parameter: Tensor, divisors: Tensor, places: Tensor) -> None:
        """Divides what gradients are divided by, of values at some places ``(n,)``, by the scale of their steps."""
        blocks = self.blocks_of(parameter)
        if blocks and parameter.is_cuda:
            if parameter not in self._steps:
                self._steps[parameter] = StepsByPlace.of(blocks, parameter.device)
            divisors.div_(self._steps[parameter].at(places))
            return
        for block, own in tables_of(divisors, blocks, places):
            own.div_(block.steps)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step.

        Args:
            closure: Computes gradients and returns the loss.

        Returns:
            What the closure returned.

        Raises:
            BadInput: The weight decay goes by the training rows, and their number has not been said.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["weight_decay"] is None:
                raise BadInput(
                    "LazyAdagrad: weight_decay is None, which goes by the training rows, and nothing says how many "
                    "there are: give it a number, or train with a data module whose rows['train'] does"
                )
            for number, parameter in enumerate(group["params"]):
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    # Apart from the sum, so that a step count on the processor never waits for the device.
                    state["step"] = torch.tensor(0)
                    state["sum"] = torch.full_like(parameter, group["initial_accumulator_value"])
                now = {**group, "lr": group["lr"] * self._rate(int(state["step"]), group["warmup_steps"])}
                state["step"] += 1
                blocks = self.blocks_of(parameter)
                chance = chance_of(parameter, number, int(state["step"]))
                update = self._update_rows if parameter.grad.is_sparse else self._update_dense
                update(parameter, parameter.grad, state["sum"], now, chance)
                if group["weight_decay"] and int(state["step"]) % group["decay_interval"] == 0:
                    decay(parameter, state["sum"], now, blocks, chance)
        return loss

    def _few(self) -> float:
        """Returns 1 for few fields, and 7 over their number for many."""
        return min(1.0, _FIELDS / self._fields)

    def _rate(self, done: int, rise: int) -> float:
        """Returns what the rate is multiplied by after so many steps."""
        few = self._few()
        start = few**2 if self._fields > _RISES_BEYOND and self._sums_over_pairs else 1.0
        return few**0.5 * (1.0 if done >= rise else start + (1 - start) * done / rise)

    def _update_dense(
        self, parameter: Tensor, grad: Tensor, total: Tensor, group: dict[str, Any], chance: Chance | None
    ) -> None:
        grad, sums, values = widened(grad), widened(total), widened(parameter)
        sums.addcmul_(grad, grad)
        # A value that never had a gradient has nothing to divide by.
        roots = (sums.sqrt() + group["eps"]).clamp_(min=torch.finfo(sums.dtype).tiny)
        for block, divisors in tables_of(roots, self.blocks_of(parameter)):
            divisors.div_(block.steps.to(divisors))
        values.addcdiv_(grad, roots, value=-group["lr"])
        store(total, sums, chance)
        store(parameter, values, chance)

    def _update_rows(
        self, parameter: Tensor, grad: Tensor, total: Tensor, group: dict[str, Any], chance: Chance | None
    ) -> None:
        """Takes a step with a sparse gradient: of all rows only those that it has are read and written."""
        grad = coalesced(grad)
        rows, values = grad._indices()[0], widened(grad._values())
        table = parameter
        if parameter.shape[1:].numel() == 1:
            # Rows of one value, such as first-order weights, are single values: faster, and views of the same memory.
            table, total, values = parameter.view(-1), total.view(-1), values.view(-1)
        sums = widened(total.index_select(0, rows)).addcmul_(values, values)
        store_rows(total, rows, sums, chance)
        roots = sums.sqrt_().add_(group["eps"]).clamp_(min=torch.finfo(sums.dtype).tiny)
        self._scale(parameter, roots, rows)
        moved = widened(table.index_select(0, rows)).addcdiv_(values, roots, value=-group["lr"])
        store_rows(table, rows, moved, chance)
