"""The LightningModule: embedding, backbone, loss, metrics and optimizer of a click-through-rate model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn import functional as F

from pme_lightning.averages import check_averaged_model
from pme_lightning.backbone_inputs import takes_linear
from pme_lightning.class_path import class_path, instantiate
from pme_lightning.embedding import FullEmbedding, MultiSizeEmbedding, Shard
from pme_lightning.epoch_steps import expected_steps
from pme_lightning.errors import BadInput
from pme_lightning.metrics import ClickMetrics
from pme_lightning.numbering import check_numbering
from pme_lightning.optim import average_rows, build_optimizer, clip_gradients, takes_sparse_gradients
from pme_lightning.plain_values import check_plain, with_python_numbers
from pme_lightning.precision import check_precision
from pme_lightning.processes.global_batch import over_ranks
from pme_lightning.processes.sharded_strategy import ShardedStrategy
from pme_lightning.search import FullTable
from pme_lightning.sixteen_bits import check_bits, widened
from pme_lightning.table_description import build_table, check_table, described_table


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
        shard: This process, where the table is split over processes
            (:class:`~pme_lightning.processes.sharded_strategy.ShardedStrategy`). It is not part of the description that
            checkpoints carry: they hold the table as a whole.

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
        backbone, backbone_args = class_path(backbone), with_python_numbers(backbone_args)
        check_plain("backbone", backbone_args)
        embedding_dim, embedding_init_std = with_python_numbers(embedding_dim), with_python_numbers(embedding_init_std)
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
        self.first_order = takes_linear(self.backbone)
        self.embedding = build_table(
            field_tokens,
            embedding_dim,
            self.first_order,
            embedding_init_std,
            embedding_bits,
            classes,
            indexed,
            field_projections,
            along_axes,
            field_decays,
            self.shard,
        )
        self.valid_metrics = ClickMetrics()
        self.test_metrics = ClickMetrics()

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
        self.hparams.update(described_table(embedding), sizes_fingerprint=fingerprint)

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
        self.optimizer_class, self.optimizer_args = (
            class_path(optimizer),
            with_python_numbers(dict(optimizer_args or {})),
        )
        self.embedding_optimizer_class = None if embedding_optimizer is None else class_path(embedding_optimizer)
        self.embedding_optimizer_args = with_python_numbers(dict(embedding_optimizer_args or {}))
        self.hparams.update(
            optimizer=self.optimizer_class,
            optimizer_args=self.optimizer_args,
            embedding_optimizer=self.embedding_optimizer_class,
            embedding_optimizer_args=self.embedding_optimizer_args,
        )

    def setup(self, stage: str) -> None:
        """Resets the metrics, and refuses what does not go together, such as other data than the table numbers.

        Whether gradients are sparse is settled as well, before a strategy wraps the module.
        """
        # A measurement may have been interrupted; and what it left are tensors of an inference mode, which a fit cannot
        # add to.
        self.valid_metrics.reset()
        self.test_metrics.reset()
        check_precision(self.trainer.precision, split=self.shard is not None, trains=stage == "fit")
        if stage == "fit":
            callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
            check_averaged_model(callbacks, self.embedding, split=self.shard is not None)
        check_numbering(self.embedding, self.hparams["sizes_fingerprint"], getattr(self.trainer, "datamodule", None))
        self._settle_gradients()

    # The gradients of the table. DDP averages dense gradients alone. It is told to ignore the table where the table is
    # split, or has sparse gradients, whose rows are then averaged here.

    def _settle_gradients(self) -> None:
        """Makes the table's gradients sparse where its optimizer takes such and, over processes, DDP trains."""
        self.embedding.sparse = takes_sparse_gradients(self.embedding_optimizer_class or self.optimizer_class)
        self._averages_rows = False
        self._ddp_params_and_buffers_to_ignore: list[str] = []
        if self._trainer is None:
            return
        ignored = isinstance(self.trainer.strategy, DDPStrategy)
        if self.shard is not None:
            self._check_shard(self.shard)
        elif self.trainer.world_size > 1:
            ignored = self.embedding.sparse = self._averages_rows = self.embedding.sparse and ignored
        if ignored:
            table = {id(parameter) for parameter in self.table_parameters}
            self._ddp_params_and_buffers_to_ignore = [n for n, p in self.named_parameters() if id(p) in table]
            # Where the table is split, each process has ends of its own.
            self._ddp_params_and_buffers_to_ignore.append("embedding.ends")

    def _check_shard(self, shard: Shard) -> None:
        strategy, processes = self.trainer.strategy, self.trainer.world_size
        if not isinstance(strategy, ShardedStrategy) or shard != Shard(self.trainer.global_rank, processes):
            raise BadInput(
                f"this model's table is split over {shard.processes} processes: train it with strategy='sharded' in as "
                f"many; here are {processes} with {type(strategy).__name__}"
            )

    def on_fit_start(self) -> None:
        """Starts every process from the same table, where DDP does not."""
        if self._averages_rows:
            for parameter in self.table_parameters:
                torch.distributed.broadcast(parameter.data, 0)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Notes whether a step follows on this batch, or its gradients wait for those of the next."""
        trainer = self.trainer
        self._step_follows = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch

    def on_after_backward(self) -> None:
        """Averages the table's gradient over processes, as DDP does those of the network."""
        if self._averages_rows and self._step_follows:
            average_rows(self.table_parameters)

    # Validation, test and prediction.

    def on_validation_start(self) -> None:
        """Refuses several loaders: there is one AUC."""
        _check_one(self.trainer.num_val_batches, "validate")

    def on_test_start(self) -> None:
        """As :meth:`on_validation_start`."""
        _check_one(self.trainer.num_test_batches, "test")

    def on_validation_epoch_end(self) -> None:
        """Ends a training that has diverged, or whose models are chosen by an AUC that is not defined."""
        if not self.valid_metrics.logloss.update_called:
            return
        fits = self.trainer.state.fn == "fit"
        if not torch.isfinite(self.valid_metrics.logloss.compute()):
            if fits:
                raise self._diverged()
            raise BadInput("the validation logloss is not a number: this model was trained until it diverged")
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        chooses = any(getattr(each, "monitor", None) == "valid_auc" for each in callbacks)
        if fits and not self.trainer.sanity_checking and chooses and self.valid_metrics.auc.compute().isnan():
            raise BadInput(
                "the rows that were validated on have one label only, and the model is chosen by valid_auc: AUC needs "
                "both labels; validate on more rows (trainer.limit_val_batches)"
            )

    def _diverged(self) -> BadInput:
        rates = str(self.optimizer_args.get("lr", "the default"))
        if self.embedding_optimizer_class is not None:
            rates += f", of the embedding {self.embedding_optimizer_args.get('lr', 'the default')}"
        return BadInput(
            f"training diverged: the validation logloss of epoch {self.current_epoch + 1} is not a number; "
            f"lower the learning rate (now {rates})"
        )

    def forward(self, ids: Tensor) -> Tensor:
        """Returns the logits ``(B,)`` of rows of token ids ``(B, F)``."""
        # Projections are small, and pairwise terms are differences of large sums: rows stay as they are stored.
        with torch.autocast(ids.device.type, enabled=False):
            embeddings, linear = self.embedding.lookup(ids)
        return self.backbone(embeddings) if linear is None else self.backbone(embeddings, linear=linear)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the mean log loss of a batch; over several processes it is weighted by their rows."""
        logits, labels = self._logits_and_labels(batch)
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

    def _evaluate(self, batch: tuple[Tensor, Tensor], split: str, metrics: ClickMetrics) -> None:
        logits, labels = self._logits_and_labels(batch)
        losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        metrics.update(torch.sigmoid(logits), labels, losses)
        for name, metric in (("auc", metrics.auc), ("logloss", metrics.logloss)):
            self.log(f"{split}_{name}", metric, on_step=False, on_epoch=True, prog_bar=split == "valid")

    def _logits_and_labels(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        ids, labels = batch
        labels = widened(labels)  # a loader of the user's own may give any type
        logits = self(ids).to(labels.dtype)  # autocast may give bfloat16
        if logits.shape != labels.shape:
            raise BadInput(
                f"{type(self.backbone).__name__}.forward returned {tuple(logits.shape)}; "
                f"it must return one logit a row, {tuple(labels.shape)}"
            )
        return logits, labels

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
        return build_optimizer(
            self.parameters(),
            self.table_parameters,
            self.optimizer_class,
            self.optimizer_args,
            self.embedding_optimizer_class,
            self.embedding_optimizer_args,
            blocks,
            self._training_facts(),
        )

    def _training_facts(self) -> dict[str, int | None]:
        """Returns what optimizers may want to know of the model, and of the training as far as the data module says."""
        datamodule = None if self._trainer is None else getattr(self.trainer, "datamodule", None)
        split_rows = getattr(datamodule, "rows", None)
        rows = split_rows.get("train") if isinstance(split_rows, Mapping) else None
        steps = None if rows is None else expected_steps(self.trainer, datamodule, rows)
        return {
            "sums_over_pairs": getattr(self.backbone, "sums_over_pairs", True),
            "fields": len(self.field_tokens),
            "training_rows": rows,
            "epoch_steps": steps,
        }

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


def _check_one(loaders: Sequence[Any], command: str) -> None:
    if len(loaders) > 1:
        raise BadInput(
            f"there are {len(loaders)} loaders to {command} on, and metrics of one: {command} on one after the other"
        )
