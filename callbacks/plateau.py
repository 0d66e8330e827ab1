"""Lowers the learning rate when validation stops improving."""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pme_lightning.errors import BadInput


class PlateauCallback(Callback):
    """Multiplies every learning rate by a factor when validation has not improved for some epochs.

    Applies :class:`torch.optim.lr_scheduler.ReduceLROnPlateau` to all optimizers of the fit; any improvement, however
    small, counts. Early stopping must have more patience than this callback, or training ends before the lower rate
    takes effect. In a fit without validation, such as a search, it does nothing.

    Args:
        factor: What learning rates are multiplied by, above 0 and below 1.
        patience: How many validations without improvement are allowed; the next one lowers the rates.
        monitor: The metric, ``"valid_auc"`` or ``"valid_logloss"``.
        mode: ``"max"`` if higher is better, ``"min"`` if lower is better.

    Raises:
        BadInput: An argument is out of its range.
    """

    def __init__(
        self,
        factor: float = 0.1,
        patience: int = 0,
        monitor: str = "valid_auc",
        mode: Literal["max", "min"] = "max",
    ) -> None:
        if not 0 < factor < 1:
            raise BadInput(f"PlateauCallback: factor is {factor}; it must be above 0 and below 1")
        if patience < 0:
            raise BadInput(f"PlateauCallback: patience is {patience}; it must be 0 or more")
        better = {"valid_auc": "max", "valid_logloss": "min"}
        if better.get(monitor) != mode:
            pairs = ", ".join(f"{name} with {way}" for name, way in better.items())
            raise BadInput(f"PlateauCallback: monitor '{monitor}' with mode '{mode}' is none of {pairs}")
        # Plain Python numbers, because they go into checkpoints.
        self.factor, self.patience, self.monitor, self.mode = float(factor), int(patience), monitor, mode
        self._schedulers: list[ReduceLROnPlateau] = []
        self._restored: list[dict[str, Any]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets up a scheduler for each optimizer; in a resumed fit, with its saved state."""
        self._schedulers = [
            ReduceLROnPlateau(optimizer, self.mode, self.factor, self.patience, threshold=0.0, threshold_mode="abs")
            for optimizer in trainer.optimizers
        ]
        for scheduler, state in zip(self._schedulers, self._restored, strict=False):
            scheduler.load_state_dict(state)
        self._restored = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks the metric, and lowers the rates if due."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            for scheduler in self._schedulers:
                scheduler.step(trainer.callback_metrics[self.monitor])

    def state_dict(self) -> dict[str, Any]:
        """Returns the best value so far and how long ago it was, for each optimizer."""
        return {"schedulers": [scheduler.state_dict() for scheduler in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state until there are optimizers."""
        self._restored = state_dict["schedulers"]
