"""Whether a model and a data module number the tokens in the same way: by vocabulary, or by size."""

from __future__ import annotations

from typing import Any

from pme_lightning.embedding import FullEmbedding, MultiSizeEmbedding
from pme_lightning.errors import BadInput


def numbers_by_size(table: FullEmbedding | MultiSizeEmbedding) -> bool:
    """Whether the ids of a table are numbered by the sizes of their tokens, not by the vocabulary."""
    return isinstance(table, MultiSizeEmbedding) and table.index is None


def check_numbering(table: FullEmbedding | MultiSizeEmbedding, fingerprint: str | None, datamodule: Any) -> None:
    """Refuses a data module that numbers tokens in another way than a table does.

    Args:
        table: The table.
        fingerprint: Which sizes its ids are numbered by; ``None``: not known.
        datamodule: What gives the batches; one that does not tell how it numbers tokens is not refused.

    Raises:
        BadInput: The one numbers tokens by vocabulary and the other by size, or both by different sizes.
    """
    renumbered = getattr(datamodule, "is_renumbered", None)
    if not numbers_by_size(table):
        if renumbered:
            raise BadInput(
                "this model numbers tokens by vocabulary, the data module by the sizes of another model, which was "
                "trained with it before: call data.renumber(None)"
            )
        return
    if renumbered is False:
        raise BadInput(
            "this model numbers tokens by size, the data module by vocabulary: call "
            "data.renumber(SearchResult.load('sizes.safetensors').order()) with the sizes of the model's run"
        )
    other = getattr(datamodule, "numbered_by", None)
    if other and fingerprint and other != fingerprint:
        raise BadInput(
            f"this model numbers tokens by its sizes ({fingerprint}), the data module by those of another model "
            f"({other}): call data.renumber(sizes.order(), sizes.fingerprint()) with the sizes of the model's run"
        )
