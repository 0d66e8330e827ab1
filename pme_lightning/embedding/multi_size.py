"""The multi-size table: it stores only the values that the search has left to each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from pme_lightning.embedding.field_decays import FieldDecays
from pme_lightning.embedding.fields import field_ends, fields_of
from pme_lightning.embedding.full import FullEmbedding
from pme_lightning.embedding.multi_size_lookup import MultiSizeLookup
from pme_lightning.embedding.projection import FieldGroups
from pme_lightning.embedding.row_chunks import row_chunks
from pme_lightning.embedding.shard import RowLayout, Shard, cut_parameters
from pme_lightning.embedding.shard_lookup import ShardMultiSizeLookup
from pme_lightning.embedding.size_classes import SizeClass, class_ends, size_classes, size_order, size_ranks
from pme_lightning.embedding.token_rows import places_of_classes
from pme_lightning.optim import RowBlock


class MultiSizeEmbedding(nn.Module):
    """Embeddings of ``V`` tokens that each own between 0 and ``D`` values; a projection maps them to width ``D``.

    Tokens are grouped by size: one table ``(count, size)`` for each size that occurs (with the first-order weight,
    if a token has one, as the first column of its row), all of them in one flat parameter. A shared projection
    ``P (D, D)`` maps every token to ``D``; a token of size ``d`` uses its first ``d`` rows. Alternatively, each field
    has its own projection, ``P (F, D, D)``. A token of size 0 owns nothing and reads as zeros.

    If tokens are numbered by falling size (then by first-order weight), an id determines its row and no index is
    needed. With any other numbering, an index of 4 bytes per token is stored and counted (:attr:`index_bytes`).

    Args:
        classes: The groups in the order of their tokens, by falling size.
        embedding_dim: ``D``, the width that backbones see.
        first_order: Whether the backbone reads first-order weights.
        index: ``(V,)``: each token's position in the numbering by size; ``None`` if ids are numbered this way already.
        init_std: Standard deviation of the normal distribution that rows start from. First-order weights start at 0.
        shard: This process, if the table is split over processes: ``values`` then holds only those of its tokens, as
            many as in any other process except for one row, and every lookup is a collective call of all processes.
            Ids must be numbered by size.
        field_projections: ``F``, if each field has its own projection; ``None``: one for all.
        along_axes: Whether values count along axes that a search has rotated so that the first few say the most.
        dtype: The stored type of values, ``torch.float32`` or ``torch.bfloat16``. Lookups always return 32 bits, and
            the projection has 32 bits.
        field_decays: How the weight decay of the values differs by field and axis; ``None`` if it does not.

    Attributes:
        held: The groups of the tokens that this process holds: all tokens, unless the table is split.
        sparse: Whether the gradient of the values is sparse (only the batch's tokens) or dense.

    Shape:
        - ids: ``(B, F)`` integers in ``[0, V)``
        - output: ``(B, F, D)``

    Examples:
        >>> table = MultiSizeEmbedding.from_sizes(torch.tensor([3, 1, 1, 0]), embedding_dim=4)
        >>> table(torch.tensor([[0, 1], [2, 3]])).shape
        torch.Size([2, 2, 4])
        >>> table.num_parameters  # 3 + 1 + 1 values, and the shared projection of 4 x 4
        21
    """

    sparse: bool = False
    index: Tensor | None
    ends: Tensor
    whole_ends: Tensor | None
    class_places: Tensor

    def __init__(
        self,
        classes: Sequence[SizeClass],
        embedding_dim: int,
        first_order: bool = False,
        index: Tensor | None = None,
        init_std: float = 0.01,
        shard: Shard | None = None,
        field_projections: int | None = None,
        along_axes: bool = False,
        dtype: torch.dtype = torch.float32,
        field_decays: FieldDecays | None = None,
    ) -> None:
        super().__init__()
        if shard is not None and index is not None:
            raise ValueError("a table with an index cannot be split over processes: number ids by size")
        self.shard = shard
        self.classes = self.held = list(classes)
        self.num_tokens = sum(c.count for c in self.classes)
        self.embedding_dim = embedding_dim
        self.first_order = first_order
        self.init_std = init_std
        self.along_axes = along_axes
        self.field_decays = field_decays
        for c in self.classes:
            if not 0 <= c.size <= embedding_dim:
                raise ValueError(f"a size of {c.size} is outside 0 ... {embedding_dim} (embedding_dim)")
            if c.linear and not first_order:
                raise ValueError("a token has a first-order weight, but the backbone reads none")
        if shard is not None:
            counts = shard.counts([c.count for c in self.classes])
            self.held = [replace(c, count=count) for c, count in zip(self.classes, counts, strict=True)]
        self.values = nn.Parameter(torch.empty(sum(c.count * c.width for c in self.held), dtype=dtype))
        fields = () if field_projections is None else (field_projections,)
        self.projection = nn.Parameter(torch.empty(*fields, embedding_dim, embedding_dim))
        # These are small: a few numbers per class.
        self.register_buffer("ends", class_ends(self.held), persistent=False)
        self.register_buffer("whole_ends", None if shard is None else class_ends(self.classes), persistent=False)
        self.register_buffer("class_places", places_of_classes(self.classes, first_order), persistent=False)
        self.register_buffer("index", None if index is None else index.to(torch.int32))
        self.reset_parameters()

    @classmethod
    def from_sizes(
        cls,
        sizes: Tensor,
        embedding_dim: int,
        linear: Tensor | None = None,
        init_std: float = 0.01,
        shard: Shard | None = None,
        field_projections: int | None = None,
        along_axes: bool = False,
        dtype: torch.dtype = torch.float32,
        field_decays: FieldDecays | None = None,
    ) -> MultiSizeEmbedding:
        """Builds a table from each token's size, with an index unless the tokens are already in order.

        Args:
            sizes: ``(V,)`` integers in ``[0, D]``.
            embedding_dim: ``D``.
            linear: ``(V,)`` boolean: which tokens own a first-order weight; ``None`` if the backbone reads none.
            init_std: As in the class.
            shard: As in the class.
            field_projections: As in the class.
            along_axes: As in the class.
            dtype: As in the class.
            field_decays: As in the class.
        """
        ranks = size_ranks(sizes, linear)
        order, index = size_order(ranks), None
        if not torch.equal(order, torch.arange(len(order))):
            index = torch.empty_like(order)
            index[order] = torch.arange(len(order))
        return cls(
            size_classes(ranks),
            embedding_dim,
            linear is not None,
            index,
            init_std,
            shard,
            field_projections,
            along_axes,
            dtype,
            field_decays,
        )

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws new random rows; the projection starts as the identity."""
        self.layouts["values"].draw_normal(self.values.data, self.shard, self.init_std)
        for c, table in zip(self.held, self.tables(), strict=True):
            if c.linear:
                table[:, 0] = 0
        self.projection.copy_(torch.eye(self.embedding_dim))

    @torch.no_grad()
    def load_full(
        self, full: FullEmbedding, order: Tensor, basis: Tensor | None, field_tokens: Sequence[int] | None = None
    ) -> None:
        """Copies a trained full-size table, as far as each token's size allows.

        Args:
            full: The trained table.
            order: ``(V,)``: the token of ``full`` at each position in the numbering by size.
            basis: Orthogonal ``Q (D, D)``, or ``(F, D, D)``, one for each field: rows take the leading coordinates of
                ``w Q``. ``None``: those of ``w`` itself.
            field_tokens: Number of tokens of each field; needed if each field has its own ``Q``.
        """
        ends = None
        if basis is not None:
            self.projection.copy_(basis.transpose(-1, -2))
            if basis.ndim == 3:
                assert field_tokens is not None
                ends = field_ends(field_tokens, order.device)
        shard, start = self.shard or Shard(0, 1), 0
        for c, table in zip(self.classes, self.tables(), strict=True):
            tokens = order[start : start + c.count][shard.first(start) :: shard.processes]
            start += c.count
            # If the table is split, reading is a collective call: processes that have no rows left take part, too.
            most = -(-c.count // shard.processes) if c.width else 0
            for part in row_chunks(0, most):
                rows, linear = full.read(tokens[part])
                if basis is not None and ends is not None:
                    fields = fields_of(tokens[part], ends)
                    rows = FieldGroups.of_fields(fields, len(basis)).times(rows, basis)
                elif basis is not None:
                    rows = rows @ basis
                table[part, int(c.linear) :] = rows[:, : c.size]
                if c.linear and linear is not None:
                    table[part, 0] = linear

    @property
    def layouts(self) -> dict[str, RowLayout]:
        """The layouts of the whole parameters, of which each process may hold a part."""
        tables = tuple((c.count, c.width) for c in self.classes)
        return {"values": RowLayout((sum(count * width for count, width in tables),), tables)}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if self.shard is not None:
            state_dict |= cut_parameters(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def tables(self, values: Tensor | None = None) -> list[Tensor]:
        """Returns the table ``(count, width)`` of each class held: views of the values, or of others of this layout."""
        values = self.values.detach() if values is None else values
        parts = values.split([c.count * c.width for c in self.held])
        return [part.view(c.count, c.width) for c, part in zip(self.held, parts, strict=True)]

    def row_blocks(self) -> dict[Tensor, list[RowBlock]]:
        """Returns how rows are laid out in the values, and how an optimizer should scale their steps and weight decay.

        Optimizers such as Adagrad and Adam take steps of about the same length in every value, whatever its gradient.
        A full-size row moves by ``√D`` such steps, a row of ``k`` values by ``√k``. If the kept axes carry all of the
        row's gradient, a token that owns ``w`` of ``W`` values (first-order weights included) learns ``√(W/w)`` times
        as slowly as the learning rate was tuned for. If they carry ``k/D`` of it, as values of a full-size row do, it
        learns just as fast. Axes that a search has rotated are in between: steps of embedding values are ``(W/w)^¼``
        times as long, the geometric mean. Their decay is not scaled. The decay of the first-order weight, which has to
        make up for the values that are gone, is ``√(W/w)`` times weaker. Without such axes, nothing is scaled. Decays
        of embedding values are multiplied by :attr:`field_decays`, if there are any.
        """
        if not self.along_axes:
            return {}
        whole = self.embedding_dim + int(self.first_order)
        blocks, device = [], self.values.device
        for c, groups in zip(self.held, self._held_groups(), strict=True):
            if c.width:
                slower = (whole / c.width) ** 0.5
                steps, decays = torch.full((c.width,), slower**0.5, device=device), torch.ones(c.width, device=device)
                if c.linear:
                    steps[0], decays[0] = 1.0, 1 / slower
                if self.field_decays is not None:
                    decays = decays * self.field_decays.of_rows(c.size, c.linear).to(device)
                blocks.append(RowBlock(c.count, steps, decays, groups))
        return {self.values: blocks}

    def _held_groups(self) -> list[tuple[int, ...] | None]:
        """Returns for each class how many of its tokens held here each field has; None without :attr:`field_decays`."""
        if self.field_decays is None:
            return [None] * len(self.held)
        tokens = self.field_decays.tokens
        if self.shard is None:
            return [tuple(own) for own in tokens]
        # The fields of a class are consecutive, as classes are, and are split over processes in the same way.
        held = iter(self.shard.counts([count for own in tokens for count in own]))
        return [tuple(islice(held, len(own))) for own in tokens]

    @property
    def num_parameters(self) -> int:
        """All parameters of the layer: ``Σ sizes``, the first-order weights, and the projection or projections."""
        return sum(c.count * c.width for c in self.classes) + self.projection.numel()

    @property
    def dtype(self) -> torch.dtype:
        """The type in which values are stored."""
        return self.values.dtype

    @property
    def num_bytes(self) -> int:
        """Bytes of all parameters of the layer."""
        shared = self.projection.numel()
        return (self.num_parameters - shared) * self.dtype.itemsize + shared * self.projection.element_size()

    @property
    def index_bytes(self) -> int:
        """Bytes of the index from token to row."""
        return 0 if self.index is None else self.index.numel() * self.index.element_size()

    def forward(self, ids: Tensor) -> Tensor:
        """Returns the embeddings ``(B, F, D)`` of ids ``(B, F)``."""
        return self.lookup(ids)[0]

    def lookup(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the embeddings ``(B, F, D)`` and the first-order weights ``(B, F)`` (``None`` if there are none).

        Raises:
            ValueError: Each field has its own projection, and ids do not have a column for each field.
        """
        if self.projection.ndim == 3 and (ids.ndim < 2 or ids.shape[-1] != len(self.projection)):
            raise ValueError(
                f"ids have shape {tuple(ids.shape)}; each field has a projection of its own here, so they must be "
                f"(B, {len(self.projection)}), a column for each field"
            )
        positions = ids.reshape(-1)
        if self.index is not None:
            positions = self.index.index_select(0, positions)
        lookup = MultiSizeLookup if self.shard is None else ShardMultiSizeLookup
        embeddings, linear = lookup.apply(positions, self.values, self.projection, self)
        return embeddings.view(*ids.shape, self.embedding_dim), None if linear is None else linear.view(ids.shape)
