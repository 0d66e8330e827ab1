"""Searches, trains and tests as users do: CTRModule, the callbacks, and a Trainer for each phase."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.warnings import PossibleUserWarning
from methods import with_seed
from torch import Tensor

from pme_lightning.averages import without_averages
from pme_lightning.class_path import instantiate
from pme_lightning.configuration.objects import (
    backbone_arguments,
    build,
    init_args,
    listed,
    optimizer_arguments,
    trainer_options,
)
from pme_lightning.data import EncodedDataModule
from pme_lightning.errors import BadInput
from pme_lightning.module import CTRModule
from pme_lightning.report import module_facts
from pme_lightning.search import Epoch, SearchResult, parse_budget

_QUIET = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


@dataclass
class Found:
    """What one search found.

    Attributes:
        sizes: For each budget the sizes, or why there are none.
        seconds: That the search took, up to its first sizes.
        steps: Optimizer steps of the search.
        trained: The state of the searched model, where rows are to start from it.
    """

    sizes: dict[float, SearchResult | str]
    seconds: float = 0.0
    steps: int = 0
    trained: dict[str, Tensor] | None = None


class Measurement:
    """Measures cells of one data set and backbone.

    Args:
        config: The whole configuration, as the command line makes it.
        data: The data, set up.
    """

    def __init__(self, config: Namespace, data: EncodedDataModule) -> None:
        self.config = config
        self.data = data
        self.warm = init_args(config.transfer).get("init") == "warm"

    def search(self, search: dict[str, Any], budgets: Sequence[float | str], seed: int) -> Found:
        """Searches once and reads off the sizes for every budget.

        Args:
            search: What describes the search callback, with its ``result_for(budget)``.
            budgets: As in ``search.budget``.
            seed: Of everything random.
        """
        module = self._start(seed)
        found = Found({budget: self._reason(module, budget) for budget in budgets})
        fitting = [budget for budget, reason in found.sizes.items() if not reason]
        if not fitting:
            return found
        config = with_seed(search, seed)
        # The largest of the budgets: what fits into a smaller one fits into this one.
        config["init_args"]["budget"] = max(fitting, key=lambda budget: _values(module, budget))
        callback = build(config)
        steps = callback.num_steps(Epoch(max(1, len(self.data.train_dataloader())), self.data.batch_size))
        options = {"max_epochs": -1, "max_steps": steps, "limit_val_batches": 0, "enable_checkpointing": False}
        started = time.perf_counter()
        try:
            trainer = self._fit(module, [callback, *without_averages(self._given_callbacks())], options)
        except BadInput as error:
            found.sizes = {budget: str(error) for budget in budgets}
            return found
        found.seconds, found.steps = time.perf_counter() - started, trainer.global_step
        for budget in fitting:
            try:
                found.sizes[budget] = callback.result_for(budget)
            except BadInput as error:
                found.sizes[budget] = str(error)
        found.trained = module.state_dict() if self.warm and steps else None
        return found

    def train(self, seed: int, sizes: SearchResult | None = None, trained: dict[str, Tensor] | None = None) -> dict:
        """Trains until validation says enough, tests the best checkpoint once, and returns the columns that it fills.

        Args:
            seed: Of everything random.
            sizes: What a search found; None for the full-size model.
            trained: The state of the searched full-size model to start from.
        """
        module, row = self.best(seed, sizes, trained)
        if module is None:
            return row
        trainer = Trainer(**build(self.config.trainer) | _QUIET | {"callbacks": [], "enable_checkpointing": False})
        row["valid_auc"] = self._metrics(trainer.validate(module, datamodule=self.data, verbose=False))["valid_auc"]
        tested = self._metrics(trainer.test(module, datamodule=self.data, verbose=False))
        return row | {"test_auc": tested["test_auc"], "test_logloss": tested["test_logloss"]}

    def best(
        self, seed: int, sizes: SearchResult | None = None, trained: dict[str, Tensor] | None = None
    ) -> tuple[CTRModule | None, dict[str, Any]]:
        """Trains until validation says enough; returns the model with its best weights, and what the training took.

        The model is None where validation never was a number. Arguments are those of :meth:`train`.
        """
        module = self._start(seed)
        callbacks: list[Callback] = []
        if sizes is not None:
            self.data.seed = seed + 1  # as train.py does: other batches than the search saw
            if trained is not None:
                module.load_state_dict(trained)
            transfer = self.config.transfer
            callbacks.append(instantiate(transfer.class_path, sizes=sizes, **init_args(transfer)))
        seed_everything(seed, workers=True, verbose=False)
        stopping = self.config.early_stopping.as_dict()
        with tempfile.TemporaryDirectory(prefix="accuracy_per_byte_") as folder:
            given = self._given_callbacks()
            # Averages are in whole checkpoints alone.
            whole = len(without_averages(given)) < len(given)
            kept = ModelCheckpoint(
                folder, "best", monitor=stopping["monitor"], mode=stopping["mode"], save_weights_only=not whole
            )
            # A transfer rebuilds the model before anybody makes a copy of it.
            callbacks += [*given, EarlyStopping(**stopping), kept]
            started = time.perf_counter()
            trainer = self._fit(module, callbacks, {"default_root_dir": folder})
            seconds = time.perf_counter() - started
            facts = module_facts(module)
            row: dict[str, Any] = {
                "kept_fraction": facts["fraction"],
                "parameters": facts["parameters"],
                "bytes": facts["bytes"],
                "epochs": trainer.current_epoch,
                "steps": trainer.global_step,
                "finetune_seconds": round(seconds, 3),
            }
            if not kept.best_model_path:
                return None, row | {"note": f"{stopping['monitor']} was never a number: training diverged"}
            best = torch.load(kept.best_model_path, map_location="cpu", weights_only=True)
            row["best_epoch"] = best["epoch"] + 1
            module.load_state_dict(best["state_dict"])
            return module, row

    def _start(self, seed: int) -> CTRModule:
        """Builds a fresh full-size module, and puts the data back to where a run starts."""
        self.data.renumber(None)
        self.data.seed = seed
        seed_everything(seed, workers=True, verbose=False)
        config = self.config
        return CTRModule(
            self.data.field_tokens,
            backbone=config.backbone.class_path,
            backbone_args=backbone_arguments(config),
            **optimizer_arguments(config),
            **config.model.as_dict(),
        )

    def _given_callbacks(self) -> list[Callback]:
        """Returns those of the training recipe, fresh ones for each fit."""
        return listed(trainer_options(self.config).get("callbacks"))

    def _fit(self, module: CTRModule, callbacks: list[Callback], options: dict[str, Any]) -> Trainer:
        trainer = Trainer(**build(self.config.trainer) | _QUIET | options | {"callbacks": callbacks})
        trainer.fit(module, datamodule=self.data)
        if not trainer.state.finished:
            # A fit that was cut short must not pass for a whole one.
            raise KeyboardInterrupt(f"the fit was {trainer.state.status}")
        return trainer

    @staticmethod
    def _reason(module: CTRModule, budget: float | str) -> str:
        """Says why nothing fits into a budget; empty where something does."""
        try:
            _values(module, budget)
        except BadInput as error:
            return str(error)
        return ""

    @staticmethod
    def _metrics(measured: Sequence[Any]) -> dict[str, float]:
        return dict(measured[0])


def _values(module: CTRModule, budget: float | str) -> int:
    """Returns how many values a budget leaves beside one projection."""
    return parse_budget(budget).values(module.full_table)


def quiet() -> None:
    """Keeps Lightning's advice out of the output: it builds hundreds of Trainers here."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=PossibleUserWarning)
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*is deprecated.*")
    warnings.filterwarnings("ignore", ".*exists and is not empty.*")
