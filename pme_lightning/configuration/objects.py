"""Builds the objects that a configuration describes with ``class_path`` and ``init_args``."""

from __future__ import annotations

import inspect
from dataclasses import is_dataclass, replace
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pme_lightning.class_path import import_class, instantiate
from pme_lightning.errors import BadInput


def build(node: Any) -> Any:
    """Builds what a part of the configuration describes: objects of the classes named in it, innermost first.

    Raises:
        BadInput: A class does not take its arguments; the message is the one of the class itself.
    """
    if isinstance(node, (Namespace, dict)):
        values = vars(node) if isinstance(node, Namespace) else node
        if "class_path" in values:
            arguments = build(values.get("init_args") or {})
            return instantiate(values["class_path"], **_with_dataclasses(values["class_path"], arguments))
        return {key: build(value) for key, value in values.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(build(value) for value in node)
    return node


def _with_dataclasses(path: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a class; a mapping is made the dataclass again that the class has by default."""
    parameters = inspect.signature(import_class(path)).parameters
    made = dict(arguments)
    for name, value in arguments.items():
        default = parameters[name].default if name in parameters else None
        if is_dataclass(default) and not isinstance(default, type) and isinstance(value, dict):
            made[name] = replace(default, **value)
    return made


def init_args(node: Namespace) -> dict[str, Any]:
    """Returns the arguments of a class in the configuration: none, if it takes none."""
    return node.init_args.as_dict() if "init_args" in node else {}


def backbone_arguments(config: Namespace) -> dict[str, Any]:
    """Returns the arguments of the backbone, without those that are objects by default and were left at that.

    A checkpoint holds plain values, and the class has its defaults in itself.
    """
    parameters = inspect.signature(import_class(config.backbone.class_path)).parameters
    return {
        name: value
        for name, value in init_args(config.backbone).items()
        if isinstance(value, (bool, int, float, str, list, tuple, dict, type(None)))
        or name not in parameters
        or value is not parameters[name].default
    }


def optimizer_arguments(config: Namespace) -> dict[str, Any]:
    """Returns the arguments of :class:`~pme_lightning.module.CTRModule` that say what trains it."""
    arguments: dict[str, Any] = {}
    for key in ("optimizer", "embedding_optimizer"):
        node = config[key]
        arguments[key] = None if node is None else node.class_path
        arguments[f"{key}_args"] = None if node is None else init_args(node)
    return arguments


def trainer_options(config: Namespace) -> dict[str, Any]:
    """Returns the options of a Trainer, with what averages weights as the last of the user's callbacks."""
    options = build(config.trainer)
    if config.averaging is not None:
        options["callbacks"] = [*listed(options.get("callbacks")), build(config.averaging)]
    return options


def build_trainer(options: dict[str, Any]) -> Trainer:
    """Builds a Trainer; what it objects to is the user's input."""
    try:
        return Trainer(**options)
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise BadInput(f"trainer: {error}") from error
    except RuntimeError as error:
        # Of callbacks, or of the machine: a device or a scheduler (SLURM) that is not set up as it has to be.
        key = "trainer.callbacks" if "more than one stateful callback" in str(error) else "trainer"
        raise BadInput(f"{key}: {error}") from error


def listed(value: Any) -> list[Any]:
    """Returns an option of a Trainer that may be a list, one thing or None as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]
