"""The sizes for a budget, along the best axes: made from scores, and again from measurements of the pruned model."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from pme_lightning.callbacks.pruned_model import PrunedModel
from pme_lightning.callbacks.table_scores import TableScores
from pme_lightning.callbacks.token_sample import TokenSample
from pme_lightning.errors import BadInput
from pme_lightning.search import Allocation, Budget, Scores

# Axes of each field are chosen only if they save this share of the log loss that pruning costs along shared axes.
_WORTH_A_PROJECTION = 0.1
# And only if they leave this share of the values that shared axes leave: a search has learned few values of each token,
# and what it would lose by giving up more of them cannot be measured yet.
_LEFT_BY_PROJECTIONS = 7 / 8


class BudgetSizes:
    """Makes the sizes for any budget from one search.

    If the criterion has rounds and several choices of axes, sizes are made along each of them, and the loss of the
    model pruned to them is measured, unless a budget leaves them clearly fewer values. In each round, sizes are
    made again with the information that rows give about the pruned model. Only some rows are measured: in all
    rounds but the last, sizes are made only for their tokens and for a sample that represents all tokens.

    Args:
        scoring: Scores and allocates; its criterion keeps the axes of the sizes that were made last.
        scores: The scores at the end of the search; None to compute them when they are needed.
        pruned: The searched model; ``None`` without rounds.
        sample: The tokens that sizes are tried on; ``None``: all.

    Attributes:
        scores: The scores of the search itself.
    """

    def __init__(
        self, scoring: TableScores, scores: Scores | None, pruned: PrunedModel | None, sample: TokenSample | None
    ) -> None:
        self.scoring = scoring
        self.criterion = scoring.criterion
        self._scores = scores
        self.pruned = pruned
        self.sample = sample
        self._tries = self.criterion.tries or ("",)
        self._along = None if scores is None else self._tries[0]

    @property
    def scores(self) -> Scores:
        """The scores of the search itself; with rounds, the final sizes follow from other scores."""
        if self._scores is None:
            raise RuntimeError("the criterion has not scored, or was interrupted while it did")
        return self._scores

    def of(self, budget: Budget) -> Allocation:
        """Returns what each token keeps; :attr:`scores` are the scores that this started from.

        Args:
            budget: What the sizes may sum to, including the projection, or the projections of all fields.

        Raises:
            BadInput: No sizes fit into the budget, or the model has been trained since the search.
        """
        if self.pruned is None:
            basis = self.scores.basis
            each_field = self._tries[0] == "field" or (basis is not None and basis.ndim == 3)
            return self.scoring.allocate(self.scores, self._values(budget, each_field))
        left = self._left(budget)
        with self.pruned.at_hand():
            axes = self._best(left, self.pruned)
            return self._settled(self._scores_along(axes, self.pruned), left[axes], self.pruned)

    def _left(self, budget: Budget) -> dict[str, int]:
        """Returns how many per-token values a budget leaves for the first axes, and for others that leave enough."""
        first, *others = self._tries
        left = {first: self._values(budget, first == "field")}
        for axes in others:
            try:
                values = self._values(budget, axes == "field")
            except BadInput:
                continue  # the projections take all of it
            if values >= _LEFT_BY_PROJECTIONS * left[first]:
                left[axes] = values
        return left

    def _values(self, budget: Budget, each_field: bool) -> int:
        values = budget.values(self.scoring.table, each_field=each_field)
        self.scoring.check_sizes(values)
        return values

    def _best(self, left: dict[str, int], pruned: PrunedModel) -> str:
        """Returns the first axes, or others whose sizes lose clearly less, given the number of values for each."""
        first, *others = left
        if not others:
            return first
        losses = {}
        # The axes of the present scores come first: any others are scored again. The axes that are chosen most often
        # come last, so that their scores are at hand then.
        for axes in sorted(left, key=lambda each: (each != self._along, each == first)):
            if self.sample is None or self._along == axes:
                scores = self._at_sample(self._scores_along(axes, pruned))
            else:
                scores = self.scoring.of_some(self.sample, axes)
            losses[axes] = pruned.loss(*self._kept(scores, left[axes]), scores.basis)
        most = losses[first] - _WORTH_A_PROJECTION * max(0.0, losses[first] - pruned.loss())
        return min((axes for axes in others if losses[axes] < most), key=losses.__getitem__, default=first)

    def _scores_along(self, axes: str, pruned: PrunedModel) -> Scores:
        if self._along != axes:
            pruned.check_as_it_was()
            self.criterion.axes = axes
            self._scores = None  # as large as the table
            self._along, self._scores = axes, self.scoring.scored()
        return self.scores

    def _settled(self, scores: Scores, values: int, pruned: PrunedModel) -> Allocation:
        """Returns what each token keeps, after measuring the pruned model and making the sizes again in each round."""
        information, basis = self.criterion.information, scores.basis
        tried = self._at_sample(scores)
        for _ in range(self.criterion.rounds):
            information = information.halfway(pruned.information(*self._kept(tried, values), basis))
            tried = self.scoring.given(information, self.sample)
        if self.sample is not None:
            tried = self.scoring.given(information)
        return self.scoring.allocate(tried, values)

    def _at_sample(self, scores: Scores) -> Scores:
        """Returns the scores of the tokens that sizes are tried on."""
        if self.sample is None:
            return scores
        linear = None if scores.linear is None else scores.linear[self.sample.tokens]
        return replace(scores, table=scores.table[self.sample.tokens], linear=linear)

    def _kept(self, scores: Scores, values: int) -> tuple[Tensor, Tensor | None]:
        """Returns which values and first-order weights are kept, for the tokens with these scores."""
        if self.sample is None:
            return self.scoring.masks(scores, self.scoring.allocate(scores, values))
        theirs = round(values * self.sample.share)
        kept, linear = self.scoring.masks(scores, self.scoring.allocate_some(scores, theirs, self.sample.drawn))
        return self._among_all(kept), None if linear is None else self._among_all(linear)

    def _among_all(self, mask: Tensor) -> Tensor:
        assert self.sample is not None
        return mask.new_zeros(len(self.scoring.frequencies), *mask.shape[1:]).index_copy_(0, self.sample.tokens, mask)
