"""Rebuilds a full-size model as a multi-size one, before anything is built on its parameters."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor

from pme_lightning.data import EncodedDataModule
from pme_lightning.embedding import FieldDecays, FullEmbedding, MultiSizeEmbedding
from pme_lightning.errors import BadInput
from pme_lightning.module import CTRModule
from pme_lightning.optim import prior_variance
from pme_lightning.search import SearchResult


class TransferCallback(Callback):
    """Gives every token of a :class:`~pme_lightning.module.CTRModule` the size that a search found for it.

    It works in ``setup("fit")``: before the strategy wraps the module and before the optimizer exists, so that
    nothing of the full-size table stays behind. If the datamodule can renumber tokens it is told to number them by
    size, and the table needs no index.

    Args:
        sizes: The search's result, or the file it was saved to.
        init: ``"scratch"``: rows start afresh, and the projection, or that of each field, as the search's axes.
            ``"warm"``: rows start as the leading coordinates of the module's trained full-size rows.
        decay_by_field: Whether the weight decay of embedding values is in the proportion that their field and axis ask
            for, where the search says how large they are expected to become and the optimizer takes it
            (:class:`~pme_lightning.embedding.FieldDecays`), instead of one for all. It holds for a fit of a model that
            is multi-size already, too.

    Raises:
        BadInput: There are no sizes, or their file cannot be read.

    Examples:
        In a Trainer, ``Trainer(callbacks=[TransferCallback(search.result)])`` is all there is to do. By hand:

        >>> import torch
        >>> from pme_lightning.backbones import DCN
        >>> sizes = SearchResult(torch.tensor([2, 0, 1]), None, 2, basis=None, budget="7", criterion="mine")
        >>> module = CTRModule([3], DCN, embedding_dim=2)
        >>> TransferCallback(sizes).rebuild(module)
        >>> module.embedding.num_parameters  # 3 values of tokens, and the projection of 2 x 2
        7
    """

    def __init__(
        self,
        sizes: SearchResult | str | Path | None,
        init: Literal["scratch", "warm"] = "scratch",
        decay_by_field: bool = True,
    ) -> None:
        if init not in ("scratch", "warm"):
            raise BadInput(f"transfer.init is '{init}'; choose 'scratch' or 'warm'")
        if sizes is None:  # the result of a PruningCallback that has not searched
            raise BadInput("TransferCallback got no sizes: the search has no result; fit with PruningCallback first")
        self.result = sizes if isinstance(sizes, SearchResult) else SearchResult.load(sizes)
        self.init = init
        self.decay_by_field = decay_by_field

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Renumbers the tokens and puts the multi-size table in; once, also when a checkpoint is resumed.

        Raises:
            BadInput: The sizes do not fit the module or the data, or the module was built with others.
        """
        if not isinstance(pl_module, CTRModule):
            raise BadInput(f"TransferCallback rebuilds a CTRModule, not a {type(pl_module).__name__}")
        module, datamodule = pl_module, getattr(trainer, "datamodule", None)
        before = takewhile(lambda each: each is not self, trainer.callbacks)  # type: ignore[attr-defined]
        if any(isinstance(each, (WeightAveraging, StochasticWeightAveraging)) for each in before):
            raise BadInput("TransferCallback goes before callbacks that average weights: they copy the table as it is")
        rebuilds = isinstance(module.embedding, FullEmbedding)
        if rebuilds and stage != "fit":
            return  # a full-size table knows the vocabulary's ids alone
        self._check(module)
        self._check_tokens(getattr(datamodule, "num_tokens", module.num_tokens))
        renumbers = hasattr(datamodule, "renumber")
        if renumbers:
            # A table with an index takes the vocabulary's ids.
            indexed = isinstance(module.embedding, MultiSizeEmbedding) and module.embedding.index is not None
            if isinstance(datamodule, EncodedDataModule) and not indexed:
                datamodule.renumber(self.result.order(), self.result.fingerprint())
            else:
                datamodule.renumber(None if indexed else self.result.order())  # type: ignore[union-attr]
        if rebuilds:
            self.rebuild(module, renumbered=renumbers)
        elif stage == "fit":
            self._take_up(module)

    def rebuild(self, pl_module: CTRModule, renumbered: bool = False) -> None:
        """Replaces the module's full-size table.

        Args:
            pl_module: The module, with its full-size table.
            renumbered: Whether its ids will come numbered by size; otherwise the table keeps an index.

        Raises:
            BadInput: The sizes do not fit the module, or it has a multi-size table already.
        """
        self._check(pl_module)
        full, result = pl_module.embedding, self.result
        if not isinstance(full, FullEmbedding):
            raise BadInput("the module has a multi-size table already: one is made of a full-size table, once")
        if full.shard is not None and not renumbered:
            raise BadInput(
                "a table that is split over processes needs ids numbered by size: train with a data module that has "
                "renumber(order), as those of pme_lightning.data do"
            )
        order = result.order()
        sizes, linear = result.sizes, result.linear
        if renumbered:
            sizes, linear = sizes[order], None if linear is None else linear[order]
        embedding = MultiSizeEmbedding.from_sizes(
            sizes,
            full.embedding_dim,
            linear,
            full.init_std,
            full.shard,
            len(pl_module.field_tokens) if result.axes == "field" else None,
            along_axes=result.basis is not None,
            dtype=full.dtype,
            field_decays=self._decays(pl_module, order),
        )
        if self.init == "warm":
            embedding.load_full(full, order, result.basis, pl_module.field_tokens)
        elif result.basis is not None:
            embedding.projection.data.copy_(result.basis.transpose(-1, -2))
        pl_module.set_embedding(embedding.to(full.weight.device), result.fingerprint())

    def _take_up(self, module: CTRModule) -> None:
        """Has a table that is multi-size already decay as is said here, whatever it was built with."""
        embedding, result = module.embedding, self.result
        assert isinstance(embedding, MultiSizeEmbedding)
        embedding.field_decays = self._decays(module, result.order())
        module.set_embedding(embedding, result.fingerprint())

    def _decays(self, module: CTRModule, order: Tensor) -> FieldDecays | None:
        """Returns how weight decay differs by field, for tokens that stand in an order ``(V,)``."""
        result = self.result
        # Optimizers are told of rows along axes alone.
        if not self.decay_by_field or result.spectrum is None or result.basis is None:
            return None
        classes = [(size, count) for size, _, count in result.classes()]
        scaled = module.embedding_optimizer_args.get("scale_by_fields", True)
        prior = prior_variance(len(module.field_tokens) if scaled else 1)
        return FieldDecays.of_spectrum(result.spectrum, classes, order, module.field_tokens, prior)

    def _check(self, module: CTRModule) -> None:
        """Raises BadInput where the sizes are not for this module, or not those it was built with."""
        embedding, result = module.embedding, self.result
        self._check_tokens(module.num_tokens)
        if result.embedding_dim != embedding.embedding_dim:
            raise BadInput(
                f"the sizes were searched with model.embedding_dim={result.embedding_dim}, "
                f"this model has {embedding.embedding_dim}"
            )
        if result.basis is not None and result.axes == "field" and len(result.basis) != len(module.field_tokens):
            raise BadInput(
                f"the sizes count along axes of {len(result.basis)} fields, this model has {len(module.field_tokens)}"
            )
        if result.spectrum is not None and len(result.spectrum) != len(module.field_tokens):
            raise BadInput(
                f"the sizes have a spectrum of {len(result.spectrum)} fields, this model has {len(module.field_tokens)}"
            )
        if (result.linear is None) == module.first_order:
            searched, has = ("without", "has them") if module.first_order else ("with", "has none")
            raise BadInput(
                f"the sizes were searched {searched} first-order weights, and this model's backbone "
                f"{type(module.backbone).__name__} {has}: search with a backbone of the same kind"
            )
        built_with = module.hparams.get("sizes_fingerprint")
        if isinstance(embedding, MultiSizeEmbedding) and built_with != result.fingerprint():
            raise BadInput(
                f"this model was built with other sizes (fingerprint {built_with}) than those given "
                f"({result.fingerprint()}): give the sizes.safetensors of the model's own search"
            )

    def _check_tokens(self, num_tokens: int) -> None:
        if len(self.result.sizes) != num_tokens:
            raise BadInput(
                f"the sizes are of {len(self.result.sizes)} tokens, the data has {num_tokens}: "
                "they were searched on other data or with another vocabulary"
            )
