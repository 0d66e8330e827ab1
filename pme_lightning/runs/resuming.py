"""Whether a run that is to go on is the one that was interrupted: the same settings, data and processes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from pme_lightning.data import EncodedDataModule
from pme_lightning.errors import BadInput
from pme_lightning.nested import leaves
from pme_lightning.runs.folder import RunFolder


def check_no_other_folder(config: Namespace) -> None:
    """Refuses a folder to write to beside the one to go on in."""
    if config.run_dir and Path(config.run_dir).expanduser().absolute() != Path(config.resume).expanduser().absolute():
        raise BadInput(f"resume={config.resume} goes on in that folder: leave run_dir={config.run_dir} out")


def check_same_config(resume: str, config: str, settled_later: Collection[str] = ()) -> None:
    """Refuses to go on with another configuration than the run was started with.

    Args:
        resume: The folder as it was named.
        config: The configuration of this command line, as YAML.
        settled_later: Keys that the command puts in order once it knows the data: they are passed over.

    Raises:
        BadInput: Something is not as it was.
    """
    started = yaml.safe_load((Path(resume).expanduser() / "config.yaml").read_text(encoding="utf-8"))
    now = dict(leaves(yaml.safe_load(config)))
    before = dict(leaves(started))
    for key in [*before, *(key for key in now if key not in before)]:
        if now.get(key) == before.get(key) or key in settled_later:
            continue
        change = f"resume: {key.replace('.init_args', '')} is {now.get(key)}, the run in '{resume}' was started "
        if not _is_told_of(key, before):
            raise BadInput(f"{change}without it, as by another version: go on with that one, or start a new run")
        raise BadInput(f"{change}with {before.get(key)}: give the same command, or resume={resume} alone")


def check_same_data(resume: str, folder: RunFolder, data: EncodedDataModule) -> None:
    """Refuses to go on with other data than the run was started with.

    Args:
        resume: The folder as it was named.
        folder: The folder.
        data: The data.

    Raises:
        BadInput: Something is not as it was.
    """
    facts, found = folder.finished("data"), data_facts(data)
    # A run that an earlier version started has noted less.
    if facts is not None and any(found[key] != value for key, value in facts.items()):
        raise BadInput(f"resume: the data have changed since the run in '{resume}' was started: start a new run")


def check_same_processes(resume: str, folder: RunFolder, count: int) -> None:
    """Refuses to go on with another number of processes than the run was started with.

    Args:
        resume: The folder as it was named.
        folder: The folder.
        count: How many there are now.

    Raises:
        BadInput: It is not as it was.
    """
    facts = folder.finished("processes")
    # A run that an earlier version started has not noted it.
    if facts is not None and facts["count"] != count:
        raise BadInput(
            f"resume: the run in '{resume}' was started in {_processes(facts['count'])}, here "
            f"{'is' if count == 1 else 'are'} {count}: start as many, or start a new run"
        )


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def data_facts(data: EncodedDataModule) -> dict[str, Any]:
    """Returns what must be the same for a run to go on: how much there is of all, and which tokens and labels."""
    return {
        "rows": data.rows,
        "field_tokens": list(data.field_tokens),
        "clicks": data.clicks,
        "vocabulary": None if data.vocabulary is None else data.vocabulary.fingerprint,
    }


def _is_told_of(key: str, config: Mapping[str, Any]) -> bool:
    """Whether a configuration, by its leaves, says something of a key: a value, or one of a key that holds it."""
    parts = key.split(".")
    return any(".".join(parts[:length]) in config for length in range(1, len(parts) + 1))
