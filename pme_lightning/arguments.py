"""Checks a configuration against the classes that it names, with Lightning's own argument parser."""

from __future__ import annotations

import inspect
import re
import warnings
from argparse import ArgumentError
from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from torch import nn
from torch.optim import Optimizer

from pme_lightning.budgets import DEFAULT_BUDGETS, read_budgets
from pme_lightning.class_path import import_class, instantiate
from pme_lightning.composition import GROUPS, NULLABLE, Composition, kind_of_files, with_null
from pme_lightning.errors import BadInput, did_you_mean
from pme_lightning.module import CTRModule
from pme_lightning.settings import check_nulls

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
    "checkpoint": {"dirpath", "filename", "save_top_k", "save_last", "save_on_exception", "enable_version_counter"}
    | {"auto_insert_metric_name", "every_n_train_steps", "train_time_interval", "every_n_epochs", "verbose"}
    | {"save_on_train_epoch_end"},
}


# The parts of the configuration whose class is always the same.
SECTIONS = {"trainer": Trainer, "model": CTRModule, "early_stopping": EarlyStopping, "checkpoint": ModelCheckpoint}

# What a run measures, and which way is better.
_METRICS = {"valid_auc": "max", "valid_logloss": "min", "train_loss": "min"}


class Arguments(LightningCLI):
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
        for key, section in SECTIONS.items():
            parser.add_class_arguments(section, key, skip=_FROM_THE_RUN.get(key, set()), instantiate=False)
        for base, key in (
            (LightningDataModule, "data"),
            (nn.Module, "backbone"),
            (Callback, "search"),
            (Callback, "transfer"),
            (Optimizer, "optimizer"),
        ):
            parser.add_subclass_arguments(base, key, skip=_FROM_THE_RUN.get(key, set()), required=True)
        for optional, key in ((Optimizer, "embedding_optimizer"), (WeightAveraging, "averaging"), (Logger, "logger")):
            skip = _FROM_THE_RUN.get(key, set())
            parser.add_subclass_arguments(optional, key, skip=skip, required=False, default=None)

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
    _check_classes(composition.config)
    check_nulls(composition.config)
    base = ["--config", yaml.safe_dump(composition.config, sort_keys=False)]
    cli = _parse(base)
    if composition.overrides:
        known = set(keys_of(cli.config.as_dict()))
        config, words = composition.config, list[tuple[str, str]]()
        for key, value in composition.overrides:
            _check_data_has_files(key, value, cli.config, known)
            check_key(key, value, known)
            _check_class_is_named(key, value, composition.overrides, cli.config)
            nulled = with_null(config, key) if value == "null" else None
            if nulled is None:
                words.append((key, value))
            else:
                # The last word on a key holds.
                config, words = nulled, [word for word in words if _short(word[0]) != _short(key)]
        check_nulls(config)
        written = [f"--{key}={value}" for key, value in words]
        cli = _parse(["--config", yaml.safe_dump(config, sort_keys=False), *written])
    _make_paths_absolute(cli.config)
    _check_values(cli.config)
    _settle_budgets(composition, cli.config)
    _settle_bits(composition.command, cli.config)
    return cli.parser, cli.config


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
    """Returns the arguments of a class; what it has an object of a dataclass for by default is one again."""
    parameters = inspect.signature(import_class(path)).parameters
    made = dict(arguments)
    for name, value in arguments.items():
        default = parameters[name].default if name in parameters else None
        if is_dataclass(default) and not isinstance(default, type) and isinstance(value, dict):
            made[name] = replace(default, **value)
    return made


def trainer_options(config: Namespace) -> dict[str, Any]:
    """Returns the options of a Trainer, with what averages weights as the last of the user's callbacks."""
    options = build(config.trainer)
    if config.averaging is not None:
        options["callbacks"] = [*listed(options.get("callbacks")), build(config.averaging)]
    return options


def listed(value: Any) -> list[Any]:
    """Returns an option of a Trainer that may be a list, one thing or None as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]


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
    """Returns the arguments of :class:`CTRModule` that say what trains it."""
    arguments: dict[str, Any] = {}
    for key in ("optimizer", "embedding_optimizer"):
        node = config[key]
        arguments[key] = None if node is None else node.class_path
        arguments[f"{key}_args"] = None if node is None else init_args(node)
    return arguments


def print_config(parser: LightningArgumentParser, config: Namespace, command: str) -> str:
    """Returns the whole configuration as YAML that ``--config`` takes, the command included."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = parser.dump(_with_values_of_enums(config), format="yaml", skip_none=False)
    except (TypeError, ValueError, yaml.YAMLError) as error:
        raise BadInput(f"the configuration cannot be written: {_one_line(str(error))}") from error
    # The folder is not part of what is repeated: the repetition writes one of its own.
    resolved = yaml.safe_load(text) | {"run_dir": None, "resume": None}
    return yaml.safe_dump({"command": command, **resolved}, sort_keys=False, width=100)


