"""Dotted keys, such as ``search.budget``: which there are, where they lie in a configuration, and misspelt ones.

Users leave ``init_args`` out of a key; in a configuration it stands between a class and its arguments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pme_lightning.configuration.group_files import GROUPS
from pme_lightning.errors import BadInput, did_you_mean

# Keys that hold a class or null.
NULLABLE = ("logger", "embedding_optimizer", "averaging")


def short_key(key: str) -> str:
    """Returns a key as users write it: without ``init_args``, and without the plus that adds to a list.

    >>> short_key("search.init_args.budget"), short_key("trainer.callbacks+")
    ('search.budget', 'trainer.callbacks')
    """
    return key.replace(".init_args", "").rstrip("+")


def keys_of(config: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yields every key that can be set, short.

    >>> list(keys_of({"backbone": {"class_path": "m.Net", "init_args": {"depth": 2}}}))
    ['backbone', 'backbone.class_path', 'backbone.depth']
    """
    for key, value in config.items():
        if key == "init_args" and isinstance(value, dict):
            yield from keys_of(value, prefix)
            continue
        yield prefix + key
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{key}.")


def look_up(config: Mapping[str, Any], key: str) -> tuple[Any, list[str]]:
    """Returns what stands under a short key, ``None`` if nothing does, and the whole path to it.

    >>> look_up({"backbone": {"class_path": "m.Net", "init_args": {"depth": 2}}}, "backbone.depth")
    (2, ['backbone', 'init_args', 'depth'])
    """
    node: Any = config
    path: list[str] = []
    for part in key.split("."):
        if isinstance(node, Mapping) and part not in node and isinstance(node.get("init_args"), Mapping):
            node = node["init_args"]
            path.append("init_args")
        node = node.get(part) if isinstance(node, Mapping) else None
        path.append(part)
    return node, path


def nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    """Returns a configuration that holds one value.

    >>> nested(["search", "init_args", "budget"], 0.1)
    {'search': {'init_args': {'budget': 0.1}}}
    """
    for part in reversed(path):
        value = {part: value}
    return value


def check_key(key: str, value: str | None, known: set[str]) -> None:
    """Refuses a key that cannot be set, with the nearest that can.

    Args:
        key: The key, short or with ``init_args``.
        value: What it was to be set to; ``None`` if it was only asked about.
        known: All keys that can be set, as :func:`keys_of` yields them.

    Raises:
        BadInput: There is no such key.
    """
    short = short_key(key)
    if short in known:
        return
    above, names = short, [*known, *GROUPS]
    while above := above.rpartition(".")[0]:
        if above in known:
            names = [name for name in known if name.startswith(above + ".")]
            break
    if not names:
        # A key below a leaf goes into a mapping that the leaf holds, such as data.min_count.user=5.
        return
    given = "" if value is None else f" (={value})"
    raise BadInput(f"unknown key '{key}'{given}: {_nearest(short, names)}")


def _nearest(key: str, names: Sequence[str]) -> str:
    """Suggests one of the names, or lists those that come into question."""
    # The last word is the one that is usually misspelt: compare that first, among the keys beside it.
    head, _, last = key.rpartition(".")
    beside = [name.rpartition(".")[2] for name in names if name.rpartition(".")[0] == head]
    beside = [name for name in beside if name != "class_path"]
    hint = did_you_mean(last, beside)
    if hint.startswith("did you mean") and head:
        return hint.replace("'", f"'{head}.", 1)
    if beside and head:
        return hint
    near = did_you_mean(key, names)
    # Of all keys that there are, a screenful helps nobody.
    return near if near.startswith("did you mean") else did_you_mean(key, [name for name in names if "." not in name])
