"""A trained model in the form in which it is served: fixed shapes, values in few bits, and nothing to train."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from pme_lightning.embedding import FullEmbedding, MultiSizeEmbedding, SizeClass
from pme_lightning.embedding.projection import projected
from pme_lightning.embedding.token_rows import places_of_classes
from pme_lightning.errors import BadInput
from pme_lightning.export.packed import BITS, errors, read, scales_of, stored
from pme_lightning.module import CTRModule
from pme_lightning.search import SearchResult
from pme_lightning.sixteen_bits import widened

# Rows worked on at a time, so that no intermediate result is as large as the table.
_CHUNK_ROWS = 1 << 15
# The share of the values that keep 8 bits where the others have 4: those whose rounding would cost the most.
FINE = 0.1


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


class ServedEmbedding(nn.Module):
    """The values of a table, read by operations whose shapes depend on those of the ids alone.

    So it can be exported. Values of 8 bits are whole multiples of a scale that the tokens of a field have in common,
    one for each column; those of 4 bits are one of sixteen parts of it. Sums and products are of 32 bits.

    Args:
        tables: The values, those of the first tokens first.
        first_order: Whether tokens may own a first-order weight, the first column of their rows.
        projection: ``(D, D)``, or ``(F, D, D)``; None: rows are as backbones see them.

    Shape:
        - ids: ``(B, F)`` int64 in ``[0, V)``
        - output: embeddings ``(B, F, D)``, and first-order weights ``(B, F)`` or None
    """

    projection: Tensor | None

    def __init__(self, tables: list[PackedTable], first_order: bool, projection: Tensor | None) -> None:
        super().__init__()
        self.tables = nn.ModuleList(tables)
        self.first_order = first_order
        self.register_buffer("projection", projection)

    @property
    def num_bytes(self) -> int:
        """Bytes of the values, their scales, and the projection or projections."""
        tables = sum(table.num_bytes for table in self.tables if isinstance(table, PackedTable))
        return tables + (0 if self.projection is None else self.projection.numel() * self.projection.element_size())

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the embeddings and the first-order weights of ids."""
        first, *others = self.tables
        rows = first(ids)
        for table in others:
            rows = rows + table(ids)
        embeddings = rows[..., int(self.first_order) :]
        if self.projection is not None:
            embeddings = projected(embeddings, self.projection)
        return embeddings, rows[..., 0] if self.first_order else None


class ServedModel(nn.Module):
    """Probabilities of a click, from a trained model whose values are stored in few bits.

    Make one with :meth:`of`.

    Args:
        embedding: The table.
        backbone: The network behind it.
        numbering: ``(V,)`` int32: what id each of the vocabulary's ids has here.

    Shape:
        - ids: ``(B, F)`` int64, in the numbering
        - output: ``(B,)`` float32

    Examples:
        >>> from pme_lightning.backbones import FM
        >>> module = CTRModule([4, 6], FM, embedding_dim=3)
        >>> served = ServedModel.of(module, bits=8)
        >>> served(served.numbering[torch.tensor([[0, 4], [3, 9]])].long()).shape
        torch.Size([2])
        >>> served.embedding.num_bytes  # 10 tokens x 4 values of a byte, and 2 fields x 4 scales of four
        72
    """

    def __init__(self, embedding: ServedEmbedding, backbone: nn.Module, numbering: Tensor) -> None:
        super().__init__()
        self.embedding = embedding
        self.backbone = backbone
        self.numbering = numbering

    @classmethod
    @torch.no_grad()
    def of(
        cls, module: CTRModule, sizes: SearchResult | None = None, bits: int = 8, frequencies: Tensor | None = None
    ) -> ServedModel:
        """Makes the served form of a trained model; the model stays as it is.

        Args:
            module: The model, in main memory.
            sizes: Those it was built with, where it numbers tokens by size.
            bits: Of each embedding value and first-order weight: 32, 16, 8 or 4. With 4, a tenth of the values have 8:
                all those of the tokens whose rounding would cost the most. The backbone keeps its 32.
            frequencies: ``(V,)``: training rows of each token, in the vocabulary's numbering: an error counts as often
                as it is seen. None: once for each token.

        Raises:
            BadInput: Other bits, sizes that are missing or others, or a model that is on a GPU, split, not finite, or
                of another precision than 32 bits.
        """
        if bits not in BITS:
            raise BadInput(f"bits is {bits}; choose from: {', '.join(map(str, BITS))}")
        if module.shard is not None:
            raise BadInput("a model whose table is split over processes cannot be exported: load its checkpoint whole")
        if module.device.type != "cpu":
            raise BadInput(f"the model is on {module.device}: export it from main memory, after module.cpu()")
        for name, parameter in module.named_parameters():
            in_sixteen = parameter.dtype == torch.bfloat16 and name.startswith("embedding.")
            if parameter.dtype != torch.float32 and not in_sixteen:
                kind = str(parameter.dtype).removeprefix("torch.")
                raise BadInput(f"the model's {name} is {kind}: export it in 32 bits, after module.float()")
        rows = _Rows.of(module, sizes, frequencies)
        if not all(values.isfinite().all() for values, _, _ in rows.parts()):
            raise BadInput("the model's table has values that are not finite: its training diverged")
        fine = rows.dearest(FINE) if bits == 4 else None
        if fine is None or not fine.any():
            tables, order = [rows.packed(bits)], rows.order
        else:
            # The few of 8 bits first: the tokens of each table are side by side in the numbering.
            tables = [rows.packed(8, fine), rows.packed(4, ~fine, begin=int(fine.sum()))]
            order = torch.cat([rows.order[fine], rows.order[~fine]])
        if not all(table.values.isfinite().all() for table in tables):
            raise BadInput(f"the model's table has values that {bits} bits do not reach: choose other bits")
        table = module.embedding
        # What stands before the values of a full-size table is in its rows already.
        projection = table.projection.detach().clone() if isinstance(table, MultiSizeEmbedding) else None
        embedding = ServedEmbedding(tables, module.first_order, projection)
        numbering = torch.empty(len(order), dtype=torch.int32)
        numbering[order] = torch.arange(len(order), dtype=torch.int32)
        return cls(embedding, copy.deepcopy(module.backbone), numbering).eval().requires_grad_(False)

    def order(self) -> Tensor:
        """Returns the vocabulary's id ``(V,)`` of each token in the numbering, as data modules are told it."""
        return self.numbering.long().argsort()

    def forward(self, ids: Tensor) -> Tensor:
        """Returns the probability of a click for each row of ids."""
        embeddings, linear = self.embedding(ids)
        logits = self.backbone(embeddings) if linear is None else self.backbone(embeddings, linear=linear)
        return torch.sigmoid(logits)


@dataclass(frozen=True)
class _Rows:
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
    def of(cls, module: CTRModule, sizes: SearchResult | None, frequencies: Tensor | None) -> _Rows:
        table = module.embedding
        if isinstance(table, MultiSizeEmbedding):
            order = table.index.long().argsort() if table.index is not None else _order_of(module, sizes)
            classes = table.classes
        else:
            order = torch.arange(table.num_tokens)
            classes = [SizeClass(table.embedding_dim, module.first_order, len(order))]
        fields = torch.bucketize(order, torch.tensor(list(accumulate(module.field_tokens))), right=True)
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
