"""What is refused of a configuration beyond what the types of arguments say, and what a command fills in."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

from pme_lightning.class_path import import_class
from pme_lightning.configuration.command_line import kind_of_files
from pme_lightning.configuration.composition import Composition
from pme_lightning.configuration.keys import NULLABLE, check_key, short_key
from pme_lightning.configuration.objects import init_args
from pme_lightning.configuration.settings import setting_of_class, takes_null, type_in_words
from pme_lightning.errors import BadInput, did_you_mean
from pme_lightning.runs.budgets import DEFAULT_BUDGETS, read_budgets

# What a run measures, and which way is better.
_METRICS = {"valid_auc": "max", "valid_logloss": "min", "train_loss": "min"}


def check_classes(node: Any) -> None:
    """Imports every class that the configuration names, so that a misspelt one is told by its nearest name."""
    if isinstance(node, dict):
        path = node.get("class_path")
        if isinstance(path, str) and "." in path:
            import_class(path)
        for value in node.values():
            check_classes(value)
    elif isinstance(node, list):
        for value in node:
            check_classes(value)


def check_nulls(config: Mapping[str, Any], prefix: str = "") -> None:
    """Refuses a null where a class takes none, which the parser lets through to the class.

    Args:
        config: A whole configuration, or a part of it.
        prefix: Of the keys in it.

    Raises:
        BadInput: There is one.
    """
    path, arguments = config.get("class_path"), config
    if isinstance(path, str) and "." in path:
        arguments = config.get("init_args") or {}
        for name, value in arguments.items():
            setting = setting_of_class(import_class(path), name) if value is None else None
            if setting is not None and setting.default is not None and not takes_null(setting.type):
                raise BadInput(f"{prefix}{name}: expected {type_in_words(setting.type)}, not null")
    for name, value in arguments.items():
        if isinstance(value, Mapping):
            check_nulls(value, f"{prefix}{name}.")


def check_override(key: str, value: str, composition: Composition, config: Namespace, known: set[str]) -> None:
    """Refuses an override of a key that cannot be set.

    Args:
        key: The key, short or with ``init_args``.
        value: What it was to be set to.
        composition: What the override belongs to.
        config: The whole configuration without the overrides.
        known: All keys that can be set in it.

    Raises:
        BadInput: There is no such key, or the class that it belongs to is not named yet.
    """
    _check_data_has_files(key, value, config, known)
    check_key(key, value, known)
    group = key.partition(".")[0]
    if group in NULLABLE and group != key and config[group] is None and group not in dict(composition.overrides):
        raise BadInput(f"{key}={value}: {group} is null; name its class as well, {group}=module.Class")


def _check_data_has_files(key: str, value: str, config: Namespace, known: set[str]) -> None:
    """Refuses a setting of data in files where the data are drawn: which kind of files, is still to be said."""
    group, _, name = short_key(key).partition(".")
    if group != "data" or short_key(key) in known or not config.data.class_path.endswith(".SyntheticDataModule"):
        return
    if name.partition(".")[0] in inspect.signature(import_class("pme_lightning.data.ClickDataModule")).parameters:
        file = value if name == "path" else "FILE"
        kind = kind_of_files(file) or "parquet"
        raise BadInput(
            f"{key}={value}: the data are a synthetic click log; for data of yours say of which kind they are, "
            f"data={kind} data.path={file}"
        )


def check_values(config: Namespace) -> None:
    """Refuses settings with which a run could only end in a complaint."""
    if not 0 <= config.seed < 2**32:
        raise BadInput(f"seed: {config.seed} is outside 0 ... {2**32 - 1}")
    for key in ("early_stopping", "checkpoint"):
        monitor, mode = config[key].monitor, config[key].mode
        if monitor not in _METRICS:
            raise BadInput(f"{key}.monitor: '{monitor}' is not measured; {did_you_mean(str(monitor), _METRICS)}")
        if mode != _METRICS[monitor]:
            raise BadInput(f"{key}.mode: '{mode}' does not suit {monitor}; write {key}.mode={_METRICS[monitor]}")
    for key in ("checkpoint_every_n_steps", "checkpoint_every_n_minutes"):
        if config[key] is not None and config[key] <= 0:
            raise BadInput(f"{key}: {config[key]} is not above 0; null for at no time within an epoch")
    _check_trainer(config.trainer)


def _check_trainer(trainer: Namespace) -> None:
    for key in ("max_epochs", "max_steps", "limit_train_batches", "limit_val_batches", "limit_test_batches"):
        if trainer[key] == 0:
            raise BadInput(f"trainer.{key}: with 0 there is nothing to train or to choose the best model by")
    if trainer.fast_dev_run:
        raise BadInput("trainer.fast_dev_run keeps no checkpoint to go on with; use trainer.limit_train_batches=10")
    if trainer.barebones:
        raise BadInput("trainer.barebones keeps no checkpoint and logs nothing that a model could be chosen by")
    if trainer.accumulate_grad_batches < 1:
        raise BadInput(f"trainer.accumulate_grad_batches: {trainer.accumulate_grad_batches} is below 1")
    if trainer.val_check_interval in (0, "0"):
        raise BadInput("trainer.val_check_interval: 0 is no interval; a fraction of an epoch, or a number of batches")
    if (trainer.gradient_clip_val or 0) < 0:
        raise BadInput(f"trainer.gradient_clip_val: {trainer.gradient_clip_val} is below 0; null for no clipping")
    every = trainer.check_val_every_n_epoch
    if every and (trainer.max_epochs or 0) > 0 and every > trainer.max_epochs:
        raise BadInput(
            f"trainer.check_val_every_n_epoch: {every} is above trainer.max_epochs={trainer.max_epochs}, "
            "so no model could be chosen by validation"
        )


def settle_budgets(composition: Composition, config: Namespace) -> None:
    """Fills the budgets of ``pareto`` in, and refuses those that cannot be meant."""
    command = composition.command
    if command != "pareto":
        if config.budgets is not None:
            one = f"{command} takes one, search.budget=0.2" if command in ("pme", "search") else f"{command} takes none"
            raise BadInput(f"budgets belongs to the pareto command: {one}; leave it out, or write budgets=null")
        return
    for key, value in composition.overrides:
        if short_key(key) == "search.budget":
            raise BadInput(f"search.budget={value}: pareto takes its budgets as one list; write budgets=[{value}]")
    if config.budgets is None:
        config.budgets = list(DEFAULT_BUDGETS)
    read_budgets(config.budgets)
    search = config.search.class_path
    if not hasattr(import_class(search), "result_for") or "budget" not in init_args(config.search):
        raise BadInput(f"pareto needs a search with a budget and result_for(budget), which {search} lacks")


def settle_bits(command: str, config: Namespace) -> None:
    """Fills the bits of ``export`` in, and refuses them for any other command."""
    if command == "export":
        config.bits = config.bits or 8
    elif config.bits is not None:
        raise BadInput("bits belongs to the export command; leave it out, or write bits=null")
