"""Puts one configuration together from the groups' small YAML files, config files and the words of a command line.

It knows no classes and imports nothing heavy: ``--help`` must answer at once.
"""

from __future__ import annotations

import copy
import importlib.resources
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pme_lightning.class_path import relative
from pme_lightning.errors import BadInput, did_you_mean

COMMANDS = {
    "pme": "search, transfer, fine-tune and test; the full-size model beside it (the default)",
    "pareto": "search once, then train and test with the sizes of several budgets",
    "search": "find the sizes only",
    "finetune": "train with sizes found before: sizes=PATH",
    "fit": "train and test the full-size model, no search",
    "validate": "measure a checkpoint on the validation split: ckpt_path=PATH",
    "test": "measure a checkpoint on the test split: ckpt_path=PATH",
    "predict": "write a checkpoint's probabilities to a file: ckpt_path=PATH",
    "export": "write a checkpoint as a program to serve, its values in 8 bits: ckpt_path=PATH [bits=8]",
    "report": "draw the page of a finished run anew, or compare runs: RUN_DIR [RUN_DIR ...] [out=FILE]",
}
# Commands that use a checkpoint, and the part of the data that each needs.
USES_CHECKPOINT = {"validate": "validate", "test": "test", "predict": "predict", "export": "validate"}
# What answers a question and runs nothing; words without "=" after it are what is asked about.
QUESTIONS = {
    "list": "show the choices of every group, or of those named: list backbone",
    "explain": "say what a setting does, its value and where that comes from: explain search.budget",
}
GROUPS = ("backbone", "data", "search", "optimizer", "averaging", "trainer", "logger", "experiment")
# Keys that a choice of a group may set beside the group's own; another choice resets them.
BESIDE = {"optimizer": ("embedding_optimizer",)}
# Keys of a class that may be null.
NULLABLE = ("logger", "embedding_optimizer", "averaging")


class GroupFiles:
    """The YAML files that offer the choices of each group: ours, and before them a user's own.

    Args:
        config_dir: A folder with group folders of the user's (``backbone/mine.yaml``).

    Raises:
        BadInput: There is no such folder.
    """

    def __init__(self, config_dir: str | Path | None = None) -> None:
        ours = importlib.resources.files("pme_lightning.configs")
        self.folders = [Path(str(ours))]
        if config_dir is not None:
            own = Path(config_dir).expanduser()
            if not own.is_dir():
                raise BadInput(f"config_dir: there is no folder '{config_dir}'")
            self.folders.insert(0, own)

    def choices(self, group: str) -> dict[str, Path]:
        """Returns the file of each choice of a group, by name."""
        found: dict[str, Path] = {}
        for folder in reversed(self.folders):
            found |= {path.stem: path for path in sorted((folder / group).glob("*.yaml"))}
        return dict(sorted(found.items()))

    def load(self, group: str, choice: str) -> dict[str, Any]:
        """Returns what a choice says.

        Raises:
            BadInput: The group has no such choice.
        """
        choices = self.choices(group)
        if choice not in choices:
            raise BadInput(f"{group}={choice}: no such choice; {did_you_mean(choice, choices)}")
        return read_yaml(choices[choice])

    def defaults(self) -> dict[str, Any]:
        """Returns what holds when nothing else is said, the default choice of each group included."""
        return read_yaml(self.folders[-1] / "defaults.yaml")

    def description(self, group: str, choice: str) -> str:
        """Returns the comment on the first line of a choice's file."""
        first = self.choices(group)[choice].read_text(encoding="utf-8").partition("\n")[0]
        return first.lstrip("# ").strip() if first.startswith("#") else ""


@dataclass
class CommandLine:
    """The words of a command line, sorted by kind.

    Attributes:
        command: What to do, or ``None`` if no command was named.
        choices: ``group=choice`` words.
        files: Configuration files (``--config``), in order.
        overrides: ``key=value`` words and options, key and value, in order.
        flags: Options without a value, such as ``--print_config``.
        config_dir: A folder of the user's own group files.
        asked: What a question is about, such as a group of ``list``; run folders, for ``report``.
    """

    command: str | None = None
    choices: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    overrides: list[tuple[str, str]] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    config_dir: str | None = None
    asked: list[str] = field(default_factory=list)


FLAGS = ("--help", "-h", "--print_config", "--version")


