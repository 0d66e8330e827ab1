"""Embedding tables as plain data, as checkpoints and configurations describe them, and built from that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pme_lightning.embedding import FieldDecays, FullEmbedding, MultiSizeEmbedding, Shard, SizeClass
from pme_lightning.errors import BadInput

_DTYPES = {32: torch.float32, 16: torch.bfloat16}


def check_table(embedding_dim: int, init_std: float, bits: int) -> None:
    """Raises BadInput where no table can have these properties."""
    if embedding_dim < 1:
        raise BadInput(f"model.embedding_dim is {embedding_dim}; it must be 1 or more")
    if init_std < 0:
        raise BadInput(f"model.embedding_init_std is {init_std}; it must be 0 or more")
    if bits not in _DTYPES:
        raise BadInput(f"model.embedding_bits is {bits}; choose 32 or 16")


def build_table(
    field_tokens: Sequence[int],
    embedding_dim: int,
    first_order: bool,
    embedding_init_std: float,
    embedding_bits: int,
    classes: Sequence[Sequence[int]] | None,
    indexed: bool,
    field_projections: bool,
    along_axes: bool,
    field_decays: dict[str, Any] | None,
    shard: Shard | None,
) -> FullEmbedding | MultiSizeEmbedding:
    """Returns a fresh table: full-size, or multi-size where there are size classes.

    Args:
        field_tokens: As in :class:`~pme_lightning.module.CTRModule`, and so are the others.
        embedding_dim: See there.
        first_order: Whether tokens have first-order weights.
        embedding_init_std: See there.
        embedding_bits: See there.
        classes: See there.
        indexed: See there.
        field_projections: See there.
        along_axes: See there.
        field_decays: See there.
        shard: See there.
    """
    num_tokens, dtype = sum(field_tokens), _DTYPES[embedding_bits]
    if classes is None:
        return FullEmbedding(num_tokens, embedding_dim, first_order, embedding_init_std, shard, dtype)
    return MultiSizeEmbedding(
        [SizeClass(size, bool(linear), count) for size, linear, count in classes],
        embedding_dim,
        first_order,
        torch.zeros(num_tokens, dtype=torch.int32) if indexed else None,
        embedding_init_std,
        shard,
        len(field_tokens) if field_projections else None,
        along_axes,
        dtype,
        None if field_decays is None else FieldDecays.of_plain(field_decays),
    )


def described_table(table: FullEmbedding | MultiSizeEmbedding) -> dict[str, Any]:
    """Returns the arguments of :func:`build_table` that tell this table from others of its tokens and width."""
    bits = 8 * table.dtype.itemsize
    if isinstance(table, MultiSizeEmbedding):
        return {
            "embedding_bits": bits,
            "classes": [[c.size, int(c.linear), c.count] for c in table.classes],
            "indexed": table.index is not None,
            "field_projections": table.projection.ndim == 3,
            "along_axes": table.along_axes,
            "field_decays": None if table.field_decays is None else table.field_decays.plain(),
        }
    return {
        "embedding_bits": bits,
        "classes": None,
        "indexed": False,
        "field_projections": False,
        "along_axes": False,
        "field_decays": None,
    }
