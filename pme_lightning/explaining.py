"""The ``explain`` command: what a setting does, its type, its value and where that comes from.

The words are those of the docstring of the class that takes the setting, read by the parser that checks it: nothing
here has to be kept in step with the classes.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.cli import LightningArgumentParser

from pme_lightning.arguments import SECTIONS, check_key, keys_of
from pme_lightning.class_path import import_class
from pme_lightning.composition import COMMANDS, GROUPS, Composition, GroupFiles
from pme_lightning.errors import BadInput
from pme_lightning.listing import list_text, rows, text_width


@dataclass(frozen=True)
class Setting:
    """One thing that can be set.

    Attributes:
        owner: The class that takes it; ``None`` for what belongs to the run as a whole.
        help: Its docstring, in plain words.
        type: Its type as its class has it.
        default: Of its class; ``inspect.Parameter.empty`` if it has none.
    """

    owner: type | None
    help: str
    type: Any
    default: Any


def explain_text(
    asked: Sequence[str],
    composition: Composition,
    parser: LightningArgumentParser,
    config: Namespace,
    files: GroupFiles,
) -> str:
    """Returns what is known of keys, groups and commands.

    Args:
        asked: Which, such as ``search.budget``.
        composition: Where the values come from.
        parser: Of the whole configuration.
        config: The whole configuration.
        files: The files of the choices of groups.

    Raises:
        BadInput: Nothing was asked, or there is no such key.
    """
    if not asked:
        raise BadInput("explain what? Name a key, such as explain search.budget; --print_config shows all of them")
    explained = []
    for key in asked:
        key = key.replace(".init_args", "").lstrip("-")
        parts = []
        if key in COMMANDS:
            parts.append(textwrap.fill(f"{key} (a command): {COMMANDS[key]}", text_width(), subsequent_indent="  "))
        if key in GROUPS:
            parts.append(list_text(files, [key]))
        if key not in COMMANDS or key in GROUPS:
            parts += _about(key, composition, parser, config)
        explained.append("\n\n".join(parts))
    return "\n\n\n".join(explained)


def _about(key: str, composition: Composition, parser: LightningArgumentParser, config: Namespace) -> list[str]:
    """Returns paragraphs on a key: itself, and the settings below it."""
    if key == "experiment":
        return []
    values = config.as_dict()
    known = list(keys_of(values))
    if key not in known:
        check_key(key, None, set(known))
        # A key below a leaf: one entry of a mapping that the leaf holds.
        return _about(key.rpartition(".")[0], composition, parser, config)
    path = _whole_path(values, key)
    setting, value = _setting(parser, values, path), _at(values, path)
    origin = _origin(composition, path, value)
    if key in SECTIONS:
        paragraphs = []
    elif key in GROUPS:
        paragraphs = [f"now: {_shown(value)}, from {origin}"]
    else:
        paragraphs = [] if setting is None else [_of_one(key, setting, value, origin)]
    below = [name for name in known if name.rpartition(".")[0] == key and not name.endswith(".class_path")]
    if isinstance(value, Mapping) and below:
        what = f"settings of {value['class_path'].rpartition('.')[2]}" if "class_path" in value else "settings"
        lines = [_in_a_line(parser, values, name) for name in below]
        paragraphs.append("\n".join([f"{what}, as they are now:", *lines]))
    return paragraphs


def _in_a_line(parser: LightningArgumentParser, values: Mapping[str, Any], key: str) -> str:
    path = _whole_path(values, key)
    setting = _setting(parser, values, path)
    words = f": {_first_sentence(setting.help)}" if setting is not None and setting.help else ""
    text = f"{key}={_shown(_at(values, path))}{words}"
    return textwrap.fill(text, text_width(), initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)


def _of_one(key: str, setting: Setting, value: Any, origin: str) -> str:
    facts = {"value": f"{_shown(value)}, from {origin}", "type": _typed(setting.type)}
    if setting.default is not inspect.Parameter.empty:
        facts["default"] = _shown(setting.default) + (f" in {setting.owner.__name__}" if setting.owner else "")
    if setting.owner is not None:
        facts["belongs to"] = f"{setting.owner.__module__}.{setting.owner.__qualname__}"
    others = _classes(setting.type)
    if others:
        facts["choices"] = ", ".join(others)
    words = textwrap.fill(
        setting.help or "(its class says nothing about it)", text_width(), initial_indent="  ", subsequent_indent="  "
    )
    return "\n".join([key, words, "", *rows({name: text for name, text in facts.items() if text}, text_width())])


# Where a key lies, who takes it, and where its value comes from.


def _whole_path(values: Mapping[str, Any], key: str) -> list[str]:
    """Returns the path of a key, with the ``init_args`` that the short way of writing it leaves out."""
    path: list[str] = []
    node: Any = values
    for part in key.split("."):
        if part not in node and isinstance(node.get("init_args"), Mapping):
            path.append("init_args")
            node = node["init_args"]
        path.append(part)
        node = node.get(part)
    return path


def _at(values: Mapping[str, Any], path: Sequence[str]) -> Any:
    node: Any = values
    for part in path:
        node = node[part]
    return node


def _setting(parser: LightningArgumentParser, values: Mapping[str, Any], path: Sequence[str]) -> Setting | None:
    """Returns what is known of the setting at a path; ``None`` for what is no setting by itself."""
    for end in range(len(path) - 1, -1, -1):
        if path[end] == "init_args":
            owner = import_class(_at(values, path[:end])["class_path"])
            return _of_class(owner, ".".join(path[end + 1 :]))
    owner = SECTIONS.get(path[0]) if len(path) > 1 else None
    return _taken(parser, ".".join(path), owner)


def _of_class(owner: type, name: str) -> Setting | None:
    """Returns what is known of an argument of a class; of one below it, such as an entry of a mapping, nothing."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(owner, "of", fail_untyped=False, sub_configs=False)
    return _taken(parser, f"of.{name}", owner)


