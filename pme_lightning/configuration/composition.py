"""Puts one configuration together: group files, config files and the words of a command line, one over the other.

It knows no classes and imports nothing heavy: ``--help`` must answer at once.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pme_lightning.class_path import relative
from pme_lightning.configuration.command_line import CommandLine
from pme_lightning.configuration.commands import COMMANDS, QUESTIONS
from pme_lightning.configuration.group_files import BESIDE, GROUPS, GroupFiles
from pme_lightning.configuration.keys import NULLABLE, look_up, nested, short_key
from pme_lightning.configuration.yaml_files import read_yaml
from pme_lightning.errors import BadInput, did_you_mean


@dataclass
class Composition:
    """A whole configuration, before classes have checked it.

    Attributes:
        command: What to do.
        config: The merged configuration, without the overrides.
        overrides: What is still to be laid over it, key and value.
        layers: What was merged, each over those before, and the name of where it comes from.
    """

    command: str
    config: dict[str, Any]
    overrides: list[tuple[str, str]]
    layers: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def add(self, name: str, layer: dict[str, Any]) -> None:
        """Lays a layer over the configuration."""
        self.layers.append((name, layer))
        self.config = merge(self.config, layer)

    def choose(self, group: str, choice: str, files: GroupFiles) -> None:
        """Lays a choice of a group over the configuration; a choice of a class starts from nothing."""
        layer = files.load(group, choice)
        node = layer.get(group)
        if node is None or "class_path" in node:
            for key in (group, *BESIDE.get(group, ())):
                self.config.pop(key, None)
        self.add(f"{group}={choice}", layer)


def compose(line: CommandLine, base: Mapping[str, Any] | None = None) -> Composition:
    """Merges, each over those before: defaults, ``base``, experiment, config files, chosen groups.

    Args:
        line: The sorted words of the command line.
        base: A configuration to start from, such as the one that a checkpoint's run was made with.

    Raises:
        BadInput: A file is missing or unreadable, or a group has no such choice.
    """
    files = GroupFiles(line.config_dir)
    composition = Composition(line.command or "", {}, [])
    defaults = files.defaults()
    default_choices = defaults.pop("groups")
    composition.add("defaults.yaml", defaults)
    for group, choice in default_choices.items():
        if group not in line.choices:
            composition.choose(group, choice, files)
    for name, layer in _whole_files(line, base, files):
        for group, choice in _pop_choices(layer).items():
            if group not in GROUPS:
                raise BadInput(f"groups: '{group}' is no group; {did_you_mean(group, GROUPS)}")
            if group not in line.choices:
                composition.choose(group, str(choice), files)
        command = layer.pop("command", None)
        composition.command = composition.command or command
        composition.add(name, _with_init_args(layer, composition.config))
    for group, choice in line.choices.items():
        if group != "experiment":
            composition.choose(group, choice, files)
    composition.overrides = list(line.overrides)
    # A class comes before those of its arguments: with another class all arguments go.
    for key, value in sorted(line.overrides, key=lambda override: _depth(override[0])):
        switch = _class_switch(composition.config, key, value)
        if switch is not None:
            composition.add(f"{key}={value}", switch)
            composition.overrides.remove((key, value))
    composition.command = composition.command or "pme"
    if line.command not in QUESTIONS:
        _check_command(composition.command)
    return composition


def _whole_files(
    line: CommandLine, base: Mapping[str, Any] | None, files: GroupFiles
) -> list[tuple[str, dict[str, Any]]]:
    """Returns what may set any key, each with a name: the configuration to start from, experiment, config files."""
    found = [("the run that the file named belongs to", dict(base or {}))]
    if "experiment" in line.choices:
        choice = line.choices["experiment"]
        found.append((f"experiment={choice}", files.load("experiment", choice)))
    return found + [(f"--config={path}", read_yaml(path)) for path in line.files]


def _pop_choices(layer: dict[str, Any]) -> dict[str, Any]:
    """Takes the choices of groups out of a file: ``backbone: fm`` means what ``backbone=fm`` means."""
    groups = layer.pop("groups", None) or {}
    if not isinstance(groups, Mapping):
        raise BadInput(f"groups: write GROUP: CHOICE below it, not '{groups}'")
    named = {key: layer.pop(key) for key in GROUPS if isinstance(layer.get(key), str) and "." not in layer[key]}
    return {**groups, **named}


def _check_command(command: Any) -> None:
    if not isinstance(command, str) or command not in COMMANDS:
        raise BadInput(f"command '{command}' is unknown: {did_you_mean(str(command), COMMANDS)}")
    if command == "report":
        raise BadInput("command 'report' takes no configuration: python train.py report RUN_DIR [RUN_DIR ...]")


def merge(base: dict[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ``base`` with ``update`` on top, mapping by mapping.

    A mapping that names another class than the one before it takes its place as a whole: arguments of the former
    class never carry over to the new one.

    >>> merge({"a": {"class_path": "m.X", "init_args": {"p": 1}}}, {"a": {"class_path": "m.Y"}})
    {'a': {'class_path': 'm.Y'}}
    >>> merge({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
    {'a': {'b': 1, 'c': 3}}
    """
    merged = dict(base)
    for key, value in update.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping) and not _switches_class(before, value):
            merged[key] = merge(dict(before), value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _switches_class(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    return "class_path" in after and before.get("class_path") != after["class_path"]


def _with_init_args(layer: Mapping[str, Any], below: Any) -> dict[str, Any]:
    """Returns a part of a file with the ``init_args`` that it may leave out, as the command line does.

    Args:
        layer: The part.
        below: What it is laid over.
    """
    below = below if isinstance(below, Mapping) else {}
    if "class_path" not in layer and "class_path" not in below:
        return {
            key: _with_init_args(value, below.get(key)) if isinstance(value, Mapping) else value
            for key, value in layer.items()
        }
    arguments = {} if _switches_class(below, layer) else below.get("init_args")
    whole = {key: value for key, value in layer.items() if key in ("class_path", "dict_kwargs")}
    loose = {key: value for key, value in layer.items() if key not in ("class_path", "dict_kwargs", "init_args")}
    named = _with_init_args({**(layer.get("init_args") or {}), **loose}, arguments)
    return whole | ({"init_args": named} if named else {})


def _depth(key: str) -> int:
    return short_key(key).removesuffix(".class_path").count(".")


def _class_switch(config: Mapping[str, Any], key: str, value: str) -> dict[str, Any] | None:
    """Returns the layer of an override that names a class (``backbone=my.Net``), which then has no arguments yet.

    Returns:
        ``None`` if the override names no class.
    """
    node, path = look_up(config, key.removesuffix(".class_path"))
    holds_class = isinstance(node, Mapping) and "class_path" in node
    may_hold_one = node is None and ".".join(path) in NULLABLE
    if not (holds_class or may_hold_one) or not re.fullmatch(r"[A-Za-z_][\w.]*", value):
        return None
    if "." not in value:
        found = relative(node["class_path"], value) if holds_class else None
        if found is None:
            return None
        value = found
    return nested(path, {"class_path": value})


def with_null(config: dict[str, Any], key: str) -> dict[str, Any] | None:
    """Returns the configuration with an argument of a class set to null.

    On its way through two classes jsonargparse turns a null of the command line into the word ``None``, and through
    one where a choice of words is asked for.

    Args:
        config: A whole configuration.
        key: The argument, as on the command line.

    Returns:
        ``None`` if it is an argument of no class.
    """
    above, _, last = short_key(key).rpartition(".")
    node, path = look_up(config, above)
    if not isinstance(node, Mapping) or "class_path" not in node:
        return None
    return merge(config, nested([*path, "init_args"], {last: None}))
