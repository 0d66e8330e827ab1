"""Lets a configuration name the same files from any folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace


def make_paths_absolute(config: Namespace) -> None:
    """Makes the paths of files in a whole configuration absolute."""
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