def parse_words(words: Sequence[str]) -> CommandLine:
    """Sorts the words of a command line.

    Raises:
        BadInput: A word is none of command, ``group=choice``, ``key=value`` or option.
    """
    line = CommandLine()
    rest = list(words)
    dashed: list[tuple[str, str]] = []
    while rest:
        word = rest.pop(0)
        if word in FLAGS:
            line.flags.append("--help" if word == "-h" else word)
            continue
        if line.command == "report" and not re.match(r"-|\w+=", word):
            line.asked.append(word)
            continue
        if word.startswith("-") and "=" not in word:
            if not rest:
                raise BadInput(f"option {word} needs a value: {word}=VALUE")
            word = f"{word}={rest.pop(0)}"
        key, equals, value = word.partition("=")
        if not equals:
            if line.command in QUESTIONS:
                line.asked.append(word)
                continue
            known = (*COMMANDS, *QUESTIONS)
            if line.command is None and word in known:
                line.command = word
                continue
            if line.command is not None and word in known:
                raise BadInput(f"two commands, '{line.command}' and '{word}': name one")
            raise BadInput(f"'{word}' is no command and has no '=': {did_you_mean(word, known)}")
        bare, key = not key.startswith("-"), key.lstrip("-")
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\+?", key):
            raise BadInput(f"'{word}': the key '{key}' is not a name such as trainer.max_epochs")
        if key in ("config", "c"):
            line.files.append(value)
        elif key == "config_dir":
            line.config_dir = value
        elif bare and key == "data" and kind_of_files(value):
            raise BadInput(
                f"data={value} names files; say of which kind, data={kind_of_files(value)} data.path={value}"
            )
        elif bare and key in GROUPS and _names_a_choice(value):
            line.choices[key] = value
        elif key in GROUPS:
            dashed.append((key, value))
        else:
            line.overrides.append((key, value))
    # Programs that start others write dashes before all they say, as the agents of sweeps do.
    files = GroupFiles(line.config_dir) if dashed else None
    for key, value in dashed:
        if files is not None and (key == "experiment" or value in files.choices(key) or _looks_like_a_choice(value)):
            line.choices[key] = value
        else:
            line.overrides.append((key, value))
    return line


def _looks_like_a_choice(value: str) -> bool:
    # --optimizer=Adam names a class of torch's, which the parser finds.
    return re.fullmatch(r"[a-z0-9_]+", value) is not None and value != "null"


def _names_a_choice(value: str) -> bool:
    # A dotted word is the path of a class; what is in braces is a whole configuration of the group.
    return "." not in value and not value.startswith(("{", "["))


def kind_of_files(path: str) -> str | None:
    """Returns the choice of ``data`` that reads files of such names; None where the name does not tell.

    >>> kind_of_files("clicks/train.tsv.gz"), kind_of_files("clicks.pq"), kind_of_files("frappe")
    ('csv', 'parquet', None)
    """
    if re.search(r"\.(csv|tsv|txt)(\.gz)?$", path):
        return "csv"
    return "parquet" if re.search(r"\.(parquet|pq)$", path) else None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Reads one configuration file.

    Raises:
        BadInput: The file is missing, is not YAML, or is not a mapping.
    """
    path = Path(path).expanduser()
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.yaml")]) if path.parent.is_dir() else ""
        raise BadInput(f"config file '{path}' does not exist{'; ' + near if near else ''}") from None
    except IsADirectoryError:
        raise BadInput(f"config file '{path}' is a folder") from None
    except UnicodeDecodeError:
        raise BadInput(f"config file '{path}' is not text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise BadInput(f"config file '{path}' is not valid YAML{where}: {getattr(error, 'problem', error)}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise BadInput(f"config file '{path}' must hold keys and values, not a {type(loaded).__name__}")
    return loaded


class _Loader(yaml.SafeLoader):
    """YAML that reads ``1e-3`` as the number it is."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)$|[-+]?(\d+\.\d*|\.\d+)$|[-+]?\.(inf|Inf)$|\.(nan|NaN)$"),
    list("-+0123456789."),
)


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


