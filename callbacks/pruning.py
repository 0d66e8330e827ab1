"""Searches the sizes: scores the embedding values of a full-size model while it trains, and prunes them."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor
from torch.optim import Optimizer

from pme_lightning.callbacks.budget_sizes import BudgetSizes
from pme_lightning.callbacks.criterion_state import criterion_state, move_criterion, restore_criterion
from pme_lightning.callbacks.gathering import GradientGathering
from pme_lightning.callbacks.gradual_pruning import prune_toward
from pme_lightning.callbacks.pruned_model import PrunedModel
from pme_lightning.callbacks.rank_sums import add_up, keep_on_main
from pme_lightning.callbacks.recent_batches import RecentBatches
from pme_lightning.callbacks.table_scores import TableScores, rows_of
from pme_lightning.callbacks.token_sample import TokenSample
from pme_lightning.embedding import FullEmbedding
from pme_lightning.embedding.field_dropout import fields_left
from pme_lightning.epoch_steps import epoch_of
from pme_lightning.errors import BadInput
from pme_lightning.module import CTRModule
from pme_lightning.search import (
    ALONE,
    Allocator,
    Budget,
    Criterion,
    Epoch,
    FullTable,
    KnowsFields,
    Schedule,
    Scores,
    SearchResult,
    SplitTokens,
    Tokens,
    parse_budget,
)


class PruningCallback(Callback):
    """Runs a search inside ``Trainer.fit`` of a full-size :class:`~pme_lightning.module.CTRModule`.

    The schedule determines in which steps gradients are gathered and when values are pruned. The criterion turns
    weights and gradients into scores, and the allocator turns scores and the budget into sizes. When the search is
    done, it stops the fit and leaves its outcome in :attr:`result`; :meth:`result_for` gives the sizes for other
    budgets.

    With several processes (DDP), the sizes are the same as those of one process that sees the same batches: sums over
    rows are added up over processes before scoring, and every process takes the scores of the main one. If the table is
    split over processes, so are sums and scores. Processes then exchange small messages about what concerns all tokens,
    such as where the budget runs out.

    Args:
        criterion: Scores the embedding values, for example ``Fisher()``.
        schedule: When and how far to prune, for example ``AfterWarmup(epochs=1)``.
        allocator: Turns scores into sizes, for example ``Prefix()``.
        budget: What the sizes may sum to: a fraction of the full-size per-token parameters (``0.2``), a parameter
            count (``2_000_000``) or bytes (``"20MB"``). First-order weights and the shared projection count.
        frequencies: ``(V,)``, how often each token occurs in the training data; ``None``: taken from the data module.
        field_dropout: During the search, this share of the tokens of each row, at random, reads as zero. If two fields
            say the same (a book and its author), a model learns it from one of them, and which one is a matter of
            chance. With field dropout it learns it from both, and scores say what each is worth without the other.

    Attributes:
        kept: ``(optimizer steps before it, fraction of the per-token values kept)`` of each pruning so far.
        result: The sizes; ``None`` until the search is done.

    Raises:
        BadInput: The budget cannot be read, ``field_dropout`` is not in [0, 1), the criterion needs gradients but the
            schedule has no steps, or the criterion has axes for each field and the schedule prunes more than once.

    Examples:
        >>> from pme_lightning import SyntheticDataModule
        >>> from pme_lightning.search import AfterWarmup, Fisher, Prefix
        >>> data = SyntheticDataModule(rows=2_000, tokens=200, num_fields=3)
        >>> data.setup()
        >>> search = PruningCallback(Fisher(), AfterWarmup(epochs=1), Prefix(), budget=0.2)
        >>> module = CTRModule(data.field_tokens, embedding_dim=8)
        >>> quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        >>> trainer = Trainer(max_epochs=1, callbacks=[search], accelerator="cpu", enable_model_summary=False, **quiet)
        >>> trainer.fit(module, datamodule=data)
        >>> search.result.sizes.shape
        torch.Size([200])
        >>> search.result.parameters + 8 * 8 <= 0.2 * module.full_parameters
        True
    """

    splits: ClassVar[bool] = True

    def __init__(
        self,
        criterion: Criterion,
        schedule: Schedule,
        allocator: Allocator,
        budget: float | int | str = 0.2,
        frequencies: Tensor | None = None,
        field_dropout: float = 0.0,
    ) -> None:
        if not 0 <= field_dropout < 1:
            raise BadInput(f"search.field_dropout is {field_dropout}; it must be at least 0 and below 1")
        if (criterion.needs_gradients or criterion.needs_rows) and schedule.num_steps(Epoch(1)) == 0:
            raise BadInput(
                f"search.criterion {type(criterion).__name__} needs gradients and search.schedule "
                f"{type(schedule).__name__} has no steps: choose AfterWarmup, Gradual or AtInit, "
                "or a criterion without gradients such as Popularity"
            )
        if criterion.tries == ("field",) and not schedule.prunes_once:
            raise BadInput(
                f"search.criterion.axes=field is for a search that prunes once, and {type(schedule).__name__} prunes "
                "step by step: use axes=nested, or search.schedule AfterWarmup"
            )
        self.criterion = criterion
        self.schedule = schedule
        self.allocator = allocator
        self.budget: Budget = parse_budget(budget)
        self.frequencies = frequencies
        self.field_dropout = field_dropout
        self.step = 0
        self.epoch = Epoch(0)  # until the fit starts
        self._before = 0  # optimizer steps of the Trainer before the search
        self._started = -1  # the last step that a scoring window began in
        self.field_tokens: list[int] = []
        self._gathering = GradientGathering(criterion)
        self._batches = RecentBatches()
        self._sizes: BudgetSizes | None = None
        self.kept: list[tuple[int, float]] = []
        self.result: SearchResult | None = None

    @property
    def kept_fraction(self) -> float:
        """Per-token values kept so far, as a fraction of those of the full-size table."""
        return self.kept[-1][1] if self.kept else 1.0

    @property
    def tokens(self) -> Tokens:
        """How processes agree on facts about all tokens if tokens are split over them."""
        return self.criterion.tokens

    @property
    def each_field(self) -> bool:
        """Whether every budget must cover a projection for each field instead of a shared one."""
        return self.criterion.tries == ("field",)

    @property
    def scores(self) -> Scores | None:
        """The scores of the values; ``None`` until the search is done.

        With a criterion that measures the pruned model (``rounds``), these scores are only the starting point: the
        final sizes follow from what values are worth in the pruned model.
        """
        return None if self._sizes is None else self._sizes.scores

    def num_steps(self, epoch: Epoch) -> int:
        """Returns the length of the search in optimizer steps."""
        return self.schedule.num_steps(epoch)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds out whether there is a network behind the table, and whether the table is split over processes.

        Raises:
            BadInput: The table is split and this search needs all of it, or the module is not a ``CTRModule``.
        """
        if not isinstance(pl_module, CTRModule):
            raise BadInput(
                f"{type(self).__name__} searches the sizes of a CTRModule, not of a {type(pl_module).__name__}"
            )
        if self.step == 0:
            self._restore_axes()
        self.criterion.has_network = pl_module.has_network
        embedding = self._embedding(pl_module)
        if embedding.shard is not None:
            self.check_splits()
        # The criterion may have been used in an earlier search, of another table.
        self.criterion.tokens = ALONE if embedding.shard is None else SplitTokens(embedding.shard, embedding.num_tokens)

    def _restore_axes(self) -> None:
        """Resets the axes of the criterion to the requested ones: an earlier search may have chosen others."""
        asked = self.criterion.turned_from or next(iter(self.criterion.tries), None)
        self.criterion.turned_from = None
        if asked is not None:
            self.criterion.axes = asked

    def check_splits(self) -> None:
        """Checks that the search works with a table that is split over processes.

        Raises:
            BadInput: A part of the search needs the whole table.
        """
        for part, name, can in (
            (self, "search", type(self).splits),
            (self.criterion, "search.criterion", self.criterion.splits),
            (self.allocator, "search.allocator", self.allocator.splits),
            (self.schedule, "search.schedule", self.schedule.prunes_once),
        ):
            if not can:
                raise BadInput(
                    f"{name} {type(part).__name__} needs the whole table, and trainer=sharded splits it: use "
                    "search=pme, fisher, magnitude, at_init, popularity, uniform or random, or trainer=ddp"
                )
        kind = type(self.criterion)
        for name in ("update_moments", "update_tokens") if kind.needs_rows else ():
            if getattr(kind, name) is getattr(Criterion, name):
                raise BadInput(
                    f"search.criterion {kind.__name__} says that it splits, but has no {name}, which it is given in "
                    "place of update_rows where trainer=sharded splits the table"
                )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reads the token counts and checks the budget; a search without steps is completed here, and its fit ends.

        Raises:
            BadInput: The budget, the sizes or the frequencies do not fit the model, or the callback was used before.
        """
        if self.result is not None:
            raise BadInput("one PruningCallback per fit: this one has its result already, make a new one")
        embedding = self._embedding(pl_module)
        self.field_tokens = cast(CTRModule, pl_module).field_tokens
        if isinstance(self.criterion, KnowsFields):
            self.criterion.field_tokens = self.tokens.counts(self.field_tokens)
        self.frequencies = self._known_frequencies(trainer, embedding)
        self._scoring(pl_module).check_sizes(self._values(embedding))
        if self.schedule.num_steps(Epoch(1)) == 0:
            self.criterion.start(*rows_of(embedding), self.frequencies)
            self._prune(pl_module, 1.0)
            trainer.should_stop = True

    def _known_frequencies(self, trainer: Trainer, embedding: FullEmbedding) -> Tensor:
        """Returns how often each token held here occurs in the training data, on the device of the table."""
        found = self.frequencies
        if found is None:
            found = getattr(getattr(trainer, "datamodule", None), "frequencies", None)
        if found is None:
            raise BadInput("PruningCallback needs the tokens' frequencies: the datamodule has none, pass frequencies=")
        found = torch.as_tensor(found)
        if len(found) != embedding.num_tokens:
            raise BadInput(
                f"PruningCallback got frequencies of {len(found)} tokens, the model has {embedding.num_tokens}"
            )
        return self.tokens.cut(found).to(embedding.weight.device)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds out how many optimizer steps an epoch has, and of how many rows.

        Raises:
            BadInput: The callback was used in another fit that did not finish, or the steps per epoch vary or are
                unknown.
        """
        if self.step > trainer.global_step:
            raise BadInput(
                f"one PruningCallback per fit: this one is {self.step} steps into another fit, make a new one"
            )
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(each, GradientAccumulationScheduler) for each in callbacks):
            raise BadInput(
                "a search counts epochs in steps, and GradientAccumulationScheduler has other steps in each: give the "
                "same for all, trainer.accumulate_grad_batches=N"
            )
        if math.isinf(trainer.num_training_batches):
            raise BadInput(
                "a search counts the steps of an epoch, and the training data do not say how many batches they have: "
                "give the Trainer limit_train_batches=N"
            )
        self._before = trainer.global_step - self.step
        move_criterion(self.criterion, self._embedding(pl_module).weight.device)
        self.epoch = epoch_of(trainer)
        if self.result is None and self.step >= self.num_steps(self.epoch):
            raise BadInput(
                f"this checkpoint is of a search that was done after {self.step} steps, and there is nothing to go on "
                "with: train with the sizes that it found, or search anew"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Applies field dropout; starts a scoring window and observes the batch's rows if the schedule says so."""
        self._leave_alone(pl_module)
        embedding = self._embedding(pl_module)
        if self.result is not None:
            return  # trainer.min_epochs or min_steps keep the fit going
        if self.field_dropout:
            embedding.fields_left = partial(fields_left, share=self.field_dropout, salt=self.step)
        action = self.schedule.action(self.step, self.epoch)
        assert self.frequencies is not None
        if action.start and self._started < self.step:
            self.criterion.start(*rows_of(embedding), self.frequencies)
            self._started, self._gathering.gathered = self.step, 0
        if self.criterion.rounds:
            self._batches.add(batch, trainer.world_size)
        if action.score:
            self._gathering.watch(trainer, embedding, batch[0], self.frequencies)

    def _leave_alone(self, pl_module: LightningModule) -> None:
        """Restores the table's lookups to what they are without a search."""
        embedding = pl_module.embedding
        if isinstance(embedding, FullEmbedding):
            embedding.observer = embedding.held_observer = embedding.fields_left = None

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Gathers the gradients of this step; in a frozen step, also removes them, so that nothing is updated."""
        if self.result is not None:
            return  # trainer.min_epochs or min_steps keep the fit going
        action = self.schedule.action(self.step, self.epoch)
        if action.score:
            self._gathering.take_step(trainer, self._embedding(pl_module))
        if action.frozen:
            # Optimizers skip parameters without a gradient: nothing moves.
            optimizer.zero_grad(set_to_none=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prunes after a step if the schedule says so; ends the fit after the last one."""
        if self.result is not None or trainer.global_step - self._before <= self.step:
            return  # done, or in the middle of accumulated gradients
        action = self.schedule.action(self.step, self.epoch)
        self.step += 1
        if action.prune is not None:
            self._gathering.check(trainer)
            self._prune(pl_module, action.prune, trainer.optimizers)
        if self.result is not None:
            trainer.should_stop = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses to end without a result; not called when the fit fails or is interrupted.

        Raises:
            BadInput: The fit was too short for the search.
        """
        self._leave_alone(pl_module)
        if self.result is None:
            if not self.epoch.steps:
                raise BadInput("the fit ended before it made a step of the search: is its Trainer spent, or resumed?")
            raise BadInput(
                f"the search needs {self.num_steps(self.epoch)} steps and the fit ended after {self.step}: "
                "raise what ended it (the Trainer's max_epochs, max_steps or max_time, a Timer), or shorten "
                "search.schedule"
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Removes what a search that ended early has set on the module."""
        if isinstance(pl_module, CTRModule):  # any other was refused
            self._leave_alone(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state from which an interrupted search continues."""
        return {
            "step": self.step,
            "started": self._started,
            **criterion_state(self.criterion),
            "gathered": self._gathering.gathered,
            "batches": self._batches.state(),
            "kept": [list(point) for point in self.kept],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state of an interrupted search."""
        self.step, self._started = state_dict["step"], state_dict["started"]
        restore_criterion(self.criterion, state_dict)
        self._gathering.gathered = state_dict["gathered"]
        self._batches.load_state(state_dict["batches"])
        self.kept = [(step, fraction) for step, fraction in state_dict["kept"]]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds up the sums of all processes; the main process writes them."""
        self._batches.gather()
        add_up(self.criterion)
        keep_on_main(self.criterion)

    def result_for(self, budget: float | int | str) -> SearchResult:
        """Returns the sizes for another budget, from the same search.

        With a criterion that measures the pruned model (``rounds``), the model must still be as the search left it.

        Args:
            budget: As in the class.

        Raises:
            BadInput: The budget cannot be read, or nothing fits into it.
            RuntimeError: The search is not done yet.
        """
        if self._sizes is None:
            raise RuntimeError("the search is not done yet: fit first")
        parsed = parse_budget(budget)
        allocation, scores = self._sizes.of(parsed), self._sizes.scores
        D = scores.table.shape[1]
        # If tokens are split, these are sent between processes: keep them small.
        sizes = allocation.sizes.to(torch.uint8 if D < 256 else torch.int32)
        return SearchResult(
            sizes=self.tokens.whole(sizes),
            linear=None if allocation.linear is None else self.tokens.whole(allocation.linear),
            embedding_dim=D,
            basis=scores.basis,
            budget=str(parsed),
            criterion=type(self.criterion).__name__,
            spectrum=scores.spectrum,
        )

    @torch.no_grad()
    def _prune(self, pl_module: LightningModule, progress: float, optimizers: list[Optimizer] | None = None) -> None:
        scoring = self._scoring(pl_module)
        if progress < 1:
            kept = prune_toward(scoring, progress, self._values(scoring.embedding), optimizers or [])
            self.kept.append((self.step, kept))
        else:
            self._finish(cast(CTRModule, pl_module), scoring)

    def _scoring(self, pl_module: LightningModule) -> TableScores:
        assert self.frequencies is not None
        embedding = self._embedding(pl_module)
        return TableScores(self.criterion, self.allocator, embedding, self.frequencies, self.field_tokens)

    def _finish(self, module: CTRModule, scoring: TableScores) -> None:
        """Prepares the sizes for any budget, and makes those for the budget of the search."""
        measures = self.criterion.rounds and scoring.embedding.kept is None
        self._sizes = BudgetSizes(
            scoring,
            None if measures and len(self.criterion.tries) > 1 else scoring.along_axes_of_the_table(),
            PrunedModel(module, self._batches, scoring.frequencies) if measures else None,
            self._sample(scoring.frequencies) if measures else None,
        )
        self.result = self.result_for(str(self.budget))
        self.kept.append((self.step, self.result.parameters / scoring.embedding.num_parameters))
        if self.criterion.turned_from is not None:
            self._restore_axes()

    def _sample(self, frequencies: Tensor) -> TokenSample | None:
        """Returns the tokens that sizes are tried on; None for all tokens."""
        if self.tokens is not ALONE or not self.allocator.has_one_price:
            return None
        return TokenSample.of((ids for ids, _ in self._batches), len(frequencies), frequencies.device)

    def _values(self, embedding: FullEmbedding) -> int:
        """How many per-token values the budget leaves after the projection, or after the projections of all fields."""
        return self.budget.values(FullTable.of(embedding, len(self.field_tokens)), self.each_field)

    @staticmethod
    def _embedding(pl_module: LightningModule) -> FullEmbedding:
        embedding = pl_module.embedding
        if not isinstance(embedding, FullEmbedding):
            raise BadInput("PruningCallback searches the sizes of a full-size table; this one is multi-size already")
        return embedding