def _taken(parser: ArgumentParser, dest: str, owner: type | None) -> Setting | None:
    for action in parser._actions:
        if action.dest == dest and hasattr(action, "_typehint"):
            default = inspect.Parameter.empty if action.required else action.default
            return Setting(owner, _plain(action.help or ""), action._typehint, default)
    return None


def _origin(composition: Composition, path: Sequence[str], value: Any) -> str:
    """Returns in words where a value comes from: the last that said it."""
    short = ".".join(part for part in path if part != "init_args")
    for key, given in reversed(composition.overrides):
        if key.replace(".init_args", "").rstrip("+") == short:
            return f"the command line ({key}={given})"
    for name, layer in reversed(composition.layers):
        try:
            said = _at(layer, path)
        except (KeyError, TypeError):
            continue
        said = said.get("class_path") if isinstance(said, Mapping) else said
        now = value.get("class_path") if isinstance(value, Mapping) else value
        if said == now or (isinstance(said, (list, tuple)) and list(said) == list(now)):
            return name
    return "its default"


# Plain words.


def _plain(text: str) -> str:
    """Returns a docstring's words without its markup, and without its word on the default, which is told apart."""
    text = re.sub(r":\w+:`~?([^`]*)`", lambda found: found.group(1).rpartition(".")[2], " ".join(text.split()))
    text = re.sub(r"\s*\(?(?:Default|default):? ``[^`]*``\.?\)?", "", text)
    return re.sub(r"`{1,2}([^`]*)`{1,2}_*", r"\1", text).strip()


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.;])\s", text, maxsplit=1)[0].rstrip(".;")


def _shown(value: Any) -> str:
    """Returns a value as one would type it."""
    if isinstance(value, Mapping) and "class_path" in value:
        return str(value["class_path"])
    if isinstance(value, Mapping) and len(value) > 5:
        return "{...}"
    if isinstance(value, tuple):
        value = list(value)
    if value is None or isinstance(value, (bool, int, float, list, dict)):
        return yaml.safe_dump(value, default_flow_style=True, width=1000).partition("\n")[0]
    return str(value)


def _typed(hint: Any) -> str:
    """Returns a type in words: ``float, int or text``."""
    names = list(dict.fromkeys(_type_names(hint)))
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _type_names(hint: Any) -> Iterator[str]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for each in arguments:
            yield from _type_names(each)
    elif origin is typing.Literal:
        yield from (str(each) for each in arguments)
    elif origin is not None and arguments:
        inner = ", ".join(_typed(each) for each in arguments if each is not Ellipsis)
        yield f"{_type_name(origin)} of {inner}"
    else:
        yield _type_name(hint)


def _type_name(hint: Any) -> str:
    words = {
        str: "text",
        bool: "true or false",
        type(None): "null",
        dict: "mapping",
        tuple: "list",
        int: "whole number",
    }
    words |= {float: "number", Sequence: "list"}
    return words.get(hint, getattr(hint, "__name__", str(hint)))


def _classes(hint: Any) -> list[str]:
    """Returns the classes of ours that a setting may name."""
    bases = [hint] if isinstance(hint, type) else [each for each in typing.get_args(hint) if isinstance(each, type)]
    ours = [base for base in bases if base.__module__.startswith("pme_lightning.")]
    return sorted(path for base in ours for path in _subclasses(base))


def _subclasses(base: type) -> Iterator[str]:
    for cls in base.__subclasses__():
        yield from _subclasses(cls)
        package = cls.__module__.rpartition(".")[0]
        if not inspect.isabstract(cls) and hasattr(sys.modules.get(package), cls.__name__):
            yield f"{package}.{cls.__name__}"
