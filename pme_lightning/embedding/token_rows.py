"""The rows of a batch's tokens in a flat tensor of tables: read into padded rows of one width, and extracted again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pme_lightning.embedding.multi_size import MultiSizeEmbedding
    from pme_lightning.embedding.size_classes import SizeClass


class TokenRows(Protocol):
    """Rows of ``U`` distinct tokens that own ``N`` values in all, out of the ``M`` values of all tokens.

    Padded rows have ``first_order + D`` columns: the first-order weight, then the embedding values. What a token does
    not own is zero.
    """

    def padded(self, values: Tensor) -> Tensor:
        """Reads padded rows ``(U, first_order + D)`` from all values ``(M,)``."""

    def flat(self, padded: Tensor) -> Tensor:
        """Extracts the values ``(N,)`` that the tokens own from padded rows, row by row."""

    def places(self) -> Tensor:
        """Returns the positions of these values among all of them, int64 ``(N,)`` ascending."""

    def spread(self, padded: Tensor, like: Tensor) -> Tensor:
        """Puts the values of padded rows at their positions in a tensor of zeros ``(M,)``."""


def token_rows(layout: MultiSizeEmbedding, tokens: Tensor) -> TokenRows:
    """Finds the rows of distinct tokens ``(U,)``, ascending, in a table that is not split over processes.

    On a CPU, a few operations for each size that occurs are the fastest. On a GPU, some hundred small operations would
    take longer to start than to run: there, one operation handles all sizes.
    """
    return FlatRows.of(layout, tokens) if tokens.is_cuda else SlicedRows.of(layout, tokens)


@dataclass(frozen=True)
class SlicedRows:
    """Rows handled size by size: tokens of a size are consecutive, in the batch as in the table.

    Attributes:
        layout: The embedding.
        count: ``U``.
        parts: One part for each size class that owns values and occurs.
    """

    layout: MultiSizeEmbedding
    count: int
    parts: list[_Part]

    @classmethod
    def of(cls, layout: MultiSizeEmbedding, tokens: Tensor) -> SlicedRows:
        """Finds the rows of distinct tokens ``(U,)``, ascending."""
        ends = torch.searchsorted(tokens, layout.ends.to(tokens.dtype)).tolist()
        tokens, count = tokens.long(), len(tokens)
        parts, start, begin, offset = [], 0, 0, 0
        for number, (c, end) in enumerate(zip(layout.classes, ends, strict=True)):
            if c.width and end > begin:
                first = int(layout.first_order and not c.linear)
                parts.append(_Part(number, begin, end, first, c.width, tokens[begin:end] - start, offset))
            start, begin, offset = start + c.count, end, offset + c.count * c.width
        if begin < count:
            raise IndexError(f"token {int(tokens[-1])} is out of range: the table has {start}")
        return cls(layout, count, parts)

    def padded(self, values: Tensor) -> Tensor:
        """See :class:`TokenRows`."""
        tables = self.layout.tables(values)
        rows = values.new_zeros(self.count, self.layout.first_order + self.layout.embedding_dim)
        for part in self.parts:
            part.of(rows).copy_(tables[part.number].index_select(0, part.rows))
        return rows

    def flat(self, padded: Tensor) -> Tensor:
        """See :class:`TokenRows`."""
        own = [part.of(padded).reshape(-1) for part in self.parts]
        return torch.cat(own) if own else padded.new_empty(0)

    def places(self) -> Tensor:
        """See :class:`TokenRows`."""
        columns = torch.arange(self.layout.embedding_dim + 1, device=self.layout.values.device)
        places = [
            (part.rows.unsqueeze(1) * part.width + columns[: part.width].add(part.offset)).view(-1)
            for part in self.parts
        ]
        return torch.cat(places) if places else columns[:0]

    def spread(self, padded: Tensor, like: Tensor) -> Tensor:
        """See :class:`TokenRows`."""
        found = torch.zeros_like(like)
        tables = self.layout.tables(found)
        for part in self.parts:
            # Tokens are distinct, so nothing has to be added up.
            tables[part.number].index_copy_(0, part.rows, part.of(padded))
        return found


@dataclass(frozen=True)
class _Part:
    """The distinct tokens of a batch that are of one size.

    Attributes:
        number: Number of the size class.
        begin: Position of the first of these tokens among the distinct ones.
        end: Position after the last.
        first: The first column that they own in padded rows.
        width: Number of columns that they own.
        rows: ``(end - begin,)`` int64: their rows in the table of the class.
        offset: Where this table begins among all values.
    """

    number: int
    begin: int
    end: int
    first: int
    width: int
    rows: Tensor
    offset: int

    def of(self, padded: Tensor) -> Tensor:
        """Returns a view of the part of padded rows ``(U, first_order + D)`` that these tokens own."""
        return padded[self.begin : self.end, self.first : self.first + self.width]


@dataclass(frozen=True)
class FlatRows:
    """Rows handled value by value, in one operation over all of them.

    Attributes:
        shape: ``(U, first_order + D)``, the shape of padded rows.
        slots: ``(N,)`` int64: the position of each value in padded rows.
        among_all: ``(N,)`` int64: its position among all values.
    """

    shape: tuple[int, int]
    slots: Tensor
    among_all: Tensor

    @classmethod
    def of(cls, layout: MultiSizeEmbedding, tokens: Tensor) -> FlatRows:
        """Finds the rows of distinct tokens ``(U,)``, ascending."""
        kinds = torch.searchsorted(layout.ends, tokens.long(), right=True)
        widths, firsts, shifts = layout.class_places.index_select(0, kinds).unbind(1)
        number, column = each_value(widths)
        columns = layout.first_order + layout.embedding_dim
        slots = number * columns + (firsts.index_select(0, number) + column)
        return cls((len(tokens), columns), slots, (shifts + tokens * widths).index_select(0, number) + column)

    def padded(self, values: Tensor) -> Tensor:
        """See :class:`TokenRows`."""
        rows = values.new_zeros(self.shape)
        rows.view(-1).index_copy_(0, self.slots, values.index_select(0, self.among_all))
        return rows

    def flat(self, padded: Tensor) -> Tensor:
        """See :class:`TokenRows`."""
        return padded.reshape(-1).index_select(0, self.slots)

    def places(self) -> Tensor:
        """See :class:`TokenRows`."""
        return self.among_all

    def spread(self, padded: Tensor, like: Tensor) -> Tensor:
        """See :class:`TokenRows`."""
        return torch.zeros_like(like).index_copy_(0, self.among_all, self.flat(padded))


def places_of_classes(classes: Sequence[SizeClass], first_order: bool) -> Tensor:
    """Returns the numbers that determine the positions of each class's values, int64 ``(C, 3)``.

    Per class: the number of values per token, the column of padded rows where they begin, and an offset. The values of
    a token begin at the offset plus the token times its number of values.
    """
    facts, start, offset = [], 0, 0
    for c in classes:
        facts.append((c.width, int(first_order and not c.linear), offset - start * c.width))
        start, offset = start + c.count, offset + c.count * c.width
    return torch.tensor(facts, dtype=torch.int64).view(-1, 3)


def each_value(widths: Tensor) -> tuple[Tensor, Tensor]:
    """Returns, for each value of rows of these widths ``(U,)``, the number of its row and its position in the row."""
    ends = widths.cumsum(0)
    each = torch.arange(int(ends[-1]) if len(ends) else 0, device=widths.device)
    # The same as repeat_interleave, which waits for a GPU two more times.
    number = torch.searchsorted(ends, each, right=True)
    return number, each - (ends - widths).index_select(0, number)
