"""A search with thresholds that are learned together with the embeddings (PEP)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from pme_lightning.callbacks.pruning import PruningCallback
from pme_lightning.callbacks.table_scores import rows_of
from pme_lightning.embedding import FullEmbedding, SoftThreshold
from pme_lightning.embedding.soft_threshold import Granularity
from pme_lightning.errors import BadInput
from pme_lightning.module import CTRModule
from pme_lightning.search import AfterWarmup, Allocator, Survival
from pme_lightning.search.survival import MOST_CHECKS


class PEPCallback(PruningCallback):
    """Plug-in embedding pruning: PEP (Liu et al., ICLR 2021, arXiv:2101.07577), with sizes in place of masks.

    During training, the model reads its embeddings as ``sign(w) · max(|w| − sigmoid(s), 0)`` with learned ``s``
    (:class:`~pme_lightning.embedding.SoftThreshold`). A decay draws every ``s`` toward 0, so thresholds rise and more
    and more values fall below them; the loss holds back the thresholds of values that it needs. The sizes for a
    budget count the values that were left when the thresholds had pruned the table to that budget. If they never
    pruned that far, values are cut by their margin ``|w| − sigmoid(s)``
    (:class:`~pme_lightning.search.Survival`).

    The thresholds are added to the model before its optimizer is built, in their own parameter group. After the fit
    they are removed, and the table keeps the values as they were read. First-order weights have thresholds, too; if
    they start at 0, from where no value below its threshold ever moves, they are drawn from the rows' distribution.

    The thresholds need an optimizer whose steps do not shrink with the gradient (Adam, AdamW).

    Args:
        schedule: How long to train, for example ``AfterWarmup(epochs=2)``.
        allocator: Turns scores into sizes: ``TopK()`` counts surviving values.
        granularity: Which values share a threshold: ``global``, ``dimension``, ``field``, ``token`` (the paper's
            "feature") or ``token_dimension``, which doubles the memory of the table during the search.
        init: Initial value of every ``s``; the paper has -15 or -150.
        decay: L2 coefficient of ``s``; the paper's code has 1e-5.
        lr: Learning rate of ``s``. ``None``: ``2 · |init| / steps``, with which Adam moves ``s`` from ``init`` to
            nearly 0 within the search, however short, if only the decay acts on it. The paper's 1e-3 is for hundreds
            of thousands of steps.
        checks: How many times, evenly spread over the search, surviving values are recorded; at most 255.
        stop_at_budget: Whether the search ends as soon as the surviving values fit the budget. Sizes for smaller
            budgets are then cut by margin. A warm transfer needs this: thresholds that rise to the end leave hardly
            any values to start from.
        budget: As in :class:`PruningCallback`.
        frequencies: As in :class:`PruningCallback`.

    Raises:
        BadInput: An argument is out of range.
    """

    splits: ClassVar[bool] = False

    def __init__(
        self,
        schedule: AfterWarmup,
        allocator: Allocator,
        granularity: Granularity = "token_dimension",
        init: float = -15.0,
        decay: float = 1e-5,
        lr: float | None = None,
        checks: int = 50,
        stop_at_budget: bool = False,
        budget: float | int | str = 0.2,
        frequencies: Tensor | None = None,
    ) -> None:
        if not isinstance(schedule, AfterWarmup):
            raise BadInput(f"search.schedule {type(schedule).__name__} does not suit PEPCallback: choose AfterWarmup")
        if not math.isfinite(init) or init >= 0:
            raise BadInput(f"search.init is {init}; it must be below 0")
        if not math.isfinite(decay) or decay <= 0:
            raise BadInput(f"search.decay is {decay}; it must be above 0")
        if lr is not None and (not math.isfinite(lr) or lr <= 0):
            raise BadInput(f"search.lr is {lr}; it must be above 0, or null")
        if not 1 <= checks <= MOST_CHECKS:
            raise BadInput(f"search.checks is {checks}; it must be in 1 ... {MOST_CHECKS}")
        SoftThreshold([1], 1, granularity)  # an unknown granularity shows before any data is read
        self.survival = Survival()
        super().__init__(self.survival, schedule, allocator, budget, frequencies)
        self.granularity = granularity
        self.init = init
        self.decay = decay
        self.lr = lr
        self.checks = checks
        self.stop_at_budget = stop_at_budget

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Adds the thresholds, before the strategy wraps the module and before the optimizer exists.

        Raises:
            BadInput: The table is multi-size, or its values all start at 0.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "fit" or self.result is not None:
            return
        embedding = self._embedding(pl_module)
        if not embedding.weight.any():
            raise BadInput("search=pep: embeddings of 0 never leave their thresholds; raise model.embedding_init_std")
        if embedding.threshold is None:
            tokens = cast(CTRModule, pl_module).field_tokens
            threshold = SoftThreshold(
                tokens, embedding.embedding_dim, self.granularity, self.init, embedding.first_order
            )
            embedding.threshold = threshold.to(embedding.weight.device)
            if embedding.linear is not None and not embedding.linear.any():
                nn.init.normal_(embedding.linear, std=embedding.init_std)
        self.survival.threshold = embedding.threshold

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Moves the thresholds to their own parameter group, with no decay but :attr:`decay`.

        Raises:
            BadInput: As in :class:`PruningCallback`, or no optimizer has the thresholds.
        """
        super().on_fit_start(trainer, pl_module)
        found = next(self._groups(trainer, pl_module), None)
        if found is None:
            raise BadInput("PEPCallback: no optimizer of the module has the thresholds among its parameters")
        optimizer, group, theirs = found
        group["params"] = [p for p in group["params"] if all(p is not each for each in theirs)]
        plain = {"weight_decay": 0.0} if "weight_decay" in group else {}
        optimizer.add_param_group(group | plain | {"params": theirs})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets the learning rate of the thresholds, which depends on the length of the search."""
        super().on_train_start(trainer, pl_module)
        # Twice the mean speed: Adam's steps get shorter as the decay weakens.
        lr = self.lr or 2 * abs(self.init) / self.num_steps(self.epoch)
        for _, group, _ in self._groups(trainer, pl_module):
            group["lr"] = lr

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Adds the decay to the thresholds' gradients, the same for every optimizer."""
        super().on_before_optimizer_step(trainer, pl_module, optimizer)
        with torch.no_grad():
            for raw in self._raw(pl_module):
                if raw.grad is not None:
                    raw.grad.add_(raw, alpha=self.decay)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Records surviving values at each check; ends the search after its last step, or at the budget if asked to."""
        if self.result is None and trainer.global_step - self._before > self.step:
            look = self._looks(self.step + 1)
            if look > self._looks(self.step):
                embedding = self._embedding(pl_module)
                alive = self.survival.observe(look, *rows_of(embedding))
                self.kept.append((self.step + 1, alive / embedding.num_parameters))
                if self.stop_at_budget and alive <= self._values(embedding):
                    self.step += 1
                    self._prune(pl_module, 1.0)
                    trainer.should_stop = True
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes the thresholds; raises as :class:`PruningCallback` does."""
        super().on_fit_end(trainer, pl_module)
        self._embedding(pl_module).fold_threshold_()
        self.survival.threshold = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Removes the thresholds; values that they had set to 0 remain as they were trained."""
        super().on_exception(trainer, pl_module, exception)
        if isinstance(pl_module, CTRModule) and isinstance(pl_module.embedding, FullEmbedding):
            pl_module.embedding.threshold = self.survival.threshold = None

    def _looks(self, steps: int) -> int:
        """How many checks are due after this many steps: the i-th after ``ceil(num_steps * i / checks)``."""
        return steps * self.checks // self.num_steps(self.epoch)

    def _groups(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> Iterator[tuple[Optimizer, dict[str, Any], list[nn.Parameter]]]:
        """Yields each parameter group with thresholds: its optimizer, the group, and the thresholds."""
        raw = self._raw(pl_module)
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                if theirs := [p for p in group["params"] if any(p is each for each in raw)]:
                    yield optimizer, group, theirs

    def _raw(self, pl_module: LightningModule) -> list[nn.Parameter]:
        embedding = cast(FullEmbedding, pl_module.embedding)
        return [] if embedding.threshold is None else list(embedding.threshold.parameters())
