"""The scores of a table's values, and the sizes made from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pme_lightning.callbacks.rank_sums import added_up, same_on_all
from pme_lightning.callbacks.token_sample import TokenSample
from pme_lightning.embedding import FullEmbedding
from pme_lightning.search import ALONE, Allocation, Allocator, Criterion, FullTable, RowInformation, Scores, Tokens
from pme_lightning.search.allocators import check_allocation
from pme_lightning.search.criterion import check_scores
from pme_lightning.sixteen_bits import widened


@dataclass(frozen=True, eq=False)
class TableScores:
    """Scores the values of a table with a criterion, and makes sizes with an allocator.

    Attributes:
        criterion: The criterion, when it has gathered.
        allocator: The allocator.
        embedding: The table.
        frequencies: ``(V,)``: training rows of each token held here.
        field_tokens: Number of tokens of each field, over all processes.
    """

    criterion: Criterion
    allocator: Allocator
    embedding: FullEmbedding
    frequencies: Tensor
    field_tokens: list[int]

    @property
    def tokens(self) -> Tokens:
        """How processes agree if tokens are split over them."""
        return self.criterion.tokens

    @property
    def table(self) -> FullTable:
        """The dimensions of the table."""
        return FullTable.of(self.embedding, len(self.field_tokens))

    def scored(self) -> Scores:
        """Returns the scores, the same in every process; if tokens are split, of those held here, in main memory."""
        embedding = self.embedding
        weight, linear = rows_of(embedding)
        # Values pruned before are worth nothing, whatever the optimizer's momentum has made of them.
        if embedding.kept is not None:
            weight = weight * embedding.kept
        if linear is not None and embedding.kept_linear is not None:
            linear = linear * embedding.kept_linear
        with added_up(self.criterion):
            scores = self.criterion.scores(weight, linear, self.frequencies)
        check_scores(type(self.criterion).__name__, scores, weight, linear)
        scores = self.agreed(scores)
        if self.tokens is not ALONE:
            # Allocation takes more memory than the scores do, and devices have less to spare.
            column = scores.linear
            scores = replace(scores, table=scores.table.cpu(), linear=None if column is None else column.cpu())
        return scores if embedding.kept is None else _pruned_last(scores, embedding.kept, embedding.kept_linear)

    def along_axes_of_the_table(self) -> Scores:
        """Returns the scores with the axes of the table's coordinates, if the table was rotated before."""
        scores, projection = self.scored(), self.embedding.projection
        return scores if projection is None else replace(scores, basis=projection.T)

    def given(self, information: RowInformation, sample: TokenSample | None = None) -> Scores:
        """Returns the scores of all tokens, or of a sample, given other information from rows."""
        if sample is not None:
            return self.criterion.scores_given(information, self.frequencies, sample.tokens)
        return self.agreed(self.criterion.scores_given(information, self.frequencies))

    def of_some(self, sample: TokenSample, axes: str) -> Scores:
        """Returns the scores of the tokens of a sample, along the named axes."""
        weight, linear = rows_of(self.embedding)
        with added_up(self.criterion):
            some = self.criterion.of_some(sample.tokens, self.frequencies)
        some.axes = axes
        linear = None if linear is None else linear[sample.tokens]
        return some.scores(weight[sample.tokens], linear, self.frequencies[sample.tokens])

    def agreed(self, scores: Scores) -> Scores:
        """Returns the scores of the main process, if each process has all of them."""
        return same_on_all(scores) if self.tokens is ALONE else scores

    def allocate(self, scores: Scores, values: int) -> Allocation:
        """Returns what each token keeps, given how many values there are to share out.

        Raises:
            BadInput: The allocator returned invalid sizes, or too many values.
        """
        allocation = self.allocator.allocate(
            scores.table,
            values,
            scores.linear,
            priority=self.frequencies,
            field_tokens=self.field_tokens,
            tokens=self.tokens,
        )
        name, linear = type(self.allocator).__name__, scores.linear is not None
        check_allocation(name, allocation, scores.table.shape, linear, values, self.tokens)
        return allocation

    def allocate_some(self, scores: Scores, values: int, drawn: Tensor) -> Allocation:
        """Returns the same for some tokens.

        Args:
            scores: The scores of these tokens.
            values: How many values the tokens that represent all may keep.
            drawn: ``(n,)`` bool: which tokens represent all.
        """
        return self.allocator.allocate_some(scores.table, values, drawn, scores.linear)

    def check_sizes(self, values: int) -> None:
        """Checks that sizes can be made with this many values."""
        self.allocator.check_sizes(self.table.num_tokens, self.table.embedding_dim, values, self.field_tokens)

    def masks(self, scores: Scores, allocation: Allocation) -> tuple[Tensor, Tensor | None]:
        """Returns which values and first-order weights are kept, on the device of the table."""
        device = self.frequencies.device
        kept = self.allocator.kept(scores.table, allocation.sizes).to(device)
        return kept, None if allocation.linear is None else allocation.linear.to(device)


def rows_of(embedding: FullEmbedding) -> tuple[Tensor, Tensor | None]:
    """Returns the rows and first-order weights of a table, in at least 32 bits."""
    linear = embedding.linear
    return widened(embedding.weight.detach()), None if linear is None else widened(linear.detach())


def _pruned_last(scores: Scores, kept: Tensor, kept_linear: Tensor | None) -> Scores:
    """Scores values that were pruned before below all others, including those that are now worth nothing."""
    parts = [scores.table] if scores.linear is None else [scores.table, scores.linear]
    last = min(0.0, *(float(part.min()) for part in parts)) - 1
    linear = scores.linear
    if linear is not None and kept_linear is not None:
        linear = torch.where(kept_linear[:, 0], linear, last)
    return replace(scores, table=torch.where(kept, scores.table, last), linear=linear)
