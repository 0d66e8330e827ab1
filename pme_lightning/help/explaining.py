"""The ``explain`` command: what a setting does, its type, its value and where that comes from.

The words are those of the docstring of the class that takes the setting, read by the parser that checks it: nothing
here has to be kept in step with the classes.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from pme_lightning.class_path import import_class
from pme_lightning.configuration.commands import COMMANDS
from pme_lightning.configuration.composition import Composition
from pme_lightning.configuration.group_files import GROUPS, GroupFiles
from pme_lightning.configuration.keys import NULLABLE, check_key, keys_of, look_up, short_key
from pme_lightning.configuration.parser import SECTIONS
from pme_lightning.configuration.settings import Setting, setting_of_class, setting_of_key, type_in_words
from pme_lightning.errors import BadInput
from pme_lightning.help.layout import text_width, two_columns
from pme_lightning.help.listing import list_text


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
        key = short_key(key).lstrip("-")
        parts = []
        if key in COMMANDS:
            parts.append(textwrap.fill(f"{key} (a command): {COMMANDS[key]}", text_width(), subsequent_indent="  "))
        if key in GROUPS:
            parts.append(list_text(files, [key]))
        if key not in COMMANDS or key in GROUPS:
            parts += _paragraphs(key, composition, parser, config)
        explained.append("\n\n".join(parts))
    return "\n\n\n".join(explained)


def _paragraphs(key: str, composition: Composition, parser: LightningArgumentParser, config: Namespace) -> list[str]:
    """Returns paragraphs on a key: itself, and the settings below it."""
    if key == "experiment":
        return []
    values = config.as_dict()
    known = list(keys_of(values))
    if key not in known:
        check_key(key, None, set(known))
        above = key.rpartition(".")[0]
        if above in NULLABLE and values[above] is None:
            raise BadInput(
                f"explain {key}: there is no {above} (null, from {_origin(composition, [above], None)}), so nothing is "
                f"to be set of it; name one: explain {key} {above}=CHOICE"
            )
        # A key below a leaf: one entry of a mapping that the leaf holds.
        return _paragraphs(above, composition, parser, config)
    value, path = look_up(values, key)
    setting, origin = _setting(parser, values, path), _origin(composition, path, value)
    if key in SECTIONS:
        paragraphs = []
    elif "." not in key and (isinstance(value, Mapping) or key in NULLABLE):
        paragraphs = [f"now: {_shown(value)}, from {origin}"]
    else:
        paragraphs = [] if setting is None else [_paragraph(key, setting, value, origin)]
    below = [name for name in known if name.rpartition(".")[0] == key and not name.endswith(".class_path")]
    if isinstance(value, Mapping) and below:
        what = f"settings of {value['class_path'].rpartition('.')[2]}" if "class_path" in value else "settings"
        lines = [_line(parser, values, name) for name in below]
        paragraphs.append("\n".join([f"{what}, as they are now:", *lines]))
    return paragraphs


def _line(parser: LightningArgumentParser, values: Mapping[str, Any], key: str) -> str:
    value, path = look_up(values, key)
    setting = _setting(parser, values, path)
    words = f": {_first_sentence(setting.help)}" if setting is not None and setting.help else ""
    text = f"{key}={_shown(value)}{words}"
    return textwrap.fill(text, text_width(), initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)


def _paragraph(key: str, setting: Setting, value: Any, origin: str) -> str:
    facts = {"value": f"{_shown(value)}, from {origin}", "type": type_in_words(setting.type)}
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
    return "\n".join([key, words, "", *two_columns({name: text for name, text in facts.items() if text})])


# Where a key lies, who takes it, and where its value comes from.


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
            return setting_of_class(owner, ".".join(path[end + 1 :]))
    return setting_of_key(parser, ".".join(path), SECTIONS.get(path[0]) if len(path) > 1 else None)


def _origin(composition: Composition, path: Sequence[str], value: Any) -> str:
    """Returns in words where a value comes from: the last that said it."""
    short = ".".join(part for part in path if part != "init_args")
    for key, given in reversed(composition.overrides):
        if short_key(key) == short:
            return f"the command line ({key}={given})"
    for name, layer in reversed(composition.layers):
        try:
            said = _at(layer, path)
        except (KeyError, TypeError):
            continue
        said = said.get("class_path") if isinstance(said, Mapping) else said
        now = value.get("class_path") if isinstance(value, Mapping) else value
        # Files have lists where a class has tuples.
        if said == now or (isinstance(said, list) and isinstance(now, (list, tuple)) and said == list(now)):
            return name
    return "its default"


# Plain words.


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


def _classes(hint: Any) -> list[str]:
    """Returns the classes of ours that a setting may name."""
    bases = [hint] if isinstance(hint, type) else [each for each in typing.get_args(hint) if isinstance(each, type)]
    ours = [base for base in bases if base.__module__.startswith("pme_lightning.")]
    return sorted(path for base in ours for path in _subclasses(base))


def _subclasses(base: type) -> Iterator[str]:
    cls: type
    for cls in base.__subclasses__():
        yield from _subclasses(cls)
        package = cls.__module__.rpartition(".")[0]
        if not inspect.isabstract(cls) and hasattr(sys.modules.get(package), cls.__name__):
            yield f"{package}.{cls.__name__}"
