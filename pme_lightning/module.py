"""The LightningModule: embedding, backbone, loss, metrics and optimizer of a click-through-rate model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric

from pme_lightning.averages import check_averaged_table, check_buffers
from pme_lightning.class_path import class_path, instantiate
from pme_lightning.embedding import FieldDecays, FullEmbedding, MultiSizeEmbedding, Shard, SizeClass
from pme_lightning.errors import BadInput
from pme_lightning.global_batch import over_ranks
from pme_lightning.optim import average_rows, build_optimizer, clip_gradients, takes_sparse_gradients
from pme_lightning.precision import check_precision
from pme_lightning.search import FullTable
from pme_lightning.sharded_strategy import ShardedStrategy
from pme_lightning.sixteen_bits import check_bits, widened
from pme_lightning.whole_auc import WholeAUC

_ANY_NUMBER = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
EMBEDDING_DTYPES = {32: torch.float32, 16: torch.bfloat16}


class CTRModule(LightningModule):
    """Predicts the probability of a click from the tokens of a row.

    Every argument is plain data and goes into the checkpoint, so that ``CTRModule.load_from_checkpoint(path)``
    needs nothing beside it, whether the table is full-size or multi-size.

    Args:
        field_tokens: Number of tokens of each field, the out-of-vocabulary token included; ids of a field follow
            those of the field before it.
        backbone: The network behind the embedding, a class or its import path. It is built as
            ``backbone(num_fields, embedding_dim, **backbone_args)`` and called as ``backbone(embeddings (B, F, D))``,
            or ``backbone(embeddings, linear (B, F))`` if its ``forward`` has a parameter ``linear``; it returns
            logits ``(B,)``.
        backbone_args: Further arguments of the backbone.
        embedding_dim: ``D``, the full embedding size.
        embedding_init_std: Standard deviation of the normal distribution that embedding rows start from.
        optimizer: The optimizer, a class or its import path, built as ``optimizer(parameters, **optimizer_args)``.
        optimizer_args: Further arguments of the optimizer, such as ``{"lr": 1e-3}``.
        embedding_optimizer: The optimizer of the tokens' own values (:attr:`table_parameters`), in the same way;
            ``None``: the one of everything else.
        embedding_optimizer_args: Further arguments of it.
        embedding_bits: Bits of a token's values as they are stored, 32 or 16 (bfloat16). With 16 what the table's
            optimizer keeps of them has 16 as well, and it must be one that rounds at random
            (:class:`~pme_lightning.optim.LazyAdagrad`).
        classes: The size classes ``(size, linear, count)`` of a multi-size table; ``None`` for a full-size one. It
            is set by :meth:`set_embedding`, seldom by hand.
        indexed: Whether the multi-size table keeps an index (its ids are not numbered by size).
        field_projections: Whether each field of the multi-size table has a projection of its own.
        along_axes: Whether the values of the multi-size table count along axes that a search turned.
        field_decays: How the weight decay of its values differs by field and axis, as
            :meth:`~pme_lightning.embedding.FieldDecays.plain` has it.
        sizes_fingerprint: Tells which sizes the ids are numbered by.
        shard: Where the table is split over processes (:class:`~pme_lightning.sharded_strategy.ShardedStrategy`), this
            process. It is not part of the description that checkpoints carry: they hold the table as a whole.

    Attributes:
        batch_loss: The mean log loss of the last training batch, over all processes.
        loss_rows: What the loss of each row is divided by in the loss that :meth:`training_step` returned last.

    Raises:
        BadInput: The backbone cannot be imported or does not take these arguments, or these cannot be kept in a
            checkpoint; or the table cannot be made as it is described (no tokens, no dimensions, unknown bits).

    Examples:
        >>> module = CTRModule(field_tokens=[4, 6], backbone="pme_lightning.backbones.FM", embedding_dim=3)
        >>> ids = torch.tensor([[0, 4], [3, 9]])  # (B, F): the second field's ids follow those of the first
        >>> module(ids).shape
        torch.Size([2])
        >>> module.full_parameters  # 10 tokens with 3 values and a first-order weight each
        40
    """

    embedding: FullEmbedding | MultiSizeEmbedding
    batch_loss: Tensor
    loss_rows: Tensor | float

    def __init__(
        self,
        field_tokens: Sequence[int],
        backbone: str | type = "pme_lightning.backbones.DeepFM",
        backbone_args: dict[str, Any] | None = None,
        embedding_dim: int = 16,
        embedding_init_std: float = 0.01,
        optimizer: str | type = "torch.optim.Adam",
        optimizer_args: dict[str, Any] | None = None,
        embedding_optimizer: str | type | None = None,
        embedding_optimizer_args: dict[str, Any] | None = None,
        embedding_bits: int = 32,
        classes: Sequence[Sequence[int]] | None = None,
        indexed: bool = False,
        field_projections: bool = False,
        along_axes: bool = False,
        field_decays: dict[str, Any] | None = None,
        sizes_fingerprint: str | None = None,
        shard: Shard | None = None,
    ) -> None:
        super().__init__()
        check_table(embedding_dim, embedding_init_std, embedding_bits)
        field_tokens = [int(n) for n in field_tokens]
        if not field_tokens or min(field_tokens) < 1:
            raise BadInput(f"field_tokens is {field_tokens}; every field needs at least one token")
        # Plain types only: the checkpoint must load without running code from it.
        backbone, backbone_args = class_path(backbone), _numbers(backbone_args)
        _check_plain("backbone", backbone_args)
        embedding_dim, embedding_init_std = _numbers(embedding_dim), _numbers(embedding_init_std)
        self.save_hyperparameters(logger=False, ignore=["shard"])
        # Of a subclass that passes keywords on, Lightning has noted those, as they were given.
        self.hparams.update(
            field_tokens=field_tokens,
            backbone=backbone,
            backbone_args=backbone_args,
            embedding_dim=embedding_dim,
            embedding_init_std=embedding_init_std,
        )
        self.shard = None if shard is None or shard.processes == 1 else shard
        self.field_tokens = field_tokens
        self.set_optimizers(optimizer, optimizer_args, embedding_optimizer, embedding_optimizer_args)
        self.backbone: nn.Module = instantiate(backbone, len(field_tokens), embedding_dim, **(backbone_args or {}))
        self.first_order = _takes_linear(self.backbone)
        num_tokens, dtype = sum(field_tokens), EMBEDDING_DTYPES[embedding_bits]
        if classes is None:
            self.embedding = FullEmbedding(
                num_tokens, embedding_dim, self.first_order, embedding_init_std, self.shard, dtype
            )
        else:
            index = torch.zeros(num_tokens, dtype=torch.int32) if indexed else None
            self.embedding = MultiSizeEmbedding(
                [SizeClass(size, bool(linear), count) for size, linear, count in classes],
                embedding_dim,
                self.first_order,
                index,
                embedding_init_std,
                self.shard,
                len(field_tokens) if field_projections else None,
                along_axes,
                dtype,
                None if field_decays is None else FieldDecays.of_plain(field_decays),
            )
        self.valid_metrics = self._metrics()
        self.test_metrics = self._metrics()

    @staticmethod
    def _metrics() -> nn.ModuleDict:
        # Over the whole set: an average of batch AUCs is not the AUC.
        logloss = MeanMetric().set_dtype(torch.float64)
        return nn.ModuleDict({"auc": WholeAUC(), "logloss": logloss})

    @property
    def num_tokens(self) -> int:
        """``V``, the tokens of all fields together."""
        return sum(self.field_tokens)

    @property
    def has_network(self) -> bool:
        """Whether the backbone has matrices of its own behind the embedding, unlike a factorization machine."""
        return any(parameter.ndim > 1 for parameter in self.backbone.parameters())

    @property
    def full_table(self) -> FullTable:
        """The full-size table of these tokens, as budgets are held against it."""
        return FullTable.of(self.embedding, len(self.field_tokens))

    @property
    def full_parameters(self) -> int:
        """Per-token parameters of the full-size table: ``V * D``, and ``V`` more with first-order weights."""
        return self.full_table.parameters

    @property
    def table_parameters(self) -> list[nn.Parameter]:
        """The parameters that belong to tokens, and to the embedding optimizer: rows and first-order weights.

        What all tokens share in the embedding layer is trained by every row of every batch, like the backbone, and
        belongs to the optimizer of the backbone: the projection of a multi-size table, and thresholds while a search
        learns some.
        """
        return [p for name, p in self.embedding.named_parameters(recurse=False) if name != "projection"]

    def set_embedding(self, embedding: FullEmbedding | MultiSizeEmbedding, fingerprint: str | None = None) -> None:
        """Puts another table in, and into the description that checkpoints carry.

        Args:
            embedding: The new table, for the same tokens, width and first-order weights.
            fingerprint: Which sizes its ids are numbered by (:meth:`SearchResult.fingerprint`).
        """
        self.embedding = embedding
        classes, indexed, field_projections, along_axes, field_decays = None, False, False, False, None
        if isinstance(embedding, MultiSizeEmbedding):
            classes = [[c.size, int(c.linear), c.count] for c in embedding.classes]
            indexed = embedding.index is not None
            field_projections = embedding.projection.ndim == 3
            along_axes = embedding.along_axes
            field_decays = None if embedding.field_decays is None else embedding.field_decays.plain()
        self.hparams.update(
            embedding_bits=8 * embedding.dtype.itemsize,
            classes=classes,
            indexed=indexed,
            field_projections=field_projections,
            along_axes=along_axes,
            field_decays=field_decays,
            sizes_fingerprint=fingerprint,
        )

    def set_optimizers(
        self,
        optimizer: str | type,
        optimizer_args: dict[str, Any] | None = None,
        embedding_optimizer: str | type | None = None,
        embedding_optimizer_args: dict[str, Any] | None = None,
    ) -> None:
        """Says what trains the module from now on, also in the description that checkpoints carry.

        Args:
            optimizer: As in the class, and so are the others.
            optimizer_args: See there.
            embedding_optimizer: See there.
            embedding_optimizer_args: See there.
        """
        self.optimizer_class, self.optimizer_args = class_path(optimizer), _numbers(dict(optimizer_args or {}))
        self.embedding_optimizer_class = None if embedding_optimizer is None else class_path(embedding_optimizer)
        self.embedding_optimizer_args = _numbers(dict(embedding_optimizer_args or {}))
        self.hparams.update(
            optimizer=self.optimizer_class,
            optimizer_args=self.optimizer_args,
            embedding_optimizer=self.embedding_optimizer_class,
            embedding_optimizer_args=self.embedding_optimizer_args,
        )

    def setup(self, stage: str) -> None:
        """Starts metrics anew, and refuses what does not go together, such as tokens that this table numbers otherwise.

        The kind of gradients is settled as well, before a strategy wraps the module.
        """
        renumbered = getattr(getattr(self.trainer, "datamodule", None), "is_renumbered", None)
        # What was measured before may have been interrupted in the middle; and it is left as tensors of an inference
        # mode, which a fit cannot add to.
        for metric in (*self.valid_metrics.values(), *self.test_metrics.values()):
            cast(Metric, metric).reset()
        check_precision(self.trainer.precision, split=self.shard is not None, trains=stage == "fit")
        if stage == "fit":
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, (WeightAveraging, StochasticWeightAveraging)):
                    self._check_averages(callback, type(callback).__name__)
        numbered_by_size = isinstance(self.embedding, MultiSizeEmbedding) and self.embedding.index is None
        if numbered_by_size and renumbered is False:
            raise BadInput(
                "this model numbers tokens by size, the data module by vocabulary: call "
                "data.renumber(SearchResult.load('sizes.safetensors').order()) with the sizes of the model's run"
            )
        other = getattr(getattr(self.trainer, "datamodule", None), "numbered_by", None)
        own = self.hparams["sizes_fingerprint"]
        if numbered_by_size and other and own and other != own:
            raise BadInput(
                f"this model numbers tokens by its sizes ({own}), the data module by those of another model ({other}): "
                "call data.renumber(sizes.order(), sizes.fingerprint()) with the sizes of the model's run"
            )
        if renumbered and not numbered_by_size:
            raise BadInput(
                "this model numbers tokens by vocabulary, the data module by the sizes of another model, which was "
                "trained with it before: call data.renumber(None)"
            )
        self._settle_gradients()

    def _check_averages(self, callback: WeightAveraging | StochasticWeightAveraging, name: str) -> None:
        check_averaged_table(name, 8 * self.embedding.dtype.itemsize, self.shard is not None)
        if isinstance(callback, WeightAveraging) and isinstance(self.embedding, MultiSizeEmbedding):
            check_buffers(callback, name)

    def _settle_gradients(self) -> None:
        """Makes the table's gradients sparse where its optimizer takes them so; over processes, where DDP lets it."""
        self.embedding.sparse = takes_sparse_gradients(self.embedding_optimizer_class or self.optimizer_class)
        self._shares_rows = False
        # DDP adds up dense gradients alone: it is told to pass the table over, whose rows are averaged here.
        self._ddp_params_and_buffers_to_ignore: list[str] = []
        if self._trainer is None:
            return
        by_ddp = isinstance(self.trainer.strategy, DDPStrategy)
        if self.shard is not None:
            self._check_shard(self.shard)
        elif self.trainer.world_size > 1:
            self.embedding.sparse = self._shares_rows = self.embedding.sparse and by_ddp
            by_ddp = by_ddp and self._shares_rows
        if by_ddp:
            self._leave_table_to_itself()

    def _leave_table_to_itself(self) -> None:
        own = {id(parameter) for parameter in self.table_parameters}
        self._ddp_params_and_buffers_to_ignore = [n for n, p in self.named_parameters() if id(p) in own]
        # Where the table is split, each process has ends of its own.
        self._ddp_params_and_buffers_to_ignore.append("embedding.ends")

    def _check_shard(self, shard: Shard) -> None:
        there_are = self.trainer.world_size
        if not isinstance(self.trainer.strategy, ShardedStrategy) or shard != Shard(
            self.trainer.global_rank, there_are
        ):
            raise BadInput(
                f"this model's table is split over {shard.processes} processes: train it with strategy='sharded' in as "
                f"many; here are {there_are} with {type(self.trainer.strategy).__name__}"
            )

    def on_fit_start(self) -> None:
        """Starts every process from the same table, where DDP does not."""
        if self._shares_rows:
            for parameter in self.table_parameters:
                torch.distributed.broadcast(parameter.data, 0)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Notes whether a step follows on this batch, or its gradients wait for those of the next."""
        trainer = self.trainer
        self._step_follows = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch

    def on_after_backward(self) -> None:
        """Averages the table's gradient over processes, as DDP does those of the network."""
        if self._shares_rows and self._step_follows:
            average_rows(self.table_parameters)

    def on_validation_start(self) -> None:
        """Refuses several loaders: there is one AUC."""
        _check_one(self.trainer.num_val_batches, "validate")

    def on_test_start(self) -> None:
        """As :meth:`on_validation_start`."""
        _check_one(self.trainer.num_test_batches, "test")

    def on_validation_epoch_end(self) -> None:
        """Ends a training that has diverged, or whose models are to be chosen by an AUC that there is not."""
        auc, logloss = self.valid_metrics["auc"], self.valid_metrics["logloss"]
        assert isinstance(auc, Metric)
        assert isinstance(logloss, Metric)
        if not logloss.update_called:
            return
        fits = self.trainer.state.fn == "fit"
        if not torch.isfinite(logloss.compute()):
            if not fits:
                raise BadInput("the validation logloss is not a number: this model was trained until it diverged")
            now = str(self.optimizer_args.get("lr", "the default"))
            if self.embedding_optimizer_class is not None:
                now += f", of the embedding {self.embedding_optimizer_args.get('lr', 'the default')}"
            raise BadInput(
                f"training diverged: the validation logloss of epoch {self.current_epoch + 1} is not a number; "
                f"lower the learning rate (now {now})"
            )
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        chooses = any(getattr(each, "monitor", None) == "valid_auc" for each in callbacks)
        if fits and not self.trainer.sanity_checking and chooses and auc.compute().isnan():
            raise BadInput(
                "the rows that were validated on have one label only, and the model is chosen by valid_auc: AUC needs "
                "both labels; validate on more rows (trainer.limit_val_batches)"
            )

    def forward(self, ids: Tensor) -> Tensor:
        """Returns the logits ``(B,)`` of rows of token ids ``(B, F)``."""
        # Projections are small, and pairwise terms are differences of large sums: rows stay as they are stored.
        with torch.autocast(ids.device.type, enabled=False):
            embeddings, linear = self.embedding.lookup(ids)
        return self.backbone(embeddings) if linear is None else self.backbone(embeddings, linear=linear)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the mean log loss of a batch; over several processes it is weighted by their rows."""
        ids, labels = batch
        labels = widened(labels)  # of one's own loader they may be of any kind
        logits = self(ids).to(labels.dtype)  # autocast may give bfloat16
        self._check_logits(logits, labels)
        loss, mean, self.loss_rows = over_ranks(F.binary_cross_entropy_with_logits(logits, labels), len(labels))
        self.batch_loss = mean.detach()
        self._log_loss()
        return loss

    def _log_loss(self) -> None:
        """Logs the loss of a step where somebody sees it: that takes Lightning most of a millisecond."""
        trainer = self.trainer
        # For a bar Lightning makes a number of it, and waits for the GPU.
        bar = trainer.progress_bar_callback is not None
        seen = bar or any(getattr(each, "monitor", None) == "train_loss" for each in trainer.callbacks)  # type: ignore[attr-defined]
        if seen or trainer.is_last_batch or trainer._logger_connector.should_update_logs:
            self.log("train_loss", self.batch_loss, prog_bar=bar)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Adds a batch to ``valid_auc`` and ``valid_logloss``."""
        self._evaluate(batch, "valid", self.valid_metrics)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Adds a batch to ``test_auc`` and ``test_logloss``."""
        self._evaluate(batch, "test", self.test_metrics)

    def predict_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Returns the probabilities ``(B,)`` of a click."""
        return torch.sigmoid(self(batch[0]).float())

    def _evaluate(self, batch: tuple[Tensor, Tensor], split: str, metrics: nn.ModuleDict) -> None:
        ids, labels = batch
        labels = widened(labels)
        logits = self(ids).to(labels.dtype)
        self._check_logits(logits, labels)
        auc, logloss = metrics["auc"], metrics["logloss"]
        assert isinstance(auc, Metric)
        assert isinstance(logloss, Metric)
        # Probabilities, not logits: the metric guesses batch by batch which of the two it was given.
        auc.update(torch.sigmoid(logits), labels.int())
        logloss.update(F.binary_cross_entropy_with_logits(logits, labels, reduction="none"))
        for name, metric in (("auc", auc), ("logloss", logloss)):
            self.log(f"{split}_{name}", metric, on_step=False, on_epoch=True, prog_bar=split == "valid")

    def _check_logits(self, logits: Tensor, labels: Tensor) -> None:
        if logits.shape != labels.shape:
            raise BadInput(
                f"{type(self.backbone).__name__}.forward returned {tuple(logits.shape)}; "
                f"it must return one logit a row, {tuple(labels.shape)}"
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Builds the optimizer over all parameters, within which the table may have one of its own.

        The table's gradients are sparse where its optimizer takes them so: one with a true attribute
        ``takes_sparse_gradients``, or torch's SparseAdam.
        """
        if self._trainer is None:
            self._settle_gradients()  # otherwise it was done before the strategy wrapped the module
        check_bits(self.hparams["embedding_bits"], self.embedding_optimizer_class or self.optimizer_class)
        # Steps are scaled so that small sizes keep up with the network: a backbone such as FM has none.
        blocks = None
        if self.has_network and isinstance(self.embedding, MultiSizeEmbedding):
            blocks = self.embedding.row_blocks()
        rows = self._training_rows()
        return build_optimizer(
            self.parameters(),
            self.table_parameters,
            self.optimizer_class,
            self.optimizer_args,
            self.embedding_optimizer_class,
            self.embedding_optimizer_args,
            blocks,
            {
                "fields": len(self.field_tokens),
                "training_rows": rows,
                "epoch_steps": None if rows is None else self._steps_of_epoch(rows),
            },
        )

    def _training_rows(self) -> int | None:
        """Returns how many rows the data module says there are to train on; None where none says it."""
        datamodule = None if self._trainer is None else getattr(self.trainer, "datamodule", None)
        rows = getattr(datamodule, "rows", None)
        return rows.get("train") if isinstance(rows, Mapping) else None

    def _steps_of_epoch(self, rows: int) -> int | None:
        """Returns the optimizer steps over so many rows, or one less; None where no batch size is told."""
        trainer = self.trainer
        batch = getattr(trainer.datamodule, "batch_size", None)  # type: ignore[attr-defined]
        if not isinstance(batch, Integral) or batch < 1:
            return None
        batches, limit = rows // (int(batch) * trainer.world_size), trainer.limit_train_batches
        if limit is not None:
            batches = int(batches * limit) if isinstance(limit, float) else min(batches, limit)
        return max(1, batches // trainer.accumulate_grad_batches)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips gradients, sparse ones among them, which Lightning's own way of it does not know."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        split = [] if self.shard is None else self.table_parameters
        if gradient_clip_val and (split or any(p.grad is not None and p.grad.is_sparse for p in parameters)):
            clip_gradients(parameters, gradient_clip_val, gradient_clip_algorithm or "norm", split)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)


def check_table(embedding_dim: int, init_std: float, bits: int) -> None:
    """Refuses what no table of embeddings can be."""
    if embedding_dim < 1:
        raise BadInput(f"model.embedding_dim is {embedding_dim}; it must be 1 or more")
    if init_std < 0:
        raise BadInput(f"model.embedding_init_std is {init_std}; it must be 0 or more")
    if bits not in EMBEDDING_DTYPES:
        raise BadInput(f"model.embedding_bits is {bits}; choose 32 or 16")


def _takes_linear(backbone: nn.Module) -> bool:
    """Whether a backbone asks for first-order weights.

    Raises:
        BadInput: It asks for more than embeddings and these.
    """
    parameters = list(inspect.signature(backbone.forward).parameters.values())
    if not parameters:
        raise BadInput(f"{type(backbone).__name__}.forward takes nothing; it is given the embeddings (B, F, D)")
    others = parameters[1:]
    needed = [each.name for each in others if each.default is each.empty and each.kind not in _ANY_NUMBER]
    if unknown := [name for name in needed if name != "linear"]:
        raise BadInput(
            f"{type(backbone).__name__}.forward asks for '{unknown[0]}'; it is given the embeddings (B, F, D) and, as "
            "'linear', the first-order weights (B, F)"
        )
    return any(each.name == "linear" for each in others)


def _check_one(loaders: Sequence[Any], command: str) -> None:
    if len(loaders) > 1:
        raise BadInput(
            f"there are {len(loaders)} loaders to {command} on, and metrics of one: {command} on one after the other"
        )


def _numbers(value: Any) -> Any:
    """Returns the same with Python's numbers in place of numpy's, which a checkpoint does not hold."""
    if isinstance(value, Mapping):
        return {key: _numbers(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_numbers, value))
    return value.item() if isinstance(value, np.generic) else value


def _check_plain(name: str, value: Any) -> None:
    """Refuses what a checkpoint cannot hold without running code when it is read."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            _check_plain(f"{name}.{key}", each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            _check_plain(name, each)
    elif value is not None and type(value) not in (bool, int, float, str):
        raise BadInput(
            f"{name} is {value!r}: a checkpoint holds numbers, texts and lists of such; give the backbone one of "
            "these, and let it find the object by that"
        )