def compose(line: CommandLine, base: Mapping[str, Any] | None = None) -> Composition:
    """Merges, each over those before: defaults, ``base``, experiment, config files, chosen groups.

    Args:
        line: The sorted words of the command line.
        base: A configuration to start from, such as the one that a checkpoint's run was made with.

    Raises:
        BadInput: A file is missing or unreadable, or a group has no such choice.
    """
    files = GroupFiles(line.config_dir)
    defaults = files.defaults()
    named_layers = [("the run that the file named belongs to", dict(base or {}))]
    if "experiment" in line.choices:
        choice = line.choices["experiment"]
        named_layers.append((f"experiment={choice}", files.load("experiment", choice)))
    named_layers += [(f"--config={path}", read_yaml(path)) for path in line.files]
    command = line.command

    chosen: dict[str, str] = dict(defaults.pop("groups"))
    config = defaults
    merged: list[tuple[str, dict[str, Any]]] = [("defaults.yaml", defaults)]

    def choose(config: dict[str, Any], group: str, choice: str) -> dict[str, Any]:
        said = files.load(group, choice)
        merged.append((f"{group}={choice}", said))
        return _choose(config, group, said)

    for group, choice in chosen.items():
        if group not in line.choices:
            said = files.load(group, choice)
            merged.append((f"{group}={choice}", said))
            config = merge(config, said)
    for name, layer in named_layers:
        groups = layer.pop("groups", None) or {}
        if not isinstance(groups, Mapping):
            raise BadInput(f"groups: write GROUP: CHOICE below it, not '{groups}'")
        # "backbone: fm" in a file means what backbone=fm means on the command line.
        named = {key: layer.pop(key) for key in GROUPS if isinstance(layer.get(key), str) and "." not in layer[key]}
        for group, choice in {**groups, **named}.items():
            if group not in GROUPS:
                raise BadInput(f"groups: '{group}' is no group; {did_you_mean(group, GROUPS)}")
            if group not in line.choices:
                config = choose(config, group, str(choice))
        command = command or layer.get("command")
        layer.pop("command", None)
        layer = _spelled_out(layer, config)
        merged.append((name, layer))
        config = merge(config, layer)
    for group, choice in line.choices.items():
        if group != "experiment":
            config = choose(config, group, choice)

    overrides = []
    for key, value in line.overrides:
        switched = _switch_class(config, key, value)
        if switched is None:
            overrides.append((key, value))
        else:
            config = switched
            merged.append((f"{key}={value}", config))
    command = command or "pme"
    if line.command not in QUESTIONS and (not isinstance(command, str) or command not in COMMANDS):
        raise BadInput(f"command '{command}' is unknown: {did_you_mean(str(command), COMMANDS)}")
    if command == "report":
        raise BadInput("command 'report' takes no configuration: python train.py report RUN_DIR [RUN_DIR ...]")
    return Composition(command, config, overrides, merged)


def _spelled_out(layer: Mapping[str, Any], below: Any) -> dict[str, Any]:
    """Returns a part of a file with the ``init_args`` that it may leave out, as the command line does.

    Args:
        layer: The part.
        below: What it is laid over.
    """
    below = below if isinstance(below, Mapping) else {}
    if "class_path" not in layer and "class_path" not in below:
        return {
            key: _spelled_out(value, below.get(key)) if isinstance(value, Mapping) else value
            for key, value in layer.items()
        }
    arguments = {} if _switches_class(below, layer) else below.get("init_args")
    whole = {key: value for key, value in layer.items() if key in ("class_path", "dict_kwargs")}
    loose = {key: value for key, value in layer.items() if key not in ("class_path", "dict_kwargs", "init_args")}
    named = _spelled_out({**(layer.get("init_args") or {}), **loose}, arguments)
    return whole | ({"init_args": named} if named else {})


def _choose(config: dict[str, Any], group: str, choice: dict[str, Any]) -> dict[str, Any]:
    """Lays a group's choice over the configuration; a choice of a class starts from nothing."""
    node = choice.get(group)
    if node is None or "class_path" in node:
        old = (group, *BESIDE.get(group, ()))
        config = {key: value for key, value in config.items() if key not in old}
    return merge(config, choice)


def _switch_class(config: dict[str, Any], key: str, value: str) -> dict[str, Any] | None:
    """Answers an override that names a class (``backbone=my.Net``) by putting the class in without arguments."""
    path = key.split(".")
    node, spelled = _look_up(config, path[:-1] if path[-1] == "class_path" else path)
    holds_class = isinstance(node, Mapping) and "class_path" in node
    may_hold_one = node is None and spelled in ([key] for key in NULLABLE)
    if not (holds_class or may_hold_one) or not re.fullmatch(r"[A-Za-z_][\w.]*", value):
        return None
    if "." not in value:
        found = relative(node["class_path"], value) if isinstance(node, Mapping) else None
        if found is None:
            return None
        value = found
    return merge(config, _under(spelled, {"class_path": value}))


def with_null(config: dict[str, Any], key: str) -> dict[str, Any] | None:
    """Returns the configuration with an argument of a class set to null.

    On its way through two classes jsonargparse turns a null of the command line into the word ``None``, and through
    one where a choice of words is asked for.

    Args:
        config: A whole configuration.
        key: The argument, as on the command line.

    Returns:
        None if it is an argument of no class.
    """
    *path, last = key.replace(".init_args", "").split(".")
    node, spelled = _look_up(config, path)
    if not isinstance(node, Mapping) or "class_path" not in node:
        return None
    return merge(config, _under([*spelled, "init_args"], {last: None}))


def _look_up(config: dict[str, Any], path: Sequence[str]) -> tuple[Any, list[str]]:
    """Returns what stands under a key, None if nothing does, and the key with each ``init_args`` spelled out."""
    node: Any = config
    spelled: list[str] = []
    for part in path:
        if isinstance(node, Mapping) and part not in node and isinstance(node.get("init_args"), Mapping):
            node = node["init_args"]
            spelled.append("init_args")
        node = node.get(part) if isinstance(node, Mapping) else None
        spelled.append(part)
    return node, spelled


def _under(spelled: Sequence[str], node: dict[str, Any]) -> dict[str, Any]:
    for part in reversed(spelled):
        node = {part: node}
    return node
