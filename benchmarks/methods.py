"""The methods that are compared: one entry each, a choice of the ``search`` group and what is changed in it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from pme_lightning.configuration.group_files import GroupFiles
from pme_lightning.errors import BadInput, did_you_mean

# Stands for the seed of the run, so that what a method draws at random differs from seed to seed.
RUN_SEED = "<seed of the run>"


@dataclass(frozen=True)
class Method:
    """A way to find the sizes.

    Attributes:
        search: A choice of the ``search`` group, as users name it; None for the full-size model.
        changes: Arguments that differ from that choice's file, by short dotted key (``"criterion.alpha"``).
        rule: Whether it is a simple rule: no training, no gradients. The best of these is the mark to beat.
    """

    search: str | None
    changes: Mapping[str, Any] = field(default_factory=dict)
    rule: bool = False


def _epochs(epochs: float) -> dict[str, float | None]:
    """A search that is so long, be that however few or many steps."""
    return {"schedule.epochs": epochs, "schedule.min_steps": 0, "schedule.max_rows": None}


METHODS: dict[str, Method] = {
    "full": Method(None),
    "uniform": Method("uniform", rule=True),
    "popularity_.25": Method("popularity", {"criterion.alpha": 0.25}, rule=True),
    "popularity_.5": Method("popularity", {"criterion.alpha": 0.5}, rule=True),
    "popularity_.75": Method("popularity", {"criterion.alpha": 0.75}, rule=True),
    # The same with a token's embedding values before its first-order weight.
    "uniform_rows": Method("uniform", {"criterion.first_order": "last"}, rule=True),
    "popularity_.25_rows": Method("popularity", {"criterion.alpha": 0.25, "criterion.first_order": "last"}, rule=True),
    "popularity_.5_rows": Method("popularity", {"criterion.alpha": 0.5, "criterion.first_order": "last"}, rule=True),
    "mde": Method("mde", rule=True),
    "random": Method("random", {"criterion.seed": RUN_SEED}, rule=True),
    "pme_field_dropout": Method("pme", {"field_dropout": 0.2}),
    "magnitude": Method("magnitude"),
    "at_init": Method("at_init"),
    "sseds": Method("sseds"),
    "pep": Method("pep"),
    "fisher": Method("fisher"),
    "pme": Method("pme"),
    # The same search with one projection for all fields, and by its length in epochs; not run unless asked for.
    "pme@shared_axes": Method("pme", {"criterion.axes": "nested"}),
    "pme@1/16": Method("pme", _epochs(1 / 16)),
    "pme@1/8": Method("pme", _epochs(1 / 8)),
    "pme@1/4": Method("pme", _epochs(1 / 4)),
    "pme@1/2": Method("pme", _epochs(1 / 2)),
    "pme@1": Method("pme", _epochs(1.0)),
    "pme@2": Method("pme", _epochs(2.0)),
    "pme@3": Method("pme", _epochs(3.0)),
}
DEFAULT_METHODS = tuple(name for name in METHODS if "@" not in name)


def choose_methods(patterns: list[str]) -> list[str]:
    """Returns the methods that names or patterns (``pme*``) stand for, in the order of the table.

    Raises:
        BadInput: A pattern fits no method.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in METHODS):
            raise BadInput(f"--methods: there is no method '{pattern}'; {did_you_mean(pattern, METHODS)}")
    return [name for name in METHODS if any(fnmatchcase(name, pattern) for pattern in patterns)]


def search_config(name: str, files: GroupFiles) -> dict[str, Any] | None:
    """Returns what describes a method's search (``class_path`` and ``init_args``); None for the full-size model.

    The seed of the run is still to be put in (:func:`with_seed`).

    Raises:
        BadInput: A change names an argument that the choice's file does not have.
    """
    method = METHODS[name]
    if method.search is None:
        return None
    config = files.load("search", method.search)["search"]
    for key, value in method.changes.items():
        *parents, last = key.split(".")
        arguments = config["init_args"]
        for parent in parents:
            arguments = arguments.get(parent, {}).get("init_args", {})
        if last not in arguments:
            raise BadInput(f"method '{name}': search={method.search} has no argument '{key}' to change")
        arguments[last] = value
    return config


def with_seed(config: Any, seed: int) -> Any:
    """Returns a copy of a search's description with the seed of the run in its place."""
    if isinstance(config, dict):
        return {key: with_seed(value, seed) for key, value in config.items()}
    if isinstance(config, list):
        return [with_seed(value, seed) for value in config]
    return seed if config == RUN_SEED else copy.deepcopy(config)
