"""Hands the gradients of a fit to a criterion: those of each row's own loss, or those of a batch's mean loss."""

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
    """Gathers what a criterion needs of each step.

    Gradients of rows are caught where they leave the table's lookups: of the values that each row looked up, before
    they are added up token by token. Those of a batch's mean loss are read off the parameters.

    Args:
        criterion: What they are for.

    Attributes:
        gathered: Batches, or steps, that the criterion has been given since the scoring window began.
    """

    def __init__(self, criterion: Criterion) -> None:
        self.criterion = criterion
        self.gathered = 0
        self._observed = False  # whether gradients of rows have come since the last step

    def watch(self, trainer: Trainer, embedding: FullEmbedding, ids: Tensor, frequencies: Tensor) -> None:
        """Has the gradients of the rows of the next batch handed over, if the criterion needs rows.

        Args:
            trainer: Of the fit.
            embedding: The table.
            ids: ``(B, F)``: the batch.
            frequencies: ``(V,)``: rows of the training split of each of the tokens that are here.
        """
        if not self.criterion.needs_rows:
            return
        of_batch = embedding.gathered(ids.reshape(-1).long(), frequencies)[0].view(ids.shape)
        embedding.observer = partial(self._take_rows, trainer, embedding, of_batch)
        if embedding.shard is not None:
            embedding.held_observer = partial(self._take_held, trainer, embedding)

    def take_step(self, trainer: Trainer, embedding: FullEmbedding) -> None:
        """Hands over the gradients of an optimizer step, before it is made.

        Raises:
            BadInput: There are no gradients of what the criterion needs.
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
        """Refuses to score what was never gathered.

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
        """Hands over the gradients of each row's own loss, given those of what was differentiated."""
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
        """Hands over the sums of such gradients, given their means over processes, of the tokens here."""
        assert embedding.shard is not None
        factor = _to_own_loss(trainer, 1) * embedding.shard.processes
        self.criterion.update_tokens(tokens, rows * factor, None if linear is None else linear * factor)
        self.criterion.update_standing(*_as_stored(embedding), tokens, counts)


def _to_own_loss(trainer: Trainer, rows: int) -> Tensor | float:
    """Returns what gradients of a batch of rows are multiplied by to be those of each row's own loss."""
    # Lightning divides the mean over a batch by the batches of a step, and scales what is 16 bits wide.
    scaler = _scaler(trainer)
    divided_by = getattr(trainer.lightning_module, "loss_rows", rows)
    return divided_by * trainer.accumulate_grad_batches / (1.0 if scaler is None else scaler.get_scale())


def _as_stored(embedding: FullEmbedding) -> tuple[Tensor, Tensor | None]:
    return embedding.weight.detach(), None if embedding.linear is None else embedding.linear.detach()


def _scaler(trainer: Trainer) -> Any:
    """Returns what scales the loss where gradients are 16 bits wide; None where nothing does."""
    return getattr(trainer.precision_plugin, "scaler", None)


def _overflowed(trainer: Trainer, *gradients: Tensor | None) -> bool:
    """Whether gradients, as they were scaled, are too large for 16 bits: the scaler leaves out such a step."""
    if _scaler(trainer) is None:
        return False
    values = [each.coalesce().values() if each.is_sparse else each for each in gradients if each is not None]
    return not all(bool(each.isfinite().all()) for each in values)


def _no_gradient() -> BadInput:
    return BadInput("PruningCallback found no gradient at the embedding: is it frozen?")
