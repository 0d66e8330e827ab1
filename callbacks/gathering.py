"""Passes the gradients of a fit to a criterion: those of each row's own loss, or those of a batch's mean loss."""

from __future__ import annotations

from functools import partial
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor

from pme_lightning.callbacks.rank_sums import sum_over_processes
from pme_lightning.embedding import FullEmbedding
from pme_lightning.errors import BadInput
from pme_lightning.search import ALONE, Criterion
from pme_lightning.sixteen_bits import widened


class GradientGathering:
    """Gathers the gradients that a criterion needs in each step.

    Gradients of rows are captured in the backward pass of the table's lookups: those of the values that each row
    looked up, before they are added up token by token. Gradients of a batch's mean loss are read from the parameters.

    Args:
        criterion: The criterion that receives them.

    Attributes:
        gathered: How many batches, or steps, the criterion has received since the start of the scoring window.
    """

    def __init__(self, criterion: Criterion) -> None:
        self.criterion = criterion
        self.gathered = 0
        self._observed = False  # whether gradients of rows have come since the last step

    def watch(self, trainer: Trainer, embedding: FullEmbedding, ids: Tensor, frequencies: Tensor) -> None:
        """Arranges to pass on the gradients of the rows of the next batch, if the criterion needs rows.

        Args:
            trainer: The trainer of the fit.
            embedding: The table.
            ids: ``(B, F)``: the batch.
            frequencies: ``(V,)``: training rows of each token held here.
        """
        if not self.criterion.needs_rows:
            return
        of_batch = embedding.gathered(ids.reshape(-1).long(), frequencies)[0].view(ids.shape)
        embedding.observer = partial(self._take_rows, trainer, embedding, of_batch)
        if embedding.shard is not None:
            embedding.held_observer = partial(self._take_held, trainer, embedding)

    def take_step(self, trainer: Trainer, embedding: FullEmbedding) -> None:
        """Passes on the gradients of an optimizer step, before the step is made.

        Raises:
            BadInput: Gradients that the criterion needs are missing.
        """
        if self.criterion.needs_rows and not self._observed:
            raise _no_gradient()
        self._observed = False
        if not self.criterion.needs_gradients:
            return
        weight_grad = embedding.weight.grad
        if weight_grad is None:
            raise _no_gradient()
        linear_grad = None if embedding.linear is None else embedding.linear.grad
        if not _overflowed(trainer, weight_grad, linear_grad):
            self.gathered += 1
            self.criterion.update(widened(weight_grad), None if linear_grad is None else widened(linear_grad))

    def check(self, trainer: Trainer) -> None:
        """Checks that gradients were gathered.

        Raises:
            BadInput: The gradients of every step overflowed.
        """
        gathers = self.criterion.needs_gradients or self.criterion.needs_rows
        if gathers and _scaler(trainer) is not None and not sum_over_processes(self.gathered):
            raise BadInput(
                f"all gradients that were to be scored overflowed 16 bits (trainer.precision {trainer.precision}): "
                "lower the learning rate, or use bf16-mixed"
            )

    def _take_rows(
        self,
        trainer: Trainer,
        embedding: FullEmbedding,
        frequencies: Tensor,
        ids: Tensor,
        rows: Tensor | None,
        linear: Tensor | None = None,
    ) -> None:
        """Passes on the gradients of each row's own loss, given those of the loss that was differentiated."""
        if rows is None:
            raise _no_gradient()
        self._observed = True
        if _overflowed(trainer, rows, linear):
            return
        self.gathered += 1
        factor = _to_own_loss(trainer, len(ids))
        rows, linear = rows * factor, None if linear is None else linear * factor
        if self.criterion.tokens is ALONE:
            self.criterion.update_rows(ids, frequencies, rows, linear)
            self.criterion.update_standing(*_as_stored(embedding))
        else:
            self.criterion.update_moments(frequencies, rows, linear)

    def _take_held(
        self,
        trainer: Trainer,
        embedding: FullEmbedding,
        tokens: Tensor,
        rows: Tensor,
        linear: Tensor | None,
        counts: Tensor,
    ) -> None:
        """Passes on the sums of such gradients for the tokens held here, given their means over processes."""
        assert embedding.shard is not None
        factor = _to_own_loss(trainer, 1) * embedding.shard.processes
        self.criterion.update_tokens(tokens, rows * factor, None if linear is None else linear * factor)
        self.criterion.update_standing(*_as_stored(embedding), tokens, counts)


def _to_own_loss(trainer: Trainer, rows: int) -> Tensor | float:
    """Returns the factor that turns the gradients of a batch into those of each row's own loss."""
    # Lightning divides the mean over a batch by the number of batches per step, and scales 16-bit gradients.
    scaler = _scaler(trainer)
    divided_by = getattr(trainer.lightning_module, "loss_rows", rows)
    return divided_by * trainer.accumulate_grad_batches / (1.0 if scaler is None else scaler.get_scale())


def _as_stored(embedding: FullEmbedding) -> tuple[Tensor, Tensor | None]:
    return embedding.weight.detach(), None if embedding.linear is None else embedding.linear.detach()


def _scaler(trainer: Trainer) -> Any:
    """Returns the gradient scaler for 16-bit gradients; None if there is none."""
    return getattr(trainer.precision_plugin, "scaler", None)


def _overflowed(trainer: Trainer, *gradients: Tensor | None) -> bool:
    """Whether scaled gradients are too large for 16 bits: the scaler skips such a step."""
    if _scaler(trainer) is None:
        return False
    values = [each.coalesce().values() if each.is_sparse else each for each in gradients if each is not None]
    return not all(bool(each.isfinite().all()) for each in values)


def _no_gradient() -> BadInput:
    return BadInput("PruningCallback found no gradient at the embedding: is it frozen?")
