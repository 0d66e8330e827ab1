"""A trained model in the form in which it is served: fixed shapes, values in few bits, and nothing to train."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import accumulate

import torch
from torch import Tensor, nn

from pme_lightning.embedding import FullEmbedding, MultiSizeEmbedding, SizeClass
from pme_lightning.embedding.projection import projected
from pme_lightning.embedding.token_rows import places_of_classes
from pme_lightning.errors import BadInput
from pme_lightning.export.packed import BITS, Parts, read, scales_of, stored
from pme_lightning.module import CTRModule
from pme_lightning.search import SearchResult

# Rows worked on at a time, so that no intermediate result is as large as the table.
_CHUNK_ROWS = 1 << 15


class ServedEmbedding(nn.Module):
    """The values of a table, read by operations whose shapes depend on those of the ids alone.

    So it can be exported. Values of 8 bits are whole multiples of a scale that the tokens of a field have in common,
    one for each column; those of 4 bits are one of sixteen parts of it. Sums and products are of 32 bits.

    Args:
        classes: The size classes in the order of their tokens, as in
            :class:`~pme_lightning.embedding.multi_size.MultiSizeEmbedding`.
        embedding_dim: ``D``.
        first_order: Whether tokens may own a first-order weight, the first column of their rows.
        values: All values, class by class and row by row, as :func:`~pme_lightning.export.packed.stored` has them.
        scales: ``(F, first_order + D)``; None where values have 32 or 16 bits.
        bits: Of each value.
        projection: ``(D, D)``, or ``(F, D, D)``; None: rows are as backbones see them.
        index: ``(V,)`` int32: each token's position in the numbering by size; None if ids are so numbered.

    Shape:
        - ids: ``(B, F)`` int64 in ``[0, V)``
        - output: embeddings ``(B, F, D)``, and first-order weights ``(B, F)`` or None
    """

    values: Tensor
    scales: Tensor | None
    projection: Tensor | None
    index: Tensor | None
    ends: Tensor
    class_places: Tensor

    def __init__(
        self,
        classes: list[SizeClass],
        embedding_dim: int,
        first_order: bool,
        values: Tensor,
        scales: Tensor | None,
        bits: int,
        projection: Tensor | None,
        index: Tensor | None,
    ) -> None:
        super().__init__()
        self.columns = first_order + embedding_dim
        self.first_order = first_order
        self.bits = bits
        # Something to read where no token owns anything.
        self.register_buffer("values", values if len(values) else values.new_zeros(1))
        self.register_buffer("scales", scales)
        self.register_buffer("projection", projection)
        self.register_buffer("index", index)
        self.register_buffer("ends", torch.tensor([c.count for c in classes]).cumsum(0))
        # Half as wide wherever that reaches: these numbers are what there is most of to read and write.
        dtype = torch.int32 if len(values) * (2 if bits == 4 else 1) <= torch.iinfo(torch.int32).max else torch.int64
        self.register_buffer("class_places", places_of_classes(classes, first_order).to(dtype))

    @property
    def num_bytes(self) -> int:
        """Bytes of the values, their scales, the projection or projections, and the index."""
        parts = (self.values, self.scales, self.projection, self.index)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)

    @property
    def index_bytes(self) -> int:
        """Bytes of the index from token to row."""
        return 0 if self.index is None else self.index.numel() * self.index.element_size()

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the embeddings and the first-order weights of ids."""
        shape = ids.shape
        tokens = ids.reshape(-1)
        if self.index is not None:
            tokens = self.index.index_select(0, tokens).long()
        kinds, dtype = torch.bucketize(tokens, self.ends, right=True), self.class_places.dtype
        widths, firsts, shifts = self.class_places.index_select(0, kinds).unsqueeze(1).unbind(2)
        columns = torch.arange(self.columns, device=ids.device, dtype=dtype) - firsts  # (n, C)
        owned = (columns >= 0) & (columns < widths)
        begins = shifts + tokens.to(dtype).unsqueeze(1) * widths
        places = torch.where(owned, begins + columns, 0)
        rows = read(self.values, places.view(-1), self.bits).view(*shape, self.columns)
        rows = torch.where(owned.view_as(rows), rows, 0.0)
        if self.scales is not None:
            rows = rows * self.scales
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

    Shape:
        - ids: ``(B, F)`` int64, numbered as those of the model that it was made of
        - output: ``(B,)`` float32

    Examples:
        >>> from pme_lightning.backbones import FM
        >>> module = CTRModule([4, 6], FM, embedding_dim=3)
        >>> served = ServedModel.of(module, bits=8)
        >>> served(torch.tensor([[0, 4], [3, 9]])).shape
        torch.Size([2])
        >>> served.embedding.num_bytes  # 10 tokens x 4 values of a byte, and 2 fields x 4 scales of four
        72
    """

    def __init__(self, embedding: ServedEmbedding, backbone: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding
        self.backbone = backbone

    @classmethod
    @torch.no_grad()
    def of(
        cls, module: CTRModule, sizes: SearchResult | None = None, bits: int = 8, frequencies: Tensor | None = None
    ) -> ServedModel:
        """Makes the served form of a trained model; the model stays as it is.

        Args:
            module: The model, in main memory.
            sizes: Those it was built with, where it numbers tokens by size.
            bits: Of each embedding value and first-order weight: 32, 16, 8 or 4. The backbone keeps its 32.
            frequencies: ``(V,)``: training rows of each token, in the vocabulary's numbering: an error counts as often
                as it is seen. None: once for each token.

        Raises:
            BadInput: Other bits, sizes that are missing or others, or a model that is on a GPU, split or not finite.
        """
        if bits not in BITS:
            raise BadInput(f"bits is {bits}; choose from: {', '.join(map(str, BITS))}")
        if module.shard is not None:
            raise BadInput("a model whose table is split over processes cannot be exported: load its checkpoint whole")
        if module.device.type != "cpu":
            raise BadInput(f"the model is on {module.device}: export it from main memory, after module.cpu()")
        table = module.embedding
        if isinstance(table, MultiSizeEmbedding):
            order = table.index.long().argsort() if table.index is not None else order_of(module, sizes)
            classes, projection, index = table.classes, table.projection.detach(), table.index
        else:
            order = torch.arange(table.num_tokens)
            classes, projection, index = [SizeClass(table.embedding_dim, module.first_order, len(order))], None, None
        fields = torch.bucketize(order, torch.tensor(list(accumulate(module.field_tokens))), right=True)
        counts = torch.ones(len(order)) if frequencies is None else frequencies[order].clamp(min=1)
        parts = _parts(table, classes, fields, counts)
        columns = int(module.first_order) + table.embedding_dim
        if not all(values.isfinite().all() for values, _, _ in parts()):
            raise BadInput("the model's table has values that are not finite: its training diverged")
        scales = scales_of(parts, len(module.field_tokens) * columns, bits) if bits < 16 else None
        embedding = ServedEmbedding(
            list(classes),
            table.embedding_dim,
            module.first_order,
            stored(parts, scales, bits),
            None if scales is None else scales.view(-1, columns),
            bits,
            None if projection is None else projection.clone(),
            index,
        )
        if not embedding.values.isfinite().all():
            raise BadInput(f"the model's table has values that {bits} bits do not reach: choose other bits")
        return cls(embedding, copy.deepcopy(module.backbone)).eval().requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        """Returns the probability of a click for each row of ids."""
        embeddings, linear = self.embedding(ids)
        logits = self.backbone(embeddings) if linear is None else self.backbone(embeddings, linear)
        return torch.sigmoid(logits)


def order_of(module: CTRModule, sizes: SearchResult | None) -> Tensor:
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


def _parts(
    table: FullEmbedding | MultiSizeEmbedding, classes: list[SizeClass], fields: Tensor, counts: Tensor
) -> Parts:
    """Returns what gives a table's values row by row, the field and column of each as one number, and how it counts.

    Args:
        table: The table.
        classes: Its size classes.
        fields: ``(V,)``: the field of each token.
        counts: ``(V,)``: how much its errors count.
    """
    first_order = table.first_order
    columns = int(first_order) + table.embedding_dim

    def rows() -> Iterator[tuple[SizeClass, Tensor]]:
        if isinstance(table, MultiSizeEmbedding):
            for c, own in zip(classes, table.tables(), strict=True):
                yield from ((c, part) for part in own.split(_CHUNK_ROWS))
            return
        for tokens in torch.arange(table.num_tokens).split(_CHUNK_ROWS):
            # As it is read, with what a search may have put before the values.
            embeddings, linear = table.lookup(tokens.unsqueeze(1))
            yield classes[0], torch.cat([*([] if linear is None else [linear]), embeddings[:, 0]], 1)

    def parts() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        start = 0
        for c, own in rows():
            tokens = slice(start, start + len(own))
            start += len(own)
            first = int(first_order and not c.linear)
            group = fields[tokens, None] * columns + torch.arange(first, first + c.width)
            yield own.reshape(-1), group.reshape(-1), counts[tokens, None].expand_as(own).reshape(-1).double()

    return parts
