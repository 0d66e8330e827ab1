"""What a class says of the settings it takes: words, types, defaults, as the parser reads them off its constructor."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jsonargparse import ArgumentParser

_TYPE_WORDS: dict[Any, str] = {
    str: "text",
    bool: "true or false",
    int: "whole number",
    float: "number",
    dict: "mapping",
    tuple: "list",
    Sequence: "list",
    type(None): "null",
}


@dataclass(frozen=True)
class Setting:
    """One thing that can be set.

    Attributes:
        owner: The class that takes it; ``None`` for what belongs to the run as a whole.
        help: What the docstring of the class says of it, without markup.
        type: Its type annotation.
        default: Its default in the class; ``inspect.Parameter.empty`` if it has none.
    """

    owner: type | None
    help: str
    type: Any
    default: Any


def setting_of_class(owner: type, name: str) -> Setting | None:
    """Returns what is known of an argument of a class; ``None`` if it is part of one, such as an entry of a mapping."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(owner, "of", fail_untyped=False, sub_configs=False)
    return setting_of_key(parser, f"of.{name}", owner)


def setting_of_key(parser: ArgumentParser, key: str, owner: type | None) -> Setting | None:
    """Returns what a parser knows of one of its keys; ``None`` where it has no such key."""
    for action in parser._actions:
        if action.dest == key and hasattr(action, "_typehint"):
            default = inspect.Parameter.empty if action.required else action.default
            return Setting(owner, _plain(action.help or ""), action._typehint, default)
    return None


def _plain(text: str) -> str:
    """Returns a docstring's words without its markup, and without its word on the default, which is told apart."""
    text = re.sub(r":\w+:`~?([^`]*)`", lambda found: found.group(1).rpartition(".")[2], " ".join(text.split()))
    text = re.sub(r"\s*\(?(?:Default|default):? ``[^`]*``\.?\)?", "", text)
    return re.sub(r"`{1,2}([^`]*)`{1,2}_*", r"\1", text).strip()


def takes_null(hint: Any) -> bool:
    """Returns whether a value of a type may be null."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(takes_null(each) for each in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        return None in typing.get_args(hint)
    # What is no class of values, such as Any, may be anything.
    return hint in (type(None), object, Any) or not isinstance(typing.get_origin(hint) or hint, type)


def type_in_words(hint: Any) -> str:
    """Returns a type in words.

    >>> type_in_words(float | int | str)
    'number, whole number or text'
    """
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
        inner = ", ".join(type_in_words(each) for each in arguments if each is not Ellipsis)
        yield f"{_type_name(origin)} of {inner}"
    else:
        yield _type_name(hint)


def _type_name(hint: Any) -> str:
    return _TYPE_WORDS.get(hint, getattr(hint, "__name__", str(hint)))
