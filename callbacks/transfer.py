"""Rebuilds a full-size model as a multi-size one, before anything is built on its parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from pme_lightning.embedding import FullEmbedding, MultiSizeEmbedding
from pme_lightning.errors import BadInput
from pme_lightning.module import CTRModule
from pme_lightning.search import SearchResult


class TransferCallback(Callback):
    """Gives every token of a :class:`~pme_lightning.module.CTRModule` the size that a search found for it.

    It works in ``setup("fit")``: before the strategy wraps the module and before the optimizer exists, so that
    nothing of the full-size table stays behind. If the datamodule can renumber tokens it is told to number them by
    size, and the table needs no index.

    Args:
        sizes: The search's result, or the file it was saved to.
        init: ``"scratch"``: rows start afresh, and the projection as the search's principal axes.
            ``"warm"``: rows start as the leading coordinates of the module's trained full-size rows.

    Raises:
        BadInput: The file cannot be read, or was made for other tokens.
    """

    def __init__(self, sizes: SearchResult | str | Path, init: Literal["scratch", "warm"] = "scratch") -> None:
        if init not in ("scratch", "warm"):
            raise BadInput(f"transfer.init is '{init}'; choose 'scratch' or 'warm'")
        self.result = sizes if isinstance(sizes, SearchResult) else SearchResult.load(sizes)
        self.init = init

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Renumbers the tokens and puts the multi-size table in; once, also when a checkpoint is resumed."""
        order = self.result.order()
        renumbers = hasattr(getattr(trainer, "datamodule", None), "renumber")
        if renumbers:
            trainer.datamodule.renumber(order)  # type: ignore[attr-defined]
        if stage == "fit" and isinstance(pl_module.embedding, FullEmbedding):
            self.rebuild(cast(CTRModule, pl_module), renumbered=renumbers)

    def rebuild(self, pl_module: CTRModule, renumbered: bool = False) -> None:
        """Replaces the module's full-size table.

        Args:
            pl_module: The module, with its full-size table.
            renumbered: Whether its ids will come numbered by size; otherwise the table keeps an index.
        """
        full, result = pl_module.embedding, self.result
        assert isinstance(full, FullEmbedding)
        if len(result.sizes) != full.num_tokens:
            raise BadInput(
                f"the sizes are of {len(result.sizes)} tokens, the data has {full.num_tokens}: "
                "they were searched on other data or with another vocabulary"
            )
        if result.embedding_dim != full.embedding_dim:
            raise BadInput(
                f"the sizes were searched with model.embedding_dim={result.embedding_dim}, "
                f"this model has {full.embedding_dim}"
            )
        if (result.linear is None) == full.first_order:
            has = "has none" if result.linear is None else "has them"
            raise BadInput(
                f"the sizes do not fit backbone {type(pl_module.backbone).__name__}: "
                f"first-order weights, and the search {has}; search with a backbone of the same kind"
            )
        order = result.order()
        sizes, linear = result.sizes, result.linear
        if renumbered:
            sizes, linear = sizes[order], None if linear is None else linear[order]
        embedding = MultiSizeEmbedding.from_sizes(sizes, full.embedding_dim, linear, full.init_std)
        if self.init == "warm":
            embedding.load_full(full, order, result.basis)
        elif result.basis is not None:
            embedding.projection.data.copy_(result.basis.T)
        pl_module.set_embedding(embedding.to(full.weight.device), result.fingerprint())
