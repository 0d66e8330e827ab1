"""Loggers of a run: one object a phase, all writing to the same place under names of their own."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.mlflow import _MLFLOW_AVAILABLE

from pme_lightning.class_path import import_class, instantiate
from pme_lightning.configuration.objects import init_args
from pme_lightning.dashboards import RunLogger
from pme_lightning.errors import BadInput, first_line
from pme_lightning.nested import leaves
from pme_lightning.processes.ranks import is_main
from pme_lightning.runs.folder import RunFolder
from pme_lightning.score_spectrum import ScoreSpectrum
from pme_lightning.search import SearchResult
from pme_lightning.size_facts import size_facts

if TYPE_CHECKING:
    from pme_lightning.data import EncodedDataModule


def check_logger(config: Namespace | None) -> None:
    """Refuses what the logger would refuse later.

    Raises:
        BadInput: An argument is not one that it takes, or it needs a package that is not installed.
    """
    if config is None:
        return
    cls = import_class(config.class_path)
    if issubclass(cls, MLFlowLogger) and not _MLFLOW_AVAILABLE:
        raise BadInput(f"logger {cls.__name__} needs a package: {_MLFLOW_AVAILABLE}")
    if issubclass(cls, (CSVLogger, TensorBoardLogger)):
        # Building one writes nothing.
        with _told_of_packages(cls):
            instantiate(cls, **init_args(config) | {"save_dir": "logs"})
    flushes = init_args(config).get("flush_logs_every_n_steps")
    if flushes is not None and flushes < 1:
        raise BadInput(f"logger.flush_logs_every_n_steps: {flushes} is below 1")
    if issubclass(cls, RunLogger):
        from pme_lightning.dashboards.open_run import check_arguments

        check_arguments(init_args(config))


def phase_logger(
    config: Namespace | None, folder: RunFolder, phase: str, resolved: dict[str, Any], logged: int | None = None
) -> Logger | None:
    """Builds the logger of a phase.

    Weights & Biases shows all phases of a command as one run, with the phase before each name (``search/train_loss``);
    file loggers write ``logs/PHASE/``.

    Args:
        config: The ``logger`` part of the configuration; ``None`` for none.
        folder: The run folder.
        phase: Name of the phase.
        resolved: The whole configuration, logged with the run.
        logged: How many steps of the phase were logged before it was interrupted; ``None``: it starts.

    Raises:
        BadInput: The logger needs a package that is not installed.
    """
    if config is None:
        return None
    arguments = init_args(config)
    cls = import_class(config.class_path)
    logs = folder.path / "logs"
    logger: Logger
    with _told_of_packages(cls):
        if issubclass(cls, WandbLogger):
            logger = _wandb(cls, arguments, folder, phase, resolved)
        elif issubclass(cls, (CSVLogger, TensorBoardLogger)):
            if logged is not None and issubclass(cls, TensorBoardLogger):
                arguments["purge_step"] = logged
            logger = cls(save_dir=logs, **arguments | {"name": phase, "version": ""})
            if logged is not None and isinstance(logger, CSVLogger):
                _write_on(logger, logged)
        else:
            logger = instantiate(cls, **arguments | {"save_dir": str(logs)})
    logger.log_hyperparams(resolved)
    return logger


@contextmanager
def _told_of_packages(cls: type) -> Iterator[None]:
    """Says in one line which package a logger lacks."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise BadInput(f"logger {cls.__name__} needs a package: {first_line(error)}") from error


def _write_on(logger: CSVLogger, logged: int) -> None:
    """Has a logger go on with a file that it would begin afresh, after the steps that count."""
    file = Path(logger.log_dir) / "metrics.csv"
    if not is_main() or not file.is_file():
        return
    with file.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        names = list(reader.fieldnames or [])
        rows = [row for row in reader if row["step"] and int(row["step"]) < logged]
    logger.experiment.metrics_keys = names
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, names)
        writer.writeheader()
        writer.writerows(rows)


def _wandb(
    cls: type[WandbLogger], arguments: dict[str, Any], folder: RunFolder, phase: str, resolved: dict[str, Any]
) -> WandbLogger:
    import wandb

    from pme_lightning.dashboards.artifacts import log_inputs
    from pme_lightning.dashboards.open_run import open_run

    # The phases of one command are one run, which the main process alone writes to.
    run = wandb.run
    if run is None and is_main():
        run = open_run(arguments, folder, resolved["command"])
        log_inputs(run, {"sizes": resolved["sizes"], "model": resolved["ckpt_path"]})
    # A dot in a name means a part of something: budgets have some.
    logger = cls(save_dir=str(folder.path), prefix=phase.replace(".", "_"), experiment=run, **arguments)
    logger.LOGGER_JOIN_CHAR = "/"
    return logger


def log_sizes(
    logger: Logger | None, result: SearchResult, spectrum: ScoreSpectrum | None, data: EncodedDataModule
) -> None:
    """Shows what a search found, where the logger has charts.

    Args:
        logger: The logger of the search.
        result: The sizes.
        spectrum: What the scores say that they were made of; ``None`` if they are not known.
        data: The data.
    """
    if not isinstance(logger, RunLogger) or not is_main():
        return
    from pme_lightning.dashboards.open_run import going_on_without
    from pme_lightning.dashboards.search_charts import log_search

    facts = size_facts(result, data.fields, data.field_tokens, data.frequencies)
    with going_on_without("the charts of the sizes"):
        log_search(logger.experiment, facts, spectrum)


def finish_loggers(logger: Logger | None, summary: dict[str, Any], folder: RunFolder) -> None:
    """Writes the summary where the logger keeps one, and closes the run."""
    if logger is None or not is_main():
        return
    if isinstance(logger, RunLogger):
        from pme_lightning.dashboards.artifacts import log_artifacts
        from pme_lightning.dashboards.open_run import going_on_without
        from pme_lightning.dashboards.result_charts import log_result

        with going_on_without("the charts of the result"):
            log_result(logger.experiment, summary)
        with going_on_without("the artifacts"):
            log_artifacts(logger.experiment, folder.path, logger.artifacts, summary)
    if isinstance(logger, WandbLogger):
        logger.experiment.summary.update(summary)
        logger.experiment.finish()
        return
    prefix = "summary/"
    if isinstance(logger, (CSVLogger, TensorBoardLogger)):
        # The result of the run does not belong to its last phase.
        logger.finalize("success")
        logger, prefix = type(logger)(str(folder.path / "logs"), name="summary", version=""), ""
    figures = ((key, value) for key, value in leaves(summary, "/") if isinstance(value, (int, float)))
    logger.log_metrics({prefix + key: float(value) for key, value in figures})
    logger.finalize("success")


def abandon_loggers(logger: Logger | None) -> None:
    """Closes the run of a command that failed, as one that failed."""
    if isinstance(logger, WandbLogger) and is_main():
        logger.experiment.finish(exit_code=1)
