"""A table whose values are stored in few bits, read by operations whose shapes depend on those of the ids alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pme_lightning.embedding import SizeClass
from pme_lightning.embedding.token_rows import places_of_classes
from pme_lightning.export.packed import read


class PackedTable(nn.Module):
    """The values of some tokens, side by side in one numbering, in so many bits each.

    Args:
        begin: The first of these tokens.
        classes: Their size classes, in the order of the tokens.
        embedding_dim: ``D``.
        first_order: Whether tokens may own a first-order weight, the first column of their rows.
        values: All values, class by class and row by row, as :func:`~pme_lightning.export.packed.stored` has them.
        scales: ``(F, C)``, ``C = first_order + D``; None where values have 32 or 16 bits.
        bits: Of each value.

    Shape:
        - ids: ``(B, F)`` int64
        - output: rows ``(B, F, C)`` float32, zeros where a token owns nothing, or is none of these
    """

    values: Tensor
    scales: Tensor | None
    ends: Tensor
    class_places: Tensor

    def __init__(
        self,
        begin: int,
        classes: list[SizeClass],
        embedding_dim: int,
        first_order: bool,
        values: Tensor,
        scales: Tensor | None,
        bits: int,
    ) -> None:
        super().__init__()
        self.begin, self.count = begin, sum(c.count for c in classes)
        self.columns = first_order + embedding_dim
        self.bits = bits
        # Something to read where no token owns anything.
        self.register_buffer("values", values if len(values) else values.new_zeros(1))
        self.register_buffer("scales", scales)
        self.register_buffer("ends", torch.tensor([c.count for c in classes]).cumsum(0))
        # Half as wide wherever that reaches: these numbers are what there is most of to read and write.
        dtype = torch.int32 if len(values) * (2 if bits == 4 else 1) <= torch.iinfo(torch.int32).max else torch.int64
        self.register_buffer("class_places", places_of_classes(classes, first_order).to(dtype))

    @property
    def num_bytes(self) -> int:
        """Bytes of the values and their scales."""
        parts = (self.values, self.scales)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)

    def forward(self, ids: Tensor) -> Tensor:
        """Returns the rows of ids."""
        tokens = ids.reshape(-1) - self.begin
        own = (tokens >= 0) & (tokens < self.count)
        tokens = tokens.clamp(0, self.count - 1)
        kinds, dtype = torch.bucketize(tokens, self.ends, right=True), self.class_places.dtype
        widths, firsts, shifts = self.class_places.index_select(0, kinds).unsqueeze(1).unbind(2)
        columns = torch.arange(self.columns, device=ids.device, dtype=dtype) - firsts  # (n, C)
        owned = (columns >= 0) & (columns < widths) & own.unsqueeze(1)
        begins = shifts + tokens.to(dtype).unsqueeze(1) * widths
        places = torch.where(owned, begins + columns, 0)
        rows = read(self.values, places.view(-1), self.bits).view(places.shape)
        rows = torch.where(owned, rows, 0.0).view(*ids.shape, self.columns)
        return rows if self.scales is None else rows * self.scales
