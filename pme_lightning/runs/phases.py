"""The phases of a command: each trains or measures a model with a Trainer of its own, and is done once.

A run that goes on after an interruption (``resume=RUN_DIR``) takes over what a phase that had ended left in the folder.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import Logger

from pme_lightning import report
from pme_lightning.averages import too_slow_for, without_averages
from pme_lightning.class_path import instantiate
from pme_lightning.configuration.objects import (
    backbone_arguments,
    build,
    init_args,
    optimizer_arguments,
    trainer_options,
)
from pme_lightning.data import EncodedDataModule
from pme_lightning.embedding import Shard
from pme_lightning.epoch_steps import optimizer_steps, step_rows
from pme_lightning.errors import BadInput
from pme_lightning.lightning_answers import interruptible, interrupts_held_back
from pme_lightning.module import CTRModule
from pme_lightning.processes.connection import check_processes
from pme_lightning.processes.synchronization import place_among_processes, wait_for_all
from pme_lightning.progress.throughput import Throughput
from pme_lightning.progress.training_curve import TrainingCurve
from pme_lightning.runs.batch_limits import limited
from pme_lightning.runs.checkpoints import searched_model
from pme_lightning.runs.files import sizes_files
from pme_lightning.runs.findings import Findings
from pme_lightning.runs.folder import RunFolder
from pme_lightning.runs.loggers import log_sizes, phase_logger
from pme_lightning.runs.phase_trainer import phase_trainer
from pme_lightning.runs.resume_point import ResumePoint
from pme_lightning.search import Budget, Epoch, SearchResult


@dataclass
class Fitted:
    """A trained model and what its training took.

    Attributes:
        module: The module, with its best weights after :meth:`Phases.test`.
        trainer: The phase's Trainer.
        best: The best checkpoint by validation.
        facts: The ``finetune`` block of ``summary.json``.
    """

    module: CTRModule
    trainer: Trainer
    best: Path
    facts: dict[str, Any]


def full_size_module(config: Namespace, data: EncodedDataModule, shard: Shard | None) -> CTRModule:
    """Builds a fresh full-size module; the same one each time, as all is drawn from the seed.

    Args:
        config: The whole configuration.
        data: The data, set up.
        shard: The rows of tables that this process holds; ``None``: all.
    """
    seed_everything(config.seed, workers=True, verbose=False)
    return CTRModule(
        data.field_tokens,
        backbone=config.backbone.class_path,
        backbone_args=backbone_arguments(config),
        **optimizer_arguments(config),
        **config.model.as_dict(),
        shard=shard,
    )


def starts_warm(config: Namespace) -> bool:
    """Returns whether fine-tunes start from the searched rows."""
    return init_args(config.transfer).get("init") == "warm"


class Phases:
    """Searches, trains and tests models as a configuration says, and keeps what comes of it in a run folder.

    Args:
        command: One of :data:`pme_lightning.configuration.commands.COMMANDS`.
        config: The whole configuration.
        config_text: Returns it as text, for loggers.
        folder: The run folder.
        data: The data, set up.
        shard: The rows of tables that this process holds; ``None``: all.
        search: The search, in the place of the one that the configuration describes.

    Attributes:
        logger: That of the latest phase.
    """

    def __init__(
        self,
        command: str,
        config: Namespace,
        config_text: Callable[[], str],
        folder: RunFolder,
        data: EncodedDataModule,
        shard: Shard | None = None,
        search: Any = None,
    ) -> None:
        self.command = command
        self.config = config
        self.config_text = config_text
        self.folder = folder
        self.data = data
        self.shard = shard
        self.given_search = search
        self.findings = Findings(folder, data)
        self.logger: Logger | None = None

    def searched(self, save: Callable[[Any], None] | None = None) -> tuple[dict[str, Any], SearchResult, CTRModule]:
        """Searches, and returns what it took, the sizes, and the module to go on with.

        Args:
            save: Gets the callback of the search, to save the sizes it found; ``None`` saves those of its own budget.
        """
        done = self.folder.finished("search")
        if done is not None:
            report.say("search: was done before")
            module = searched_model(self.folder, self.shard) if self._keeps_searched_model else self.module()
            return done, SearchResult.load(sizes_files(self.folder.path)[0]), module
        module = self.module()
        callback = self.given_search or build(self.config.search)
        steps = callback.num_steps(self._epoch())
        report.say(f"search: {type(callback).__name__}, {steps} steps")
        budget = getattr(callback, "budget", None)
        if isinstance(budget, Budget) and budget.exceeds(module.full_table):
            report.say(f"  the budget, {budget}, is more than the whole table takes: nothing will be pruned")
        point = self._resume_point(self.folder.checkpoints("search") / "resume.ckpt", at_end=False)
        curve = TrainingCurve()
        # The search ends the fit when it is done; one that does not is ended a step after. It looks at training rows
        # alone: the validation split stays for choosing among models.
        lasting: dict[str, Any] = {"max_epochs": -1, "max_steps": steps + 1, "min_epochs": None, "min_steps": None}
        trainer = self.trainer("search", [point, callback, curve], limit_val_batches=0, **lasting)
        self._fit_on(trainer, module, point)
        result: SearchResult | None = callback.result
        if result is None:
            raise BadInput(
                f"the search ended after {trainer.global_step} of {steps} steps and has no result: does "
                "trainer.max_time or a callback stop it early?"
            )
        if save is None:
            self.keep_sizes(result)
        else:
            save(callback)
        spectrum = self.findings.add_search(callback)
        self.findings.add_curve("search", curve)
        wait_for_all()
        if self._keeps_searched_model:
            trainer.save_checkpoint(self.folder.checkpoints("search") / "last.ckpt", weights_only=True)
        facts = {
            "seconds": point.seconds,
            "epochs": trainer.global_step / self._steps_per_epoch(trainer.num_training_batches),
            "criterion": result.criterion,
            "axes": result.axes,
            "budget": result.budget,
            "kept": result.parameters,
        }
        self.folder.finish("search", facts)
        log_sizes(self.logger, result, spectrum, self.data)
        return facts, result, module if self._keeps_searched_model else self.module()

    @property
    def _keeps_searched_model(self) -> bool:
        """Whether a fine-tune, of this run or of another one, may start from the searched rows."""
        return self.warm or self.command != "pme"

    def fit(self, phase: str, module: CTRModule, *callbacks: Callback) -> Fitted:
        """Trains a module until validation says enough, and keeps its best checkpoint.

        Args:
            phase: Name of the phase, for the folder of its checkpoints and its curves.
            module: The module.
            callbacks: What else takes part, such as the transfer.
        """
        seed_everything(self.config.seed, workers=True, verbose=False)
        # A fine-tune goes on where the search ended: not with the same rows in the same order once more.
        self.data.seed = self.config.seed + (phase != "full")
        checkpoint = ModelCheckpoint(
            self.folder.checkpoints(phase), "best", enable_version_counter=False, **self.config.checkpoint.as_dict()
        )
        throughput, curve = Throughput(), TrainingCurve()
        # Where nothing was measured there is no checkpoint either: what to do about it is said below.
        stopping = EarlyStopping(**self.config.early_stopping.as_dict() | {"strict": False})
        point = self._resume_point(self.folder.checkpoints(phase) / "last.ckpt")
        own = [point, *callbacks, stopping, checkpoint, throughput, curve]
        trainer = self.trainer(phase, own, first=1 + len(callbacks))
        self._announce_fit(trainer, "fine-tune" if callbacks else "full-size model")
        self._fit_on(trainer, module, point)
        self.findings.add_curve(phase, curve)
        if not checkpoint.best_model_path:
            raise BadInput(
                f"no checkpoint was kept: {checkpoint.monitor} was not measured before the end; "
                "let the training last longer (trainer.max_steps, trainer.max_time) or validate more often "
                "(trainer.val_check_interval)"
            )
        best = torch.load(checkpoint.best_model_path, map_location="cpu", weights_only=True, mmap=True)
        facts = {
            "seconds": point.seconds,
            "epochs": trainer.current_epoch,
            "best_epoch": best["epoch"] + 1,
            "rows_per_second": throughput.rows_per_second,
        }
        return Fitted(module, trainer, Path(checkpoint.best_model_path), facts)

    def _announce_fit(self, trainer: Trainer, name: str) -> None:
        most = trainer.max_epochs or -1
        until = "until validation says enough" if most < 0 else f"at most {most} epoch{'' if most == 1 else 's'}"
        report.say(f"{name}: {until}")
        ends = [steps for steps in (most * self._steps_per_epoch(), trainer.max_steps) if steps > 0]
        if self.config.averaging is not None and ends:
            warning = too_slow_for(self.config.averaging, min(ends))
            if warning is not None:
                report.say(f"  {warning}")

    def test(self, fitted: Fitted) -> dict[str, float]:
        """Measures the best checkpoint on the test split, once."""
        trainer = fitted.trainer
        trainer.callbacks = without_averages(trainer.callbacks)  # type: ignore[attr-defined]
        with interruptible(trainer), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint need to be provided.*")
            found = trainer.test(
                fitted.module, datamodule=self.data, ckpt_path=str(fitted.best), verbose=False, weights_only=True
            )
        return dict(found[0])

    def trained(self, phase: str, module: CTRModule, *callbacks: Callback) -> dict[str, Any]:
        """Trains and tests a module, as :meth:`fit` says; returns its blocks of ``summary.json``."""
        done = self.folder.finished(phase)
        if done is not None:
            report.say(f"{phase}: was done before")
            return done
        fitted = self.fit(phase, module, *callbacks)
        block = report.block(fitted.module, fitted.facts, self.test(fitted))
        self.folder.finish(phase, block)
        return block

    def baseline(self) -> dict[str, Any] | None:
        """Trains and tests the full-size model; returns its blocks, or ``None`` if it is not asked for."""
        if not self.config.baseline:
            return None
        self.data.renumber(None)
        return self.trained("full", self.module())

    def summary(
        self, search: dict[str, Any] | None, model: dict[str, Any], baseline: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Returns the whole of ``summary.json``."""
        return report.summary(self.command, self.config.seed, self.data, search, model, baseline)

    def keep_sizes(self, result: SearchResult, budget: str | None = None) -> None:
        """Writes sizes to the run folder, and notes what they say; ``budget``: the name of one of several."""
        self.folder.save_sizes(result, None if budget is None else self.folder.sizes_of(budget))
        self.findings.add_sizes(result, budget)

    def module(self) -> CTRModule:
        """Builds a fresh full-size module; the same one each time, as all is drawn from the seed."""
        return full_size_module(self.config, self.data, self.shard)

    def transfer(self, result: SearchResult) -> Callback:
        """Builds what gives a module these sizes."""
        return instantiate(self.config.transfer.class_path, sizes=result, **init_args(self.config.transfer))

    @property
    def warm(self) -> bool:
        """Whether fine-tunes start from the searched rows."""
        return starts_warm(self.config)

    def trainer(self, phase: str, callbacks: Sequence[Callback], first: int = 1, **arguments: Any) -> Trainer:
        """Builds the phase's own Trainer: a second fit on a spent one would do nothing.

        Args:
            phase: Name of the phase.
            callbacks: Those of ours.
            first: How many of them go before the user's.
            arguments: Of the Trainer, in place of what the configuration says.
        """
        options = check_processes(self.command, trainer_options(self.config)) | arguments
        logged = next((each.logged_steps() for each in callbacks if isinstance(each, ResumePoint)), None)
        resolved = yaml.safe_load(self.config_text())
        self.logger = phase_logger(self.config.logger, self.folder, phase, resolved, logged)
        return phase_trainer(phase, options, callbacks, first, self.logger, self.folder.path)

    def _fit_on(self, trainer: Trainer, module: CTRModule, point: ResumePoint) -> None:
        """Fits from where the run was interrupted, if it was, or from the beginning."""
        if point.resumes:
            report.say(f"goes on from {report.shown(point.path)}")
        checkpoint = str(point.path) if point.resumes else None
        # A Trainer is in a cycle with much that it has: what the phase before left would go at some time only.
        module.trainer = self.data.trainer = None
        with interrupts_held_back():
            gc.collect()
        # As it connects processes Lightning would rewind the random numbers, and they would draw others than one alone.
        os.environ.pop("PL_GLOBAL_SEED", None)
        with interruptible(trainer):
            trainer.fit(module, datamodule=self.data, ckpt_path=checkpoint, weights_only=True)

    def _resume_point(self, path: Path, at_end: bool = True) -> ResumePoint:
        steps, minutes = self.config.checkpoint_every_n_steps, self.config.checkpoint_every_n_minutes
        return ResumePoint(path, steps, minutes, at_end, resumes=self.folder.reopened and path.is_file())

    def _epoch(self) -> Epoch:
        """Returns the epoch that a search will go through, before there is a Trainer."""
        accumulated = self.config.trainer.accumulate_grad_batches
        return Epoch(self._steps_per_epoch(), step_rows(self.data, place_among_processes()[1], accumulated))

    def _steps_per_epoch(self, batches: float | None = None) -> int:
        """Returns the optimizer steps of an epoch of so many batches; of those that the limits leave if None."""
        if batches is None:
            batches = limited("train", len(self.data.train_dataloader()), self.config.trainer)
        return optimizer_steps(batches, self.config.trainer.accumulate_grad_batches)
