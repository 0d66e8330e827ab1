"""Opens the Weights & Biases run of a command: without a question, and whatever the network does."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wandb
from wandb.errors import Error, UsageError

from pme_lightning.dashboards.run_logger import INIT_ARGUMENTS
from pme_lightning.errors import BadInput, first_line
from pme_lightning.report import say
from pme_lightning.runs.folder import RunFolder

# In the run folder: which run of the dashboard shows it.
RUN_FILE = "wandb_run.json"
_PROJECT = "pme-lightning"
# What the environment may say of a run.
_VARIABLES = ("WANDB_PROJECT", "WANDB_RUN_ID", "WANDB_TAGS", "WANDB_MODE")


def open_run(arguments: Mapping[str, Any], folder: RunFolder, command: str) -> wandb.Run:
    """Opens a new run, or the run that shows the run folder already, where that was reopened.

    Without a key, without network, or with a key that is refused, the run is kept on disk, in the run folder: training
    does not depend on a dashboard.

    Args:
        arguments: Those of :class:`RunLogger`.
        folder: The run folder.
        command: The command: the run's job type, if the arguments name none.

    Raises:
        BadInput: An argument is not one that Weights & Biases takes.
    """
    settings = {key: arguments.get(key) for key in INIT_ARGUMENTS}
    settings["project"] = settings["project"] or os.environ.get("WANDB_PROJECT") or _PROJECT
    settings["name"] = settings["name"] or os.environ.get("WANDB_NAME") or folder.path.name
    settings["job_type"] = settings["job_type"] or os.environ.get("WANDB_JOB_TYPE") or command
    if folder.reopened:
        settings["id"] = shown_by(folder.path).get("id") or settings["id"]
    settings |= {"dir": str(folder.path), "resume": "allow"}
    mode: Any = "offline" if arguments.get("offline") else os.environ.get("WANDB_MODE")
    # Where offline or disabled was asked for there is nothing to ask a server.
    if mode not in ("offline", "dryrun", "disabled"):
        reason = _why_not_online()
        if reason is not None:
            say(f"wandb: {reason}; the run is kept on disk")
            mode = "offline"
    try:
        run = _online_or_on_disk(settings, mode)
    except (UsageError, ValueError) as error:
        raise BadInput(f"logger: {_first_line(error)}") from error
    if not run.disabled:
        shown = {"id": run.id, "project": run.project, "entity": run.entity or settings["entity"]}
        folder.write_text(RUN_FILE, json.dumps(shown, indent=2) + "\n")
    return run


def _online_or_on_disk(settings: dict[str, Any], mode: Any) -> wandb.Run:
    try:
        return wandb.init(**settings, mode=mode)
    except UsageError:
        raise
    except Error as error:
        say(f"wandb: {_first_line(error)}; the run is kept on disk")
        return wandb.init(**settings, mode="offline")


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuses what Weights & Biases does not take, before anything is read.

    Args:
        arguments: Those of :class:`RunLogger`.

    Raises:
        BadInput: A project, an id or a tag is not a name to it, also where the environment names them.
    """
    for key, setting in (("project", "project"), ("id", "run_id"), ("tags", "run_tags")):
        if not arguments.get(key):
            continue
        try:
            wandb.Settings(**{setting: arguments[key]})
        except (UsageError, ValueError) as error:
            raise BadInput(f"logger.{key}: {_first_line(error)}") from error
    for name in sorted(os.environ.keys() & set(_VARIABLES)):
        try:
            wandb.Settings().update_from_env_vars({name: os.environ[name]})
        except (UsageError, ValueError) as error:
            raise BadInput(f"{name} (of the environment): {_first_line(error)}") from error


def shown_by(folder: Path) -> dict[str, Any]:
    """Returns ``id``, ``project`` and ``entity`` of the run that shows a run folder; nothing where none does."""
    file = folder / RUN_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


@contextmanager
def going_on_without(what: str) -> Iterator[None]:
    """Says in one line what a dashboard lacks, where it cannot be written to, and lets the run go on."""
    try:
        yield
    except (Error, OSError) as error:
        say(f"wandb: {what} were not logged: {_first_line(error)}")


def _why_not_online() -> str | None:
    """Returns why the server cannot be written to; ``None`` if it can."""
    try:
        return None if wandb.login(prompt=False) else "there is no API key"
    except (Error, ValueError) as error:
        return _first_line(error)


def _first_line(error: Exception) -> str:
    # Settings are pydantic's, which says first how many errors there are, then where, and only then what.
    several = getattr(error, "errors", None)
    said = ValueError(str(several()[0]["msg"]).removeprefix("Value error, ")) if callable(several) else error
    return first_line(said).rstrip(".")