def _with_values_of_enums(node: Any) -> Any:
    """Returns a part of the configuration as it is written: some defaults of Lightning's are members of enums."""
    if isinstance(node, Namespace):
        return Namespace(**{key: _with_values_of_enums(value) for key, value in vars(node).items()})
    if isinstance(node, dict):
        return {key: _with_values_of_enums(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_values_of_enums(value) for value in node]
    return node.value if isinstance(node, str) and isinstance(node, Enum) else node


def _parse(args: list[str]) -> Arguments:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Arguments(args)
    except ArgumentError as error:
        raise BadInput(_one_line(str(error))) from error
    except BadInput:
        raise
    except (TypeError, ValueError, ImportError, AttributeError) as error:
        raise BadInput(_one_line(str(error))) from error


def _make_paths_absolute(config: Namespace) -> None:
    """Lets the written configuration name the same files from any folder."""
    data = config.data.init_args if "init_args" in config.data else Namespace()
    places = [(config, key) for key in ("sizes", "ckpt_path")]
    places += [(data, key) for key in vars(data) if key in ("path", "vocabulary") or key.endswith("_path")]
    for node, key in places:
        value = node[key]
        node[key] = [_absolute(each) for each in value] if isinstance(value, list) else _absolute(value)
    if data.get("cache_dir"):
        # It may not be there yet.
        data.cache_dir = str(Path(data.cache_dir).expanduser().absolute())


def _absolute(path: Any) -> Any:
    """Returns the absolute path of a file, a folder or a pattern of such; what names none may be on the hub: as is."""
    if not isinstance(path, str) or not path:
        return path
    place = Path(path).expanduser()
    return str(place.absolute()) if place.exists() or any(character in path for character in "*?[") else path


def _check_values(config: Namespace) -> None:
    """Refuses settings with which a run could only end in a complaint, before any data is read."""
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
    trainer = config.trainer
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


def _settle_budgets(composition: Composition, config: Namespace) -> None:
    """Fills the budgets of ``pareto`` in, and refuses those that cannot be meant, before any data is read."""
    command = composition.command
    if command != "pareto":
        if config.budgets is not None:
            one = f"{command} takes one, search.budget=0.2" if command in ("pme", "search") else f"{command} takes none"
            raise BadInput(f"budgets belongs to the pareto command: {one}; leave it out, or write budgets=null")
        return
    for key, value in composition.overrides:
        if key.replace(".init_args", "") == "search.budget":
            raise BadInput(f"search.budget={value}: pareto takes its budgets as one list; write budgets=[{value}]")
    if config.budgets is None:
        config.budgets = list(DEFAULT_BUDGETS)
    read_budgets(config.budgets)
    search = config.search.class_path
    if not hasattr(import_class(search), "result_for") or "budget" not in init_args(config.search):
        raise BadInput(f"pareto needs a search with a budget and result_for(budget), which {search} lacks")


def _settle_bits(command: str, config: Namespace) -> None:
    """Fills the bits of ``export`` in, and refuses them for any other command."""
    if command == "export":
        config.bits = config.bits or 8
    elif config.bits is not None:
        raise BadInput("bits belongs to the export command; leave it out, or write bits=null")


def _check_classes(node: Any) -> None:
    """Finds every class that the configuration names, so that a misspelt one is told by its nearest name."""
    if isinstance(node, dict):
        path = node.get("class_path")
        if isinstance(path, str) and "." in path:
            import_class(path)
        for value in node.values():
            _check_classes(value)
    elif isinstance(node, list):
        for value in node:
            _check_classes(value)


def keys_of(config: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yields every dotted key that can be set, written short (without ``init_args``)."""
    for key, value in config.items():
        if key == "init_args" and isinstance(value, dict):
            yield from keys_of(value, prefix)
            continue
        yield prefix + key
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{key}.")


def _short(key: str) -> str:
    """Returns a key as it is written short: without ``init_args``, and without the plus that adds to a list."""
    return key.replace(".init_args", "").rstrip("+")


def check_key(key: str, value: str | None, known: set[str]) -> None:
    """Refuses a key that cannot be set, with the nearest that can.

    Args:
        key: The key, short or with ``init_args``.
        value: What it was to be set to; ``None`` if it was only asked about.
        known: All keys that can be set, as :func:`keys_of` yields them.

    Raises:
        BadInput: There is no such key.
    """
    given = "" if value is None else f" (={value})"
    short = _short(key)
    parts = short.split(".")
    if short in known:
        return
    # A key below a leaf goes into a mapping that the leaf holds, such as data.min_count.user=5.
    for end in range(len(parts) - 1, 0, -1):
        parent = ".".join(parts[:end])
        if parent in known and not any(name.startswith(parent + ".") for name in known):
            return
        if parent in known:
            siblings = [name for name in known if name.startswith(parent + ".")]
            raise BadInput(f"unknown key '{key}'{given}: {_suggest(short, siblings)}")
    raise BadInput(f"unknown key '{key}'{given}: {_suggest(short, [*known, *GROUPS])}")


def _check_data_has_files(key: str, value: str, config: Namespace, known: set[str]) -> None:
    """Refuses a setting of data in files where the data are drawn: which kind of files, is still to be said."""
    group, _, name = _short(key).partition(".")
    if group != "data" or _short(key) in known or not config.data.class_path.endswith(".SyntheticDataModule"):
        return
    if name.partition(".")[0] in inspect.signature(import_class("pme_lightning.data.ClickDataModule")).parameters:
        file = value if name == "path" else "FILE"
        kind = kind_of_files(file) or "parquet"
        raise BadInput(
            f"{key}={value}: the data are a synthetic click log; for data of yours say of which kind they are, "
            f"data={kind} data.path={file}"
        )


def _check_class_is_named(key: str, value: str, overrides: list[tuple[str, str]], config: Namespace) -> None:
    """Refuses an argument of a class where there is none, unless another override names it."""
    whole = key.partition(".")[0]
    if whole in NULLABLE and whole != key and config[whole] is None and whole not in dict(overrides):
        raise BadInput(f"{key}={value}: {whole} is null; name its class as well, {whole}=module.Class")


def _suggest(key: str, names: list[str]) -> str:
    # The last word is the one that is usually misspelt: compare that first, among the keys beside it.
    head, _, last = key.rpartition(".")
    beside = [n.rpartition(".")[2] for n in names if n.rpartition(".")[0] == head]
    beside = [name for name in beside if name != "class_path"]
    hint = did_you_mean(last, beside)
    if hint.startswith("did you mean") and head:
        return hint.replace("'", f"'{head}.", 1)
    if beside and head:
        return hint
    near = did_you_mean(key, names)
    # Of all keys that there are, a screenful helps nobody.
    return near if near.startswith("did you mean") else did_you_mean(key, [n for n in names if "." not in n])


def _one_line(message: str) -> str:
    """Brings the parser's words of many lines down to the one that says what is wrong."""
    section = re.search(r"Parser key \"(\w+)\":\s+Unable to load config '([^']*)'", message)
    if section:
        return f"{section[1]}: expected settings below it, {section[1]}.KEY=VALUE (given: {section[2]})"
    key = re.search(r"(?:Parser key|Problem with given class_path|key) \"?'?([\w.]+)", message)
    where = key.group(1) if key else ""
    nested = re.search(r"Given value: NestedArg\(key='([^']*)', val=(.*)\)", message)
    given = re.search(r"Given value: (.*)", message)
    value = nested.group(2) if nested else given.group(1) if given else ""
    if nested:
        where = f"{where}.{nested.group(1)}"
    reasons = [
        line.strip(" -")
        for line in message.splitlines()
        if re.search(r"Expected|not accepted|not expected|not a subclass|does not|Not a", line)
        # The parser tries whatever a value could be meant as: only the types that were asked for are of interest.
        and not re.search(
            r"Does not validate against any|NoneType|Expected a path|dot import path|Literal\[64, 32", line
        )
    ]
    if not reasons and "dot import path" in message:
        reasons = ["expected the import path of a class"]
    if not (where and reasons):
        return " ".join(message.split())
    said = "; ".join(dict.fromkeys(reasons))
    said = re.sub(r"<class '([\w.]+)'>", r"\1", said)
    said = re.sub(r"typing\.Literal\[([^\]]*)\]", r"one of \1", said).replace("Expected a one of", "expected one of")
    said = said[0].lower() + said[1:]
    return f"{where}: {said}" + (f" (given: {value})" if value and "Got value" not in said else "")
