"""Figures of a fit while it goes, beside loss and metrics, for any logger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from pme_lightning.measures import MEASURES
from pme_lightning.module import CTRModule
from pme_lightning.progress.throughput import Throughput

_GIB = 1 << 30


class LiveFigures(Callback):
    """Logs what a fit does: speed, learning rates, how far the search has pruned, memory, and the best validation.

    Figures come every ``log_every_n_steps`` of the Trainer, from numbers that are on the host already: no step waits
    for the device. Without a logger it does nothing.

    ==========================  =====================================================================================
    ``lr_network``              learning rate of the backbone and of what all tokens share
    ``lr_embedding``            learning rate of the tokens' own values
    ``lr_thresholds``           learning rate of the thresholds of ``search=pep``, where it has one of its own
    ``rows_per_second``         rows trained since the figure before, loading included
    ``kept_fraction``           in a search: per-token values left, as a fraction of all (``kept_fraction`` of the
                                callback that searches)
    ``gpu_memory_gib``          memory that tensors take on the GPU; only on one
    ``gpu_memory_peak_gib``     the most they took in this fit; only on a GPU
    ``embedding_parameters``    parameters of the embedding layer, once
    ``embedding_bytes``         their bytes and those of the index, once
    ``best_valid_auc``          the highest so far, after each validation
    ``best_valid_logloss``      the lowest so far, after each validation
    ==========================  =====================================================================================

    Args:
        throughput: Measures the rows of the same fit, and comes before this callback.
    """

    def __init__(self, throughput: Throughput) -> None:
        self.throughput = throughput
        self._measured = (0, 0.0)
        self._kept: float | None = None
        self._best: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        """The best validation so far."""
        return {"best": dict(self._best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from it."""
        self._best = dict(state_dict["best"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs how large the embedding layer is; each fit measures a peak of its own."""
        if not trainer.loggers:
            return
        self._measured = (self.throughput.rows, self.throughput.seconds)
        if trainer.global_step == 0:
            embedding = cast(CTRModule, pl_module).embedding
            size = embedding.num_bytes + embedding.index_bytes
            _log(trainer, {"embedding_parameters": float(embedding.num_parameters), "embedding_bytes": float(size)})
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(trainer.strategy.root_device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs the figures where the Trainer logs."""
        if trainer.loggers and trainer._logger_connector.should_update_logs:
            _log(trainer, self._figures(trainer, cast(CTRModule, pl_module)))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the best of each metric."""
        if not trainer.loggers or trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        for measure in MEASURES:
            name = f"valid_{measure.key}"
            if name in trainer.callback_metrics:
                value = float(trainer.callback_metrics[name])
                self._best[name] = measure.best(self._best.get(name, value), value)
        _log(trainer, {f"best_{name}": value for name, value in self._best.items()})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs what a search kept in the end, if no step has said it."""
        kept = _kept_fraction(trainer)
        if trainer.loggers and kept is not None and kept != self._kept:
            _log(trainer, {"kept_fraction": kept})

    def _figures(self, trainer: Trainer, module: CTRModule) -> dict[str, float]:
        figures = learning_rates(trainer, module)
        rows, seconds = self.throughput.rows, self.throughput.seconds
        if seconds > self._measured[1]:
            figures["rows_per_second"] = (rows - self._measured[0]) / (seconds - self._measured[1])
            self._measured = (rows, seconds)
        kept = _kept_fraction(trainer)
        if kept is not None:
            figures["kept_fraction"] = self._kept = kept
        device = trainer.strategy.root_device
        if device.type == "cuda":
            figures["gpu_memory_gib"] = torch.cuda.memory_allocated(device) / _GIB
            figures["gpu_memory_peak_gib"] = torch.cuda.max_memory_allocated(device) / _GIB
        return figures


def live_figures(callbacks: Sequence[Callback]) -> list[Callback]:
    """Returns the callback for a fit of these callbacks, and what measures its speed if nothing among them does."""
    measuring = next((each for each in callbacks if isinstance(each, Throughput)), None)
    if measuring is not None:
        return [LiveFigures(measuring)]
    throughput = Throughput()
    return [throughput, LiveFigures(throughput)]


def learning_rates(trainer: Trainer, module: CTRModule) -> dict[str, float]:
    """Returns the learning rates that are in force, by what they move; an optimizer without one has none."""
    table = {id(parameter) for parameter in module.table_parameters}
    thresholds = {id(p) for name, p in module.embedding.named_parameters() if name.startswith("threshold.")}
    rates: dict[str, float] = {}
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            if "lr" not in group or not group["params"]:
                continue
            owned = {id(parameter) for parameter in group["params"]}
            names = ["lr_embedding"] if owned & table else []
            names += ["lr_thresholds"] if owned and owned <= thresholds else []
            names += ["lr_network"] if owned - table - thresholds else []
            rates |= {name: float(group["lr"]) for name in names}
    return rates


def _kept_fraction(trainer: Trainer) -> float | None:
    """Returns what the callback that searches says is left; any callback may say it."""
    fractions = (getattr(callback, "kept_fraction", None) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    return next((float(kept) for kept in fractions if kept is not None), None)


def _log(trainer: Trainer, figures: dict[str, float]) -> None:
    # Not through `self.log`: these are no metrics of the module, and nothing monitors them.
    for logger in trainer.loggers:
        logger.log_metrics(figures, step=trainer.fit_loop.epoch_loop._batches_that_stepped)
