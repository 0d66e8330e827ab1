"""Checks a configuration against the classes that it names, with Lightning's own argument parser."""

from __future__ import annotations

import inspect
import warnings
from argparse import ArgumentError
from typing import Any, Literal

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from torch import nn
from torch.optim import Optimizer

from pme_lightning.configuration.absolute_paths import make_paths_absolute
from pme_lightning.configuration.checks import (
    check_classes,
    check_nulls,
    check_override,
    check_values,
    settle_bits,
    settle_budgets,
)
from pme_lightning.configuration.composition import Composition, with_null
from pme_lightning.configuration.keys import keys_of, short_key
from pme_lightning.configuration.parser_errors import one_line
from pme_lightning.errors import BadInput
from pme_lightning.module import CTRModule

# What a class gets from the run itself, so that nobody sets it.
_FROM_THE_RUN = {
    "model": set(inspect.signature(CTRModule).parameters) - {"embedding_dim", "embedding_init_std", "embedding_bits"},
    "trainer": {"logger", "default_root_dir"},
    "data": {"seed"},
    "backbone": {"num_fields", "embedding_dim"},
    "optimizer": {"params"},
    "embedding_optimizer": {"params"},
    "logger": {"save_dir", "prefix", "experiment", "dir", "purge_step"},
    "transfer": {"sizes"},
    "search": {"frequencies"},
    # Names and numbers of checkpoints are what the run folder promises; what is best is the user's to say.
    "checkpoint": {
        "dirpath",
        "filename",
        "save_top_k",
        "save_last",
        "save_on_exception",
        "save_on_train_epoch_end",
        "enable_version_counter",
        "auto_insert_metric_name",
        "every_n_train_steps",
        "every_n_epochs",
        "train_time_interval",
        "verbose",
    },
}

# The parts of the configuration whose class is always the same.
SECTIONS = {"trainer": Trainer, "model": CTRModule, "early_stopping": EarlyStopping, "checkpoint": ModelCheckpoint}
# The parts that name a class of this kind, and those that may be null instead.
_CLASSES: dict[str, type] = {
    "data": LightningDataModule,
    "backbone": nn.Module,
    "search": Callback,
    "transfer": Callback,
    "optimizer": Optimizer,
}
_OPTIONAL_CLASSES: dict[str, type] = {"embedding_optimizer": Optimizer, "averaging": WeightAveraging, "logger": Logger}


class ConfigurationCLI(LightningCLI):
    """LightningCLI as the parser of one whole configuration: it checks classes and arguments, and builds nothing."""

    def __init__(self, args: list[str]) -> None:
        super().__init__(
            CTRModule,
            LightningDataModule,
            run=False,
            args=args,
            save_config_callback=None,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={"exit_on_error": False},
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the words handed over; those of the process are not looked at."""
        self.config = parser.parse_args(args)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the keys that belong to the run as a whole."""
        parser.add_argument("--seed", type=int, default=42, help="Seed of everything random, 0 to 4294967295.")
        parser.add_argument("--baseline", type=bool, default=True, help="Also train the full-size model.")
        parser.add_argument(
            "--budgets",
            type=list[float | int | str] | None,
            default=None,
            help="Budgets of pareto, each as search.budget: [0.5,0.2,20MB] (null: 0.5, 0.2, 0.1, 0.05 and 0.02).",
        )
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Folder to write the run to; null for a new one under runs/.",
        )
        parser.add_argument("--resume", type=str | None, default=None, help="Folder of a run to go on with.")
        parser.add_argument(
            "--checkpoint_every_n_steps",
            type=int | None,
            default=None,
            help="Optimizer steps between checkpoints within an epoch; null for none by steps.",
        )
        parser.add_argument(
            "--checkpoint_every_n_minutes",
            type=float | None,
            default=10.0,
            help="Minutes between checkpoints within an epoch; null for none by time.",
        )
        parser.add_argument(
            "--bits",
            type=Literal[32, 16, 8, 4] | None,
            default=None,
            help="Bits of each embedding value of an export; null for 8.",
        )
        parser.add_argument("--sizes", type=str | None, default=None, help="File of sizes, for finetune.")
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="Checkpoint to measure or start from.")

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what the phases are built of."""
        for key, cls in SECTIONS.items():
            parser.add_class_arguments(cls, key, skip=_FROM_THE_RUN.get(key, set()), instantiate=False)
        for key, base in _CLASSES.items():
            parser.add_subclass_arguments(base, key, skip=_FROM_THE_RUN.get(key, set()), required=True)
        for key, base in _OPTIONAL_CLASSES.items():
            skip = _FROM_THE_RUN.get(key, set())
            parser.add_subclass_arguments(base, key, skip=skip, required=False, default=None)

    def _set_seed(self) -> None:
        """Leaves seeding to each phase, so that phases do not depend on one another's random numbers."""

    def instantiate_classes(self) -> None:
        """Builds nothing yet: the model needs the data first, and every phase its own Trainer."""


def parse_config(composition: Composition) -> tuple[LightningArgumentParser, Namespace]:
    """Checks a composition and fills in every default.

    Returns:
        The parser, which can build what the configuration names, and the whole configuration.

    Raises:
        BadInput: A key is unknown, a value has the wrong type, or a class cannot be imported.
    """
    check_classes(composition.config)
    check_nulls(composition.config)
    cli = _parse(composition.config)
    if composition.overrides:
        known = set(keys_of(cli.config.as_dict()))
        for key, value in composition.overrides:
            check_override(key, value, composition, cli.config, known)
        with_nulls, overrides = _with_nulls(composition)
        check_nulls(with_nulls)
        cli = _parse(with_nulls, overrides)
    make_paths_absolute(cli.config)
    check_values(cli.config)
    settle_budgets(composition, cli.config)
    settle_bits(composition.command, cli.config)
    return cli.parser, cli.config


def _with_nulls(composition: Composition) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Returns the configuration with the overrides in it that set arguments of classes to null, and the others."""
    config, others = composition.config, list[tuple[str, str]]()
    for key, value in composition.overrides:
        nulled = with_null(config, key) if value == "null" else None
        if nulled is None:
            others.append((key, value))
        else:
            # The last word on a key holds.
            config = nulled
            others = [other for other in others if short_key(other[0]) != short_key(key)]
    return config, others


def _parse(config: dict[str, Any], overrides: list[tuple[str, str]] | None = None) -> ConfigurationCLI:
    words = ["--config", yaml.safe_dump(config, sort_keys=False)]
    words += [f"--{key}={value}" for key, value in overrides or ()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ConfigurationCLI(words)
    except BadInput:
        raise
    except (ArgumentError, TypeError, ValueError, ImportError, AttributeError) as error:
        raise BadInput(one_line(str(error))) from error
