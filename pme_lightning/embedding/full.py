"""The full-size table: every token owns ``D`` values. It is what the search prunes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook
from torch.nn import functional as F

from pme_lightning.embedding.distinct import DistinctTokens
from pme_lightning.embedding.exchange import RowExchange
from pme_lightning.embedding.row_chunks import row_chunks
from pme_lightning.embedding.row_lookup import RowLookup
from pme_lightning.embedding.shard import RowLayout, Shard, cut_parameters
from pme_lightning.embedding.shard_lookup import ShardRowLookup
from pme_lightning.embedding.soft_threshold import SoftThreshold
from pme_lightning.errors import BadInput
from pme_lightning.sixteen_bits import widened

# Receives ids (B, F) and the gradients of the rows (B, F, D) and first-order weights (B, F) that were looked up for
# them; None if rows have no gradients.
Observer = Callable[..., None]
# Receives rows (U,) that this process holds, the means over processes of their gradients (U, D) and of those of their
# first-order weights (U,) or None, and how often they were looked up in all processes (U,).
HeldObserver = Callable[[Tensor, Tensor, "Tensor | None", Tensor], None]
# Receives ids (B, F), returns which of them are read (B, F); the others read as zeros.
FieldsLeft = Callable[[Tensor], Tensor]


class FullEmbedding(nn.Module):
    """A table of ``D`` values per token and, for backbones that use them, one first-order weight per token.

    During a gradual search, values that are already pruned read as zero (:meth:`prune_`) and the table may be in
    rotated axes (:meth:`rotate_`): rows then hold coordinates, and a shared projection maps them back.
    A search that learns thresholds sets :attr:`threshold`, and removes it with :meth:`fold_threshold_`. A search that
    uses the gradients of single rows sets an :attr:`observer`, and one with field dropout sets :attr:`fields_left`.

    Args:
        num_tokens: ``V``, the number of tokens of all fields together.
        embedding_dim: ``D``, the width that backbones see.
        first_order: Whether every token also owns a first-order weight.
        init_std: Standard deviation of the normal distribution that rows start from. First-order weights start at 0.
        shard: This process, if the table is split over processes: ``weight`` and ``linear`` then hold only its rows,
            and every lookup is a collective call of all processes. Rows start with the same values as in one process.
        dtype: The stored type of values, ``torch.float32`` or ``torch.bfloat16``. Lookups always return 32 bits.

    Attributes:
        sparse: Whether the table's gradients are sparse (only the rows of the batch) or dense.

    Shape:
        - ids: ``(B, F)`` integers in ``[0, V)``
        - output: ``(B, F, D)``

    Examples:
        >>> table = FullEmbedding(num_tokens=10, embedding_dim=4, first_order=True)
        >>> rows, linear = table.lookup(torch.tensor([[0, 9]]))
        >>> rows.shape, linear.shape
        (torch.Size([1, 2, 4]), torch.Size([1, 2]))
        >>> table.num_parameters
        50
    """

    observer: Observer | None = None
    held_observer: HeldObserver | None = None
    sparse: bool = False
    fields_left: FieldsLeft | None = None
    kept: Tensor | None
    kept_linear: Tensor | None
    projection: Tensor | None
    threshold: SoftThreshold | None

    def __init__(
        self,
        num_tokens: int,
        embedding_dim: int,
        first_order: bool = False,
        init_std: float = 0.01,
        shard: Shard | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.shard = shard
        self.num_tokens = num_tokens
        self.embedding_dim = embedding_dim
        self.init_std = init_std
        rows = num_tokens if shard is None else shard.count(num_tokens)
        self.weight = nn.Parameter(torch.empty(rows, embedding_dim, dtype=dtype))
        self.linear = nn.Parameter(torch.empty(rows, 1, dtype=dtype)) if first_order else None
        self.register_buffer("kept", None)
        self.register_buffer("kept_linear", None)
        self.register_buffer("projection", None)
        self.register_module("threshold", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws new random rows."""
        self.layouts["weight"].draw_normal(self.weight.data, self.shard, self.init_std)
        if self.linear is not None:
            nn.init.zeros_(self.linear)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if self.shard is not None:
            if any(prefix + name in state_dict for name in ("kept", "threshold.raw")):
                raise BadInput("a table with pruned values or thresholds cannot be split over processes")
            state_dict |= cut_parameters(self, state_dict, prefix)
        # A checkpoint written during a search has buffers and thresholds that a new table lacks.
        for name in ("kept", "kept_linear", "projection"):
            if prefix + name in state_dict and getattr(self, name) is None:
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=self.weight.device))
        start = f"{prefix}threshold."
        thresholds = {name.removeprefix(start): state_dict[name] for name in state_dict if name.startswith(start)}
        if thresholds and self.threshold is None:
            self.threshold = SoftThreshold.like(thresholds).to(self.weight.device)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def layouts(self) -> dict[str, RowLayout]:
        """The layouts of the whole parameters, of which each process may hold a part."""
        shapes = {"weight": (self.num_tokens, self.embedding_dim), "linear": (self.num_tokens, 1)}
        return {name: RowLayout.of_rows(*shape) for name, shape in shapes.items() if getattr(self, name) is not None}

    @property
    def first_order(self) -> bool:
        """Whether every token owns a first-order weight."""
        return self.linear is not None

    @property
    def num_parameters(self) -> int:
        """``V * D``, and ``V`` more with first-order weights."""
        return self.num_tokens * (self.embedding_dim + self.first_order)

    @property
    def dtype(self) -> torch.dtype:
        """The type in which values are stored."""
        return self.weight.dtype

    @property
    def num_bytes(self) -> int:
        """Bytes of all parameters of the layer."""
        return self.num_parameters * self.dtype.itemsize

    @property
    def index_bytes(self) -> int:
        """Bytes of the index from token to row: 0, because a token's id is its row."""
        return 0

    def forward(self, ids: Tensor) -> Tensor:
        """Returns the embeddings ``(B, F, D)`` of ids ``(B, F)``."""
        return self.lookup(ids)[0]

    def lookup(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the embeddings ``(B, F, D)`` and the first-order weights ``(B, F)`` (``None`` if there are none)."""
        if self.shard is None:
            # Before the rows are read, not in the backward pass: the processor has to wait until the GPU knows how
            # many distinct tokens there are. After that, it can queue a whole step while the GPU works.
            distinct = DistinctTokens.of(ids.reshape(-1)) if torch.is_grad_enabled() else None
            rows, linear = RowLookup.apply(ids, self.weight, self.linear, self.sparse, distinct)
        else:
            rows, linear = ShardRowLookup.apply(ids, self.weight, self.linear, self)
        self._watch(ids, *(each for each in (rows, linear) if each is not None))
        embeddings, linear = self._as_read(ids, rows, linear)
        if self.fields_left is None or not self.training:
            return embeddings, linear
        left = self.fields_left(ids)
        return embeddings * left.unsqueeze(-1), None if linear is None else linear * left

    def _as_read(self, ids: Tensor, rows: Tensor, linear: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Returns what a model reads for rows ``(..., D)`` and first-order weights ``(...)`` of ids ``(...)``."""
        if self.threshold is not None:
            rows = self.threshold(ids, rows)
            linear = None if linear is None else self.threshold.forward_linear(ids, linear)
        # After the gather, never over the whole table.
        if self.kept is not None:
            rows = rows * F.embedding(ids, self.kept)
        if linear is not None and self.kept_linear is not None:
            linear = linear * F.embedding(ids, self.kept_linear).squeeze(-1)
        return rows if self.projection is None else rows @ self.projection, linear

    @torch.no_grad()
    def read(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns rows ``(n, D)`` and first-order weights ``(n,)`` of tokens ``(n,)`` as :meth:`lookup` does."""
        rows, linear = self.rows(tokens)
        return self._as_read(tokens.to(rows.device), rows, linear)

    def rows(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns rows ``(n, D)`` and first-order weights ``(n,)`` of tokens ``(n,)``, whichever process has them."""
        held = (part for part in (self.weight, self.linear) if part is not None)
        rows, *firsts = (widened(part) for part in self.gathered(tokens, *held))
        return rows, firsts[0][:, 0] if firsts else None

    @torch.no_grad()
    def gathered(self, tokens: Tensor, *held: Tensor) -> list[Tensor]:
        """Returns the rows of tokens ``(n,)``, whichever process holds them.

        Args:
            tokens: Ids.
            held: Tensors with a row for each token; if the table is split, for each token held here.
        """
        if self.shard is None:
            return [part[tokens] for part in held]
        exchange = RowExchange(tokens, self.shard, self.num_tokens)
        places = exchange.distinct.places.long()
        return [exchange.answers(part[exchange.asked])[places] for part in held]

    def _watch(self, ids: Tensor, *looked_up: Tensor) -> None:
        observer = self.observer
        if observer is None or not looked_up[0].requires_grad:
            return

        def seen(gradients: Sequence[Tensor | None]) -> None:
            rows, *firsts = gradients
            # A backbone may take first-order weights without using them: then nothing depends on them.
            observer(ids, rows, *(torch.zeros_like(looked_up[1]) if each is None else each for each in firsts))

        register_multi_grad_hook(looked_up, seen)

    @torch.no_grad()
    def rotate_(self, basis: Tensor) -> None:
        """Rotates the rows into another basis, in place; the output stays the same.

        Args:
            basis: Orthogonal ``Q (D, D)``; row ``w`` becomes ``w Q`` and is read as ``w Q Q^T``.
        """
        self.weight.copy_(widened(self.weight) @ basis)
        self.projection = basis.T.clone() if self.projection is None else basis.T @ self.projection

    @torch.no_grad()
    def prune_(self, kept: Tensor, kept_linear: Tensor | None) -> None:
        """Prunes values: from now on, only the kept ones are read; the others read as zero and get no gradient.

        Args:
            kept: Boolean ``(V, D)``.
            kept_linear: Boolean ``(V,)``, which first-order weights are kept; ``None`` without first-order weights.
        """
        assert self.shard is None
        self.kept = kept
        self.kept_linear = None if kept_linear is None else kept_linear[:, None]

    @torch.no_grad()
    def fold_threshold_(self) -> None:
        """Applies the thresholds to the stored values and removes them; the output stays the same."""
        if self.threshold is None:
            return
        for part in row_chunks(0, self.num_tokens):
            ids = torch.arange(part.start, part.stop, device=self.weight.device)
            rows, linear = self.rows(ids)
            self.weight[part] = self.threshold(ids, rows).to(self.dtype)
            if self.linear is not None and linear is not None:
                self.linear[part, 0] = self.threshold.forward_linear(ids, linear).to(self.dtype)
        self.threshold = None
