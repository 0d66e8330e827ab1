"""The rows of a trained table, brought into the form in which they are served."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pme_lightning.embedding import FullEmbedding, MultiSizeEmbedding, SizeClass
from pme_lightning.embedding.fields import field_ends, fields_of
from pme_lightning.errors import BadInput
from pme_lightning.export.packed import errors, scales_of, stored
from pme_lightning.export.packed_table import PackedTable
from pme_lightning.module import CTRModule
from pme_lightning.search import SearchResult
from pme_lightning.sixteen_bits import widened

# Rows worked on at a time, so that no intermediate result is as large as the table.
_CHUNK_ROWS = 1 << 15


@dataclass(frozen=True)
class TrainedRows:
    """The rows of a trained table, in the order of its size classes.

    Attributes:
        table: The table.
        classes: Its size classes.
        order: ``(V,)``: the vocabulary's id of each token.
        fields: ``(V,)``: the field of each.
        counts: ``(V,)``: how much an error of its values counts.
        num_fields: ``F``.
    """

    table: FullEmbedding | MultiSizeEmbedding
    classes: list[SizeClass]
    order: Tensor
    fields: Tensor
    counts: Tensor
    num_fields: int

    @classmethod
    def of(cls, module: CTRModule, sizes: SearchResult | None, frequencies: Tensor | None) -> TrainedRows:
        table = module.embedding
        if isinstance(table, MultiSizeEmbedding):
            order = table.index.long().argsort() if table.index is not None else _order_of(module, sizes)
            classes = table.classes
        else:
            order = torch.arange(table.num_tokens)
            classes = [SizeClass(table.embedding_dim, module.first_order, len(order))]
        fields = fields_of(order, field_ends(module.field_tokens))
        counts = torch.ones(len(order)) if frequencies is None else frequencies[order].clamp(min=1)
        return cls(table, classes, order, fields, counts, len(module.field_tokens))

    @property
    def columns(self) -> int:
        """Of a row that owns all there is: the first-order weight, and ``D``."""
        return int(self.table.first_order) + self.table.embedding_dim

    def parts(self, which: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields values, their groups, one for each field and column, and how their errors count.

        Args:
            which: ``(V,)`` bool: of these tokens; None: of all.
        """
        start = 0
        for c, own in self._tables():
            tokens = torch.arange(start, start + len(own))
            start += len(own)
            if which is not None:
                keep = which[tokens]
                tokens, own = tokens[keep], own[keep]
            first = int(self.table.first_order and not c.linear)
            columns = torch.arange(first, first + c.width)
            yield own, self.fields[tokens, None] * self.columns + columns, self.counts[tokens, None]

    def _tables(self) -> Iterator[tuple[SizeClass, Tensor]]:
        if isinstance(self.table, MultiSizeEmbedding):
            for c, own in zip(self.classes, self.table.tables(), strict=True):
                yield from ((c, widened(part)) for part in own.split(_CHUNK_ROWS))
            return
        for tokens in torch.arange(self.table.num_tokens).split(_CHUNK_ROWS):
            # As it is read, with what a search may have put before the values.
            embeddings, linear = self.table.lookup(tokens.unsqueeze(1))
            yield self.classes[0], torch.cat([*([] if linear is None else [linear]), embeddings[:, 0]], 1)

    def dearest(self, share: float) -> Tensor:
        """Returns which tokens ``(V,)`` lose the most by 4 bits in place of 8, for each value that they own.

        Args:
            share: Of all values that theirs may be.
        """
        lost = [
            torch.cat(list(errors(self.parts, scales_of(self.parts, self.num_fields * self.columns, bits), bits)))
            for bits in (4, 8)
        ]
        widths = torch.cat([torch.full((c.count,), c.width) for c in self.classes])
        saved = (lost[0] - lost[1]) / widths.clamp(min=1)
        falling = saved.argsort(descending=True, stable=True)
        fits = widths[falling].cumsum(0) <= share * int(widths.sum())
        dearest = torch.zeros(len(widths), dtype=torch.bool)
        dearest[falling[fits & (widths[falling] > 0)]] = True
        return dearest

    def packed(self, bits: int, which: Tensor | None = None, begin: int = 0) -> PackedTable:
        """Returns the values of some tokens, or of all, in so many bits.

        Args:
            bits: Of each value.
            which: ``(V,)`` bool; None: all tokens.
            begin: The number of the first of them.
        """

        def parts() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            return self.parts(which)

        classes = self.classes
        if which is not None:
            held = which.split([c.count for c in classes])
            classes = [SizeClass(c.size, c.linear, int(own.sum())) for c, own in zip(classes, held, strict=True)]
        scales = scales_of(parts, self.num_fields * self.columns, bits) if bits < 16 else None
        return PackedTable(
            begin,
            classes,
            self.table.embedding_dim,
            self.table.first_order,
            stored(parts, scales, bits),
            None if scales is None else scales.view(-1, self.columns),
            bits,
        )


def _order_of(module: CTRModule, sizes: SearchResult | None) -> Tensor:
    """Returns the vocabulary's id ``(V,)`` of each token of a model that numbers them by size.

    Raises:
        BadInput: There are no sizes, or others than the model was built with.
    """
    if sizes is None:
        raise BadInput("the model numbers tokens by size: give the sizes that it was built with")
    built_with = module.hparams["sizes_fingerprint"]
    if sizes.fingerprint() != built_with:
        raise BadInput(
            f"the model was built with other sizes (fingerprint {built_with}) than those given ({sizes.fingerprint()})"
        )
    return sizes.order()
