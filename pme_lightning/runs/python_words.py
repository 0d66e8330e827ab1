"""Arguments of a program, such as classes and data frames, as the words of a command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningDataModule

from pme_lightning.class_path import class_path
from pme_lightning.configuration.command_line import CommandLine, parse_words
from pme_lightning.configuration.group_files import GroupFiles
from pme_lightning.data import EncodedDataModule
from pme_lightning.data.frames import frame_file, is_frame
from pme_lightning.errors import BadInput, did_you_mean


def settings_line(settings: Mapping[str, Any], arguments: Collection[str]) -> CommandLine:
    """Returns the command line ``pme`` with some settings.

    Args:
        settings: Values by key, as after ``key=`` on the command line.
        arguments: Keys that are arguments of their own, and no settings.

    Raises:
        BadInput: One of them is.
    """
    for key in settings:
        if key in arguments:
            raise BadInput(f"settings: {key} has an argument of its own: {key}=...")
    line = parse_words([f"{key}={word(key, value)}" for key, value in settings.items()])
    line.command = "pme"
    return line


def check_no_settings_of(line: CommandLine, given: Mapping[str, Any]) -> None:
    """Refuses settings of what is given as an object, which has settings of its own."""
    for group in given:
        for key, _ in line.overrides:
            if key.partition(".")[0] == group:
                raise BadInput(f"settings: {key}: {group} is an object of yours: set it there")


def add_data(line: CommandLine, given: dict[str, Any], data: Any) -> None:
    """Adds the data to the words, or to the objects that are given, where it is a data module."""
    if isinstance(data, LightningDataModule):
        if not isinstance(data, EncodedDataModule):
            raise BadInput(
                f"data: {type(data).__name__} is no pme_lightning.data.EncodedDataModule, which knows its tokens: "
                "derive from that, or give a data frame or a path"
            )
        given["data"] = data
    elif is_frame(data):
        line.choices["data"] = "parquet"
        cache = dict(line.overrides).get("data.cache_dir")
        line.overrides.append(("data.path", str(frame_file(data, cache))))
        if not any(key == "data.name" for key, _ in line.overrides):
            line.overrides.append(("data.name", "frame"))
    elif isinstance(data, (str, Path)):
        if str(data) in GroupFiles().choices("data") and not Path(data).exists():
            line.choices["data"] = str(data)
        else:
            line.overrides += [("data", "pme_lightning.data.ClickDataModule"), ("data.path", str(data))]
    else:
        raise BadInput(f"data: a data module, a data frame, a path or a choice is needed, not {type(data).__name__}")


def add_class(line: CommandLine, group: str, value: Any) -> None:
    """Adds a choice of a group, or a class by itself or by its path, to the words of a command line."""
    if isinstance(value, str) and "." not in value:
        choices = GroupFiles().choices(group)
        if value not in choices:
            raise BadInput(f"{group}: '{value}' is no choice; {did_you_mean(value, choices)}")
        line.choices[group] = value
        return
    if not isinstance(value, (str, type)):
        raise BadInput(
            f"{group}: name a choice or a class, not an object of {type(value).__name__}: each phase builds its own"
        )
    path = class_path(value)
    if isinstance(value, type):
        _check_found(group, value, path)
    line.overrides.insert(0, (group, path))


def _check_found(group: str, value: type, path: str) -> None:
    """Refuses a class that its import path does not lead back to: each phase, and a checkpoint, builds it by that."""
    if "." in value.__qualname__:
        where = "a function" if "<locals>" in path else "another class"
        raise BadInput(f"{group}: {path} is defined within {where}: define it at the top, so that it has a name")
    found = getattr(sys.modules.get(value.__module__), value.__name__, None)
    if found is None:
        raise BadInput(f"{group}: there is no {path} to be found by this name: define it at the top of a module")
    if found is not value:
        raise BadInput(f"{group}: {path} is another class by now: the one that was given has lost its name to it")


def word(key: str, value: Any) -> str:
    """Returns a value as one would type it after ``key=``.

    Raises:
        BadInput: It cannot be typed.
    """

    def typed(other: Any) -> Any:
        if isinstance(other, type):
            return class_path(other)
        if isinstance(other, Path):
            return str(other)
        if isinstance(other, (np.generic, np.ndarray)):
            return other.tolist()
        raise BadInput(
            f"{key}: an object of {type(other).__name__} cannot be given here, as each phase builds its own: name its "
            "class, {'class_path': 'module.Class', 'init_args': {...}}"
        )

    if isinstance(value, (str, Path)):
        return str(value)
    return class_path(value) if isinstance(value, type) else json.dumps(value, default=typed)
