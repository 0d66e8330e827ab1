"""Schedules: when the search trains, when it gathers gradients, and when and how far it prunes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

from pme_lightning.errors import BadInput


@dataclass(frozen=True)
class Epoch:
    """An epoch of the training data, as far as the length of a search depends on it.

    Attributes:
        steps: number of optimizer steps.
        step_rows: rows of one optimizer step, over all processes and accumulated batches; None: unknown.
    """

    steps: int
    step_rows: int | None = None


@dataclass(frozen=True)
class Action:
    """What to do in one optimizer step of the search.

    Attributes:
        frozen: whether weights must not change in this step.
        start: whether a new scoring window begins before this step.
        score: whether the gradients of this step go into the scores.
        prune: how far to prune after this step, as progress in (0, 1] from keeping everything to the budget;
            None for no pruning. See :func:`keep_fraction`.
    """

    frozen: bool = False
    start: bool = False
    score: bool = False
    prune: float | None = None


class Schedule(ABC):
    """A plan of the search, step by step. It is stateless, so a search can be resumed at any step.

    Attributes:
        prunes_once: whether values are pruned only at the end.
    """

    prunes_once: ClassVar[bool] = True

    @abstractmethod
    def num_steps(self, epoch: Epoch) -> int:
        """Returns the length of the search in optimizer steps."""

    def action(self, step: int, epoch: Epoch) -> Action:
        """Returns what to do in ``step``, counted from 0; the last step always prunes to the budget.

        Raises:
            ValueError: the search has no such step.
        """
        num_steps = self.num_steps(epoch)
        if not 0 <= step < num_steps:
            raise ValueError(f"step {step} is outside this search of {num_steps} steps")
        action = self._action(step, num_steps)
        return replace(action, prune=1.0) if step == num_steps - 1 else action

    @abstractmethod
    def _action(self, step: int, num_steps: int) -> Action:
        """Returns what to do in a step; the final pruning is added to the last step."""


class NoTraining(Schedule):
    """A search without steps, for rules that use only frequencies."""

    def num_steps(self, epoch: Epoch) -> int:
        return 0

    def _action(self, step: int, num_steps: int) -> Action:
        raise AssertionError("a search without steps has no action")


class AtInit(Schedule):
    """Pruning at initialization: gathers gradients of the untrained model on a few batches, then prunes once.

    Args:
        batches: number of batches.

    Raises:
        BadInput: fewer than one.
    """

    def __init__(self, batches: int = 50) -> None:
        self.batches = _at_least_one("AtInit", "batches", batches)

    def num_steps(self, epoch: Epoch) -> int:
        return self.batches

    def _action(self, step: int, num_steps: int) -> Action:
        return Action(frozen=True, start=step == 0, score=True)


class SingleShot(Schedule):
    """Trains, then scores on a few batches with frozen weights, then prunes once.

    Args:
        epochs: length of the training; may be a fraction of an epoch.
        batches: number of batches to score on.

    Raises:
        BadInput: an argument is out of range.
    """

    def __init__(self, epochs: float = 1.0, batches: int = 50) -> None:
        self.epochs = _positive_epochs("SingleShot", epochs)
        self.batches = _at_least_one("SingleShot", "batches", batches)

    def num_steps(self, epoch: Epoch) -> int:
        return max(1, round(self.epochs * epoch.steps)) + self.batches

    def _action(self, step: int, num_steps: int) -> Action:
        first = num_steps - self.batches
        return Action(frozen=True, start=step == first, score=True) if step >= first else Action()


class AfterWarmup(Schedule):
    """Prunes once after a short training, with scores from its last steps.

    Args:
        epochs: length of the training; may be a fraction of an epoch. ``max_rows`` and ``max_steps`` may end it sooner.
        score_last: the fraction of the steps, at the end, in which gradients are gathered, in (0, 1]; at least one
            step.
        min_steps: minimum number of steps, however short an epoch is: on small data, a model has not learned enough
            after one epoch to be scored.
        min_steps_max_epochs: maximum number of epochs that ``min_steps`` may lead to: with more, a model memorizes
            small data; None for no limit.
        max_steps: maximum number of steps; None for no limit.
        max_rows: maximum number of training rows to go through, however long an epoch is: on large data, a model has
            learned enough to be scored long before its first epoch ends; None for no limit. A model that learns slowly
            may need more. Without effect if the rows of a step are not known (a Trainer without a data module).
        max_rows_min_steps: minimum number of steps that ``max_rows`` leaves: if batches are large, so many rows are too
            few steps.

    Raises:
        BadInput: an argument is out of range.
    """

    def __init__(
        self,
        epochs: float = 1.0,
        score_last: float = 0.5,
        min_steps: int = 0,
        max_steps: int | None = None,
        min_steps_max_epochs: float | None = None,
        max_rows: int | None = None,
        max_rows_min_steps: int = 0,
    ) -> None:
        self.epochs = _positive_epochs("AfterWarmup", epochs)
        if min_steps < 0:
            raise BadInput(f"AfterWarmup: min_steps is {min_steps}; it must be 0 or more")
        if max_steps is not None and max_steps < max(1, min_steps):
            raise BadInput(
                f"AfterWarmup: max_steps is {max_steps}; it must be {max(1, min_steps)} or more "
                f"(min_steps is {min_steps}), or null for no limit"
            )
        if min_steps_max_epochs is not None and not min_steps_max_epochs > 0:
            raise BadInput(
                f"AfterWarmup: min_steps_max_epochs is {min_steps_max_epochs}; it must be above 0, or null for no limit"
            )
        if max_rows is not None and max_rows < 1:
            raise BadInput(f"AfterWarmup: max_rows is {max_rows}; it must be 1 or more, or null for no limit")
        if max_rows_min_steps < 0:
            raise BadInput(f"AfterWarmup: max_rows_min_steps is {max_rows_min_steps}; it must be 0 or more")
        self.min_steps = min_steps
        self.max_steps = max_steps
        self.max_rows = max_rows
        self.max_rows_min_steps = max_rows_min_steps
        self.min_steps_max_epochs = min_steps_max_epochs
        if not 0 < score_last <= 1:
            raise BadInput(f"AfterWarmup: score_last is {score_last}; it must be above 0 and at most 1")
        self.score_last = score_last

    def num_steps(self, epoch: Epoch) -> int:
        least = self.min_steps
        if self.min_steps_max_epochs is not None:
            least = min(least, round(self.min_steps_max_epochs * epoch.steps))
        steps = round(self.epochs * epoch.steps)
        if self.max_rows is not None and epoch.step_rows is not None:
            steps = min(steps, max(self.max_rows_min_steps, self.max_rows // epoch.step_rows))
        steps = max(1, least, steps)
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def _action(self, step: int, num_steps: int) -> Action:
        first = num_steps - max(1, round(self.score_last * num_steps))
        return Action(start=step == first, score=step >= first)


class Gradual(Schedule):
    """Prunes step by step during training, fast at first (Zhu and Gupta 2017, arXiv:1710.01878).

    After the i-th of n equally spaced prunings, the progress is ``1 - (1 - i/n)³``. Scores for each pruning come from
    the steps since the previous one. A search with fewer steps than prunings prunes in every step.

    Args:
        epochs: length of the search; may be a fraction of an epoch.
        start: the fraction of the search that trains before the first scoring window, in [0, 1).
        prunings: number of prunings.

    Raises:
        BadInput: an argument is out of range.
    """

    prunes_once: ClassVar[bool] = False

    def __init__(self, epochs: float = 1.0, start: float = 0.25, prunings: int = 10) -> None:
        self.epochs = _positive_epochs("Gradual", epochs)
        if not 0 <= start < 1:
            raise BadInput(f"Gradual: start is {start}; it must be at least 0 and below 1")
        self.start = start
        self.prunings = _at_least_one("Gradual", "prunings", prunings)

    def num_steps(self, epoch: Epoch) -> int:
        return max(1, round(self.epochs * epoch.steps))

    def _action(self, step: int, num_steps: int) -> Action:
        first = min(round(self.start * num_steps), num_steps - 1)
        if step < first:
            return Action()
        before, after = (self._pruned(done, num_steps - first) for done in (step - first, step - first + 1))
        before_that = self._pruned(step - first - 1, num_steps - first) if step > first else before
        progress = 1 - (1 - after / self.prunings) ** 3
        return Action(
            start=step == first or before > before_that,
            score=True,
            prune=progress if after > before else None,
        )

    def _pruned(self, steps_done: int, steps: int) -> int:
        """How many prunings are due after this many steps: the i-th after ``ceil(steps * i / prunings)``."""
        return steps_done * self.prunings // steps


def keep_fraction(progress: float, target: float) -> float:
    """Returns the fraction to keep at a pruning: 1 at progress 0, ``target`` at 1, linear in between."""
    return target + (1 - target) * (1 - progress)


def _positive_epochs(owner: str, epochs: float) -> float:
    if not math.isfinite(epochs) or epochs <= 0:
        raise BadInput(f"{owner}: epochs is {epochs}; it must be above 0")
    return epochs


def _at_least_one(owner: str, what: str, number: int) -> int:
    if number < 1:
        raise BadInput(f"{owner}: {what} is {number}; it must be 1 or more")
    return number
