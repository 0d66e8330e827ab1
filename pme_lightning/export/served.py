"""A trained model in the form in which it is served: fixed shapes, values in few bits, and nothing to train."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from pme_lightning.embedding import MultiSizeEmbedding
from pme_lightning.embedding.projection import projected
from pme_lightning.errors import BadInput
from pme_lightning.export.packed import BITS
from pme_lightning.export.packed_table import PackedTable
from pme_lightning.export.trained_rows import TrainedRows
from pme_lightning.module import CTRModule
from pme_lightning.search import SearchResult

# The share of the values that keep 8 bits where the others have 4: those whose rounding would cost the most.
FINE = 0.1


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
        _check_exportable(module, bits)
        rows = TrainedRows.of(module, sizes, frequencies)
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


def _check_exportable(module: CTRModule, bits: int) -> None:
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
